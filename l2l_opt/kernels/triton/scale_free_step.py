"""The step of the ``scale-free`` rule on a GPU: kernels of ``scale_free`` and ``scale_free_tensor``, and whitening."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l2l_opt.kernels.compiled_step import CompiledStep
from l2l_opt.kernels.triton import scale_free, scale_free_tensor
from l2l_opt.kernels.triton.device_step import TYPES, DeviceStep, padded
from l2l_opt.kernels.triton.tables import (
    SCALAR_KEYS,
    Body,
    Chunks,
    Launch,
    Law,
    Own,
    Phi,
    Scalars,
    ScaleFreeBuffers,
    Update,
    sent,
)
from l2l_opt.kernels.triton.whitening import mixed_whitening

BLOCK = 128
"""Coordinates of which a program keeps all in registers."""
MOST_REGISTERS = 128


class Shape(NamedTuple):
    """Matrices of one shape.

    Attributes:
        tensors: which they are.
        chunks: theirs.
        directions: ``[matrices, rows, columns]``, where kernels leave them.
    """

    tensors: slice
    chunks: Chunks
    directions: Tensor


class ScaleFreeStep(DeviceStep):
    """A step of a rule of the kind ``scale_free``; matrices lie in the order of their shapes, then vectors.

    Args:
        rule: what to compute.
        params: the parameters, contiguous, all of one dtype.
        states: their states.
        num_steps: planned steps; None where unknown.
    """

    def __init__(
        self,
        rule: CompiledStep,
        params: Sequence[Tensor],
        states: Sequence[dict[str, Tensor]],
        num_steps: int | None,
    ):
        given = [rule.given(state, num_steps) for state in states]
        rows = [int(own["rows"]) for own in given]
        columns = [param.numel() // max(count, 1) for param, count in zip(params, rows, strict=True)]

        def place(index: int) -> tuple[int, int, int]:
            shorter = min(rows[index], columns[index])
            return (shorter, rows[index], columns[index]) if rows[index] else (1 << 62, 0, 0)

        self.order = sorted(range(len(params)), key=place)
        super().__init__(rule, [params[index] for index in self.order], [states[index] for index in self.order])
        self._take_rule(num_steps)
        self._lay_out([(rows[index], columns[index]) for index in self.order])
        scalars = [[state.data_ptr() for state in (states[index][key] for index in self.order)] for key in SCALAR_KEYS]
        self.scalars = Scalars(*sent(list(itertools.chain(*scalars)), self.device).reshape(len(scalars), -1))
        natural = torch.tensor([float(given[index]["natural_size"]) for index in self.order])
        self.own = self.own._replace(natural_size=natural.to(self.device, non_blocking=True))

    def _take_rule(self, num_steps: int | None) -> None:
        arrays = dict(self.rule.arrays)
        betas = [float(beta) for beta in arrays.pop("betas")]  # pyright: ignore[reportArgumentType]
        self.newton_schulz: Any = arrays.pop("newton_schulz")
        tensors = {key: torch.as_tensor(value).detach().float().contiguous() for key, value in arrays.items()}
        weight_input, weight_hidden, readout = [weight.detach().float() for weight in self.rule.weights]
        self.units, num_biases = readout.shape[1], 4 * readout.shape[1] + readout.shape[0]
        self.phi = Phi(**tensors)
        self.body = Body(
            torch.cat([weight_input.flatten(), weight_hidden.flatten()]), self.phi.biases, readout.contiguous()
        )
        options = self.rule.options
        self.law = Law(
            **options,
            betas=tuple(betas),
            log_betas=tuple(map(math.log, betas)),
            log_fast_beta=math.log(options["fast_beta"]),
            log_slow_beta=math.log(options["slow_beta"]),
            num_steps=-1.0 if num_steps is None else float(num_steps),
        )
        tensor_units, length = int(options["units"]), padded(num_biases + 3)
        self.width = scale_free.BIASES.value + length
        self.sizes = (tensor_units, padded(tensor_units), num_biases, length, self.width)
        self.buffers = ScaleFreeBuffers(
            squares=torch.empty(self.num_chunks, device=self.device),
            sums=torch.empty(scale_free.NUM_SUMS.value, self.num_chunks, device=self.device),
            heads=torch.zeros(len(self.params), self.width, device=self.device),
            marks=torch.zeros(len(self.params), dtype=torch.int32, device=self.device),
        )

    def _lay_out(self, shapes: Sequence[tuple[int, int]]) -> None:
        """Give matrices room for their directions, those of one shape together."""
        counts = [param.numel() if rows else 0 for param, (rows, _) in zip(self.params, shapes, strict=True)]
        starts = [0, *itertools.accumulate(counts)]
        room = torch.empty(starts[-1], device=self.device)
        base = room.data_ptr()
        scale = self.rule.options["whitened_rms"]
        evens = [scale * max(shape) ** 0.5 if shape[0] else 0.0 for shape in shapes]
        self.own = Own(
            direction=sent([base + 4 * start for start in starts[:-1]], self.device),
            is_matrix=sent([int(rows > 0) for rows, _ in shapes], self.device),
            natural_size=torch.empty(0),
            even_scale=torch.tensor(evens).to(self.device, non_blocking=True),
        )
        self.batches: dict[int, list[Shape]] = {}
        for shape, found in itertools.groupby(range(len(shapes)), key=shapes.__getitem__):
            if not shape[0]:
                continue
            indices = list(found)
            own, behind = slice(indices[0], indices[-1] + 1), indices[-1] + 1
            directions = room[starts[own.start] : starts[behind]].reshape(len(indices), *shape)
            part = slice(self.first_chunks[own.start], self.first_chunks[behind])
            chunks = self.chunks._replace(tensor=self.chunks.tensor[part], start=self.chunks.start[part])
            self.batches.setdefault(min(shape), []).append(Shape(own, chunks, directions))

    def __call__(self, grads: Sequence[Tensor], *, lr: float, decay: float, sign: float, guarded: bool) -> list[int]:
        ordered = [grads[index] for index in self.order]
        return super().__call__(ordered, lr=lr, decay=decay, sign=sign, guarded=guarded)

    def launches(self, update: Update, *, guarded: bool) -> list[Launch]:
        """Return what is launched before matrices are whitened, in order."""
        dtype, averages = TYPES[self.params[0].dtype], TYPES[self.averages_dtype]
        tables = {"chunks": self.chunks, "tensors": self.tensors, "buffers": self.buffers}
        law, own, change = {"law": self.law}, {"own": self.own}, {"update": update}
        scalars, width, guard = {"scalars": self.scalars}, {"width": self.width}, {"guarded": guarded}
        sizes = {"sizes": (self.units, self.width, BLOCK, dtype, TYPES[self.state_dtype], self.remembers, averages)}
        many, few = self.num_chunks, len(self.params)
        tensor = tables | scalars | own | law | change | {"phi": self.phi}
        coordinates = tables | own | law | change | {"body": self.body}
        return [
            Launch(scale_free.squares_kernel, many, tables, {"dtype": dtype}),
            Launch(scale_free.begin_kernel, few, tables | scalars | law, width),
            Launch(
                scale_free.sums_kernel,
                many,
                tables | law | change,
                width | {"param_type": dtype, "averages_type": averages},
            ),
            Launch(scale_free_tensor.tensor_kernel, few, tensor, {"sizes": self.sizes} | guard),
            Launch(scale_free.coordinates_kernel, many, coordinates, sizes | guard, most_registers=MOST_REGISTERS),
        ]

    def apply(self, shape: Shape, changes: Tensor, update: Update, *, guarded: bool) -> Launch:
        """Return what adds changes, as their directions lie, to the matrices of one shape."""
        arguments = {"chunks": shape.chunks, "tensors": self.tensors, "buffers": self.buffers}
        return Launch(
            scale_free.apply_kernel,
            shape.chunks.tensor.numel(),
            arguments | {"changes": changes, "update": update},
            {"width": self.width, "dtype": TYPES[self.params[0].dtype], "guarded": guarded},
        )

    def run(self, update: Update, *, guarded: bool) -> None:
        super().run(update, guarded=guarded)
        even, plain = self.buffers.heads[:, scale_free.EVEN.value], self.buffers.heads[:, scale_free.PLAIN.value]
        for shapes in self.batches.values():
            # Shapes of one shorter side lie one after the other.
            own = slice(shapes[0].tensors.start, shapes[-1].tensors.stop)
            directions = [shape.directions for shape in shapes]
            mixes = mixed_whitening(directions, even[own], plain[own], self.newton_schulz)
            for shape, mix in zip(shapes, mixes, strict=True):
                rows, columns = shape.directions.shape[1:]
                left, right = (mix, shape.directions) if rows <= columns else (shape.directions, mix)
                self.apply(shape, torch.bmm(left, right), update, guarded=guarded).run()
