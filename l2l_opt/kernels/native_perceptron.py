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
        weights: of each layer weight ``[outputs, inputs]`` and bias; of P particles that have weights of their own,
            each ``[P, ...]``.
        betas: ``[7]``, decays of the averages, of the squares, and of the squares by row and column: 3, 1 and 3; with
            an axis P where weights have one.
        timescales: ``[times]``, of the features of the clock, of which there may be none.
        options: numbers of the rule, by their names in native/layouts.h.
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
        params: the parameters; of P particles ``[P, ...]``, contiguous in float32.
        states: their states, contiguous.
        grads: gradients, of whose types and strides those of all steps must be.
        num_steps: planned steps; None where unknown; of P particles ``[P]``.
        particles: P; None for parameters that have no such axis.
    """

    def __init__(
        self,
        rule: CompiledPerceptron,
        params: Sequence[Tensor],
        states: Sequence[dict[str, Tensor]],
        grads: Sequence[Tensor],
        num_steps: Any,
        particles: int | None = None,
    ):
        self.kind, self.num_particles, self.axis = rule.kind.encode(), particles or 1, 0 if particles is None else 1
        sets = rule.weights[-1].shape[0] if rule.weights[-1].dim() == 2 else 1
        self.numbers, starts = native.join([weight.detach().float().reshape(sets, -1) for weight in rule.weights])
        self.weights = native.integers([self.numbers.data_ptr() + 4 * start for start in starts])
        self.betas = _floats(rule.betas.expand(sets, -1).reshape(-1).tolist())
        self.timescales = _floats(rule.timescales.tolist())
        planned = torch.as_tensor(-1.0 if num_steps is None else num_steps).expand(self.num_particles)
        self.num_steps = _floats(planned.tolist())
        self.options = _floats(native.in_order("perceptron.options", rule.options))
        sizes = {"hidden": rule.weights[1].shape[-1], "outputs": rule.weights[-1].shape[-1], "sets": sets}
        sizes |= {
            "layers": len(rule.weights) // 2 - 1,
            "numbers": self.numbers.shape[1],
            "particles": self.num_particles,
        }
        sizes |= {"tensors": len(params), "threads": torch.get_num_threads()}
        self.sizes = native.integers(native.in_order("perceptron.sizes", sizes))
        shapes = [param.shape[self.axis :] for param in params]
        self.axes = [_axes(shape, rule.factored_axes(shape)) for shape in shapes]
        self.formats = native.Formats()
        counts = [shape.numel() for shape in shapes]

        def rows_of(key: str) -> list[native.Rows]:
            return [self._rows(state[key]) if key in state else native.NOWHERE for state in states]

        self.table = native.tensor_table(
            "perceptron",
            counts,
            param=[(p.data_ptr(), self.formats.of(p), count) for p, count in zip(params, counts, strict=True)],
            gradient=[(0, self.formats.of(grad), count) for grad, count in zip(grads, counts, strict=True)],
            averages=rows_of("averages"),
            square=rows_of("square_average"),
            rows=rows_of("row_squares"),
            columns=rows_of("column_squares"),
            step=rows_of("step"),
            axes=[(ctypes.addressof(axes), 0, 0) for axes in self.axes],
        )
        self.kept = (list(params), [list(state.values()) for state in states])

    def _rows(self, tensor: Tensor) -> native.Rows:
        """Where contiguous ``[particles, averages, *shape]`` lie, or a clock of each particle."""
        of_particle = tensor.numel() // self.num_particles
        averages = tensor.shape[self.axis] if tensor.dim() > self.axis else 1
        return tensor.data_ptr(), of_particle // averages, of_particle

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
            self.num_steps,
            self.weights,
            self.table,
            _floats(update),
            ctypes.c_void_p(flags.data_ptr()),
        )
        return flags


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
