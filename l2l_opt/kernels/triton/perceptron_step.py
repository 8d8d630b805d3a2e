"""The step of ``mlp`` and ``celo2`` on a GPU, in five or seven launches whatever the model: of ``perceptron``."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from l2l_opt.kernels.native_perceptron import CompiledPerceptron
from l2l_opt.kernels.triton import perceptron, perceptron_sides
from l2l_opt.kernels.triton.device_step import TYPES, DeviceStep, padded
from l2l_opt.kernels.triton.folding import Reduction
from l2l_opt.kernels.triton.perceptron_tables import Perceptron, PerceptronBuffers, PerceptronLaw, Pieces, Sides
from l2l_opt.kernels.triton.tables import Launch, Update, sent

BLOCK = 256
"""Coordinates that a program takes at a time."""
MOST_PROGRAMS = 1024
"""That run the network, of which each has memory of its own to hand rows from layer to layer."""
MOST_REGISTERS = 128
LEAST_SPAN, MOST_PIECES = 128, 64
"""Of an axis, coordinates of a piece and number of pieces."""
MOST_PLACES = 1 << 31
"""Coordinates of a tensor whose places are found in int32."""


class PerceptronStep(DeviceStep):
    """A step of a perceptron's rule, of tensors that lie here alone.

    Args:
        rule: what to compute.
        params: the parameters, contiguous, all of one dtype.
        states: their states, in float32.
        num_steps: planned steps; None where unknown.
    """

    def __init__(
        self,
        rule: CompiledPerceptron,
        params: Sequence[Tensor],
        states: Sequence[dict[str, Tensor]],
        num_steps: int | None,
    ):
        super().__init__(rule, params, states, None)
        self.kind = rule.kind
        self._take_rule(rule, num_steps)
        found = (sides_of(index, rule, *own) for index, own in enumerate(zip(params, states, strict=True)))
        self._lay_out(list(itertools.chain(*found)))

    def _take_rule(self, rule: CompiledPerceptron, num_steps: int | None) -> None:
        weights = [weight.detach().float() for weight in rule.weights]
        first, bias = weights[0].contiguous(), weights[1].contiguous()
        betas, timescales = rule.betas.detach().float(), rule.timescales.float()
        # A row for each input, so that weights of all units lie side by side.
        upper = torch.cat([weight.t().flatten() if weight.dim() > 1 else weight for weight in weights[2:]])
        times_zero = torch.cat([first.flatten(), bias, upper, betas]).sum() * 0
        self.network = Perceptron(first, bias, upper, betas, timescales, times_zero)
        (units, inputs), layers, outputs = first.shape, len(weights) // 2 - 1, len(weights[-1])
        features = inputs - len(timescales)
        planned = -1.0 if num_steps is None else float(num_steps)
        self.law = PerceptronLaw(**rule.options, num_steps=planned, features=features, units=units)
        width = perceptron.BIASES.value + units * (1 + features)
        place = tl.int32 if max(param.numel() for param in self.params) < MOST_PLACES else tl.int64
        dtype = TYPES[self.params[0].dtype]
        self.sizes = (features, inputs, units, layers, outputs, dtype, place, width, BLOCK, padded(units))

    def _lay_out(self, sides: Sequence[dict[str, int]]) -> None:
        """Make tables of sides, cut up the work on them, and give them room."""
        counts, pieces, groups = ([side[key] for side in sides] for key in ("number", "pieces", "groups"))
        partial = [0, *itertools.accumulate(a * b for a, b in zip(counts, pieces, strict=True))]
        following = [0, *itertools.accumulate(6 * count for count in counts)]
        starts = {"partial": partial[:-1], "following": following[:-1]}
        columns = {key: starts.get(key) or [side[key] for side in sides] for key in Sides._fields}
        table = sent(list(itertools.chain(*columns.values())), self.device).reshape(len(columns), -1)
        self.sides = Sides(*table)
        blocks = [-(-count // perceptron_sides.ACROSS.value) for count in counts]
        self.summed = Pieces.of(blocks, pieces, self.device)
        across = [number or block for number, block in zip(groups, blocks, strict=True)]
        self.averaged = Pieces.of(across, [1] * len(across), self.device)
        few, many = len(self.params), self.num_chunks
        self.programs = min(many, MOST_PROGRAMS)
        self.buffers = PerceptronBuffers(
            partial=torch.empty(partial[-1], device=self.device),
            following=torch.empty(following[-1], device=self.device),
            sums=torch.zeros(many, perceptron.LANES.value, device=self.device),
            squares=torch.zeros(many, device=self.device),
            heads=torch.zeros(few, self.sizes[7], device=self.device),
            marks=torch.zeros(few, dtype=torch.int32, device=self.device),
            scratch=torch.empty(self.programs * perceptron.LANES.value * BLOCK, device=self.device),
        )

    def launches(self, update: Update, *, guarded: bool) -> list[Launch | Reduction]:
        """Return what is launched for a step, in order."""
        tables: dict[str, Any] = {"tensors": self.tensors, "buffers": self.buffers}
        sides, chunks, law = {"sides": self.sides}, {"chunks": self.chunks}, {"law": self.law}
        rule, change, points = {"rule": self.network}, {"update": update}, self.kind == "celo2"
        sizes, guard = {"kind": self.kind, "sizes": self.sizes}, {"guarded": guarded}
        coordinates = tables | sides | chunks | law | rule | change
        few = len(self.params)

        def on_coordinates(kernel: Any, programs: int, constants: dict[str, Any]) -> Launch:
            return Launch(kernel, programs, coordinates, constants, num_warps=8, most_registers=MOST_REGISTERS)

        squares = {"clips": points, "dtype": TYPES[self.params[0].dtype]}
        summed, averaged = {"pieces": self.summed}, {"pieces": self.averaged, "buffers": self.buffers}
        relative = [
            on_coordinates(perceptron.directions_kernel, self.programs, sizes),
            Launch(perceptron.size_kernel, few, tables | chunks | law, {"width": self.sizes[7]}),
        ]
        return [
            Launch(
                perceptron_sides.sides_kernel, len(self.summed.side), tables | sides | summed | law | change, squares
            ),
            Launch(perceptron_sides.following_kernel, len(self.averaged.side), averaged | sides | rule, {}),
            on_coordinates(perceptron.sums_kernel, self.num_chunks, sizes),
            Launch(perceptron.tensor_kernel, few, tables | chunks | law | rule, sizes | guard),
            *(relative if points else []),
            on_coordinates(perceptron.update_kernel, self.programs, sizes | guard),
        ]


def sides_of(
    index: int, rule: CompiledPerceptron, param: Tensor, state: dict[str, Tensor]
) -> tuple[dict[str, int], dict[str, int]]:
    """Return what ``Sides`` has of a tensor's rows and of its columns, and groups of rows along the shorter axis."""
    none = {"tensor": index, "length": 1, "stride": 1, "number": 0, "inner": 1, "span": 1, "pieces": 0, "groups": 0}
    axes = rule.factored_axes(param.shape) if param.numel() else None
    if axes is None:
        alone = {"length": max(param.numel(), 1), "state": state["row_squares"].data_ptr()}
        return none | alone, none | {"state": 0}
    shorter, longer = axes

    def side(axis: int, key: str) -> dict[str, int]:
        length, stride = param.shape[axis], math.prod(param.shape[axis + 1 :])
        span = max(LEAST_SPAN, -(-length // MOST_PIECES))
        own = {"length": length, "stride": stride, "number": param.numel() // length, "state": state[key].data_ptr()}
        return none | own | {"span": span, "pieces": -(-length // span)}

    rows, columns = side(longer, "row_squares"), side(shorter, "column_squares")
    inner = columns["stride"] // (rows["length"] if longer > shorter else 1)
    return rows | {"inner": inner, "groups": rows["number"] // columns["length"]}, columns
