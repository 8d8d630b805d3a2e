"""One call of the compiled kernels that takes the whole step of a perceptron at every coordinate, in place."""

import ctypes
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from l2l_opt.kernels import native

MOST_AXES = 16
"""Of a tensor that the kernels take; as in layouts.h."""


@dataclass(frozen=True)
class CompiledPerceptron:
    """A perceptron as the kernels take it, with a state as ``rules.moments`` has it.

    Attributes:
        kind: of rule, by its features, as perceptron.h names it.
        weights: of each layer weight ``[outputs, inputs]`` and bias.
        betas: ``[7]``, decays of the averages, of the squares, and of the squares by row and column: 3, 1 and 3.
        timescales: ``[times]``, of the features of the clock, of which there may be none.
        options: numbers of the rule, by their names in native/layouts.h, but for num_steps.
        factored_axes: of a shape the two longest axes, the shorter first, or None.
    """

    kind: str
    weights: Sequence[Tensor]
    betas: Tensor
    timescales: Tensor
    options: Mapping[str, float]
    factored_axes: Callable[[Sequence[int]], tuple[int, int] | None]

    # What ``CompiledStep`` states of a rule.
    moments: ClassVar[tuple[str, str]] = ("averages", "square_average")
    tensor_scalars: ClassVar[tuple[str, ...]] = ("step",)
    keeps_clock: ClassVar[bool] = True


class NativePerceptron:
    """A step in place of tensors that stay where they are, but for their gradients. What is passed in is kept alive.

    Args:
        rule: what to compute.
        params: the parameters.
        states: their states, contiguous.
        grads: gradients, of whose types and strides those of all steps must be.
        num_steps: planned steps; None where unknown.
    """

    def __init__(
        self,
        rule: CompiledPerceptron,
        params: Sequence[Tensor],
        states: Sequence[dict[str, Tensor]],
        grads: Sequence[Tensor],
        num_steps: int | None,
    ):
        self.kind = rule.kind.encode()
        shapes = [weight.shape for weight in rule.weights]
        self.numbers = torch.cat([weight.detach().float().reshape(-1) for weight in rule.weights])
        starts = [sum(math.prod(shape) for shape in shapes[:index]) for index in range(len(shapes))]
        self.weights = native.integers([self.numbers.data_ptr() + 4 * start for start in starts])
        self.betas, self.timescales = _floats(rule.betas.tolist()), _floats(rule.timescales.tolist())
        planned = {"num_steps": -1.0 if num_steps is None else float(num_steps)}
        self.options = _floats(native.in_order("perceptron.options", {**rule.options, **planned}))
        layers = {"hidden": shapes[0][0], "layers": len(shapes) // 2 - 1, "outputs": shapes[-1][0]}
        sizes = {**layers, "tensors": len(params), "threads": torch.get_num_threads()}
        self.sizes = native.integers(native.in_order("perceptron.sizes", sizes))
        self.axes = [_axes(param.shape, rule.factored_axes(param.shape)) for param in params]
        self.formats = native.Formats()
        self.table = native.tensor_table(
            "perceptron",
            [param.numel() for param in params],
            param=[_rows(param, self.formats.of(param)) for param in params],
            gradient=[(0, self.formats.of(grad), 0) for grad in grads],
            averages=[_rows(state["averages"], param.numel()) for param, state in zip(params, states, strict=True)],
            square=[_rows(state["square_average"], 0) for state in states],
            rows=[_rows(state["row_squares"], state["row_squares"][0].numel()) for state in states],
            columns=[_rows(state["column_squares"], 0) if "column_squares" in state else (0, 0, 0) for state in states],
            step=[_rows(state["step"], 0) for state in states],
            axes=[(ctypes.addressof(axes), 0, 0) for axes in self.axes],
        )
        self.kept = (list(params), [list(state.values()) for state in states])

    def run(self, gradients: Sequence[int], *, lr: float, decay: float, sign: float, guarded: bool) -> Tensor:
        """Take one step; arguments as for ``NativeStep.run``.

        Returns:
            Flags ``[tensors]``.
        """
        assert native.library is not None
        flags = torch.zeros(len(gradients), dtype=torch.uint8)
        native.point(self.table, "perceptron", "gradient", gradients)
        self.sizes[native.layouts["perceptron.sizes"].index("threads")] = torch.get_num_threads()
        update = native.in_order("update", {"lr": lr, "decay": decay, "sign": sign, "guarded": guarded})
        native.library.l2l_opt_step_perceptrons(
            self.kind,
            self.sizes,
            self.options,
            self.betas,
            self.timescales,
            self.weights,
            ctypes.c_int64(self.numbers.numel()),
            self.table,
            _floats(update),
            ctypes.c_void_p(flags.data_ptr()),
        )
        return flags


def _rows(tensor: Tensor, stride: int) -> native.Rows:
    return tensor.data_ptr(), stride, 0


def _floats(numbers: Sequence[Any]) -> "ctypes.Array[ctypes.c_float]":
    return (ctypes.c_float * max(len(numbers), 1))(*numbers)


def _axes(shape: Sequence[int], factored: tuple[int, int] | None) -> "ctypes.Array[ctypes.c_int64]":
    """Return how a tensor's rows and columns lie, as layouts.h has it; of one without them, nothing."""
    if factored is None:
        return native.integers([0])
    shorter, longer = factored
    strides, sides = [], []
    for axis in (longer, shorter):
        side = [1 if own == axis else size for own, size in enumerate(shape)]
        sides.append(side)
        strides.append([0 if own == axis else math.prod(side[own + 1 :]) for own in range(len(shape))])
    head = {
        "rank": len(shape),
        "rows": math.prod(sides[0]),
        "columns": math.prod(sides[1]),
        "longer": shape[longer],
        "shorter": shape[shorter],
        "inner": math.prod(sides[0][shorter + 1 :]),
    }
    table = native.in_order("axes", head)
    for size, row, column in zip(shape, *strides, strict=True):
        table += native.in_order("axis", {"size": size, "row_stride": row, "column_stride": column})
    return native.integers(table)
