"""Moments of gradients that perceptrons read: averages, mean squares, and mean squares by row and by column."""

import abc
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from l2l_opt.rules.base import UpdateRule, initial_step
from l2l_opt.rules.features import moving_average
from l2l_opt.rules.sharded_sums import shard_sum, whole_shape
from l2l_opt.types import Params, RuleState

AVERAGE_BETAS = (0.9, 0.99, 0.999)
FACTORED_BETAS = (0.9, 0.99, 0.999)
LEAST_SQUARE = 1e-30
"""Added to squared gradients before rows and columns average them."""
LEAST_MEAN = 1e-9
"""Below which a mean square is taken for this, where it is divided by."""


class Decays(NamedTuple):
    """Decays of the moments, each ``[number of averages]``.

    Attributes:
        averages: of gradients.
        square: of their squares, one.
        factored: of the mean squares by row and column.
    """

    averages: Tensor
    square: Tensor
    factored: Tensor

    @classmethod
    def of(cls, betas: Tensor) -> "Decays":
        """Take them from one tensor that has one after the other."""
        return cls(*betas.split([len(AVERAGE_BETAS), 1, len(FACTORED_BETAS)]))


def factored_axes(shape: Sequence[int]) -> tuple[int, int] | None:
    """Return the two longest axes, the shorter of the two first; None of a vector or a scalar.

    Of axes that are equally long the last counts as the longest.
    """
    if len(shape) < 2:
        return None
    order = sorted(range(len(shape)), key=lambda axis: shape[axis])
    return order[-2], order[-1]


def init_moments(param: Tensor) -> dict[str, Tensor]:
    """Return the moments before the first gradient.

    Args:
        param: ``[*shape]``; of a sharded one, this device's rows.

    Returns:
        ``averages`` ``[3, *shape]`` and ``square_average`` ``[1, *shape]``; ``row_squares``, ``[3, *shape]`` with 1 for
        the longest axis, and ``column_squares``, with 1 for the next; of a vector or a scalar ``row_squares`` alone,
        ``[3, *shape]``.
    """
    axes = factored_axes(whole_shape(param))
    state = {
        "averages": param.new_zeros(len(AVERAGE_BETAS), *param.shape),
        "square_average": param.new_zeros(1, *param.shape),
    }
    rows = param.new_zeros(len(FACTORED_BETAS), *param.shape)
    if axes is None:
        return state | {"row_squares": rows}
    shorter, longer = axes
    return state | {"row_squares": _first(rows, longer), "column_squares": _first(rows, shorter)}


def next_moments(gradient: Tensor, state: dict[str, Tensor], decays: Decays) -> dict[str, Tensor]:
    """Take in a gradient.

    Args:
        gradient: ``[*shape]``.
        state: as ``init_moments`` or the last call returned it, other entries perhaps among it.
        decays: of the moments.

    Returns:
        The moments after it. Nothing corrects for their start at zero.
    """
    averages, square, factored = (_along_features(beta.to(gradient.dtype), gradient) for beta in decays)
    squared = gradient * gradient
    moments = {
        "averages": moving_average(state["averages"], gradient, beta=averages),
        "square_average": moving_average(state["square_average"], squared, beta=square),
    }
    squared, shape = (squared + LEAST_SQUARE).unsqueeze(0), whole_shape(gradient)
    axes = factored_axes(shape)
    if axes is None:
        return moments | {"row_squares": moving_average(state["row_squares"], squared, beta=factored)}
    shorter, longer = axes
    rows, columns = axis_mean(squared, longer, shape), axis_mean(squared, shorter, shape)
    return moments | {
        "row_squares": moving_average(state["row_squares"], rows, beta=factored),
        "column_squares": moving_average(state["column_squares"], columns, beta=factored),
    }


def moment_features(gradient: Tensor, param: Tensor, moments: dict[str, Tensor], *, eps: float) -> Params:
    """Return what a gradient, a parameter and the moments show, by name, each ``[features, *shape]``.

    With r = (v + eps)^-1/2, R the mean squares by row, C by column and F = (R / mean(R))^-1/2 C^-1/2:

        gradient g, param p, averages m (3), square v, scaled_averages m r (3), over_root r, factored_gradient g F (3),
        rows R (3), columns C (3), over_rows (R + 1e-8)^-1/2 (3), over_columns (C + 1e-8)^-1/2 (3),
        factored_averages m F (3)

    Of a vector or a scalar R and C are both mean squares of each coordinate, and F is one over their root.

    Args:
        gradient: ``[*shape]``.
        param: likewise.
        moments: that have taken in the gradient.
        eps: added to v, in the unit of squared gradients.
    """
    averages, square, rows = moments["averages"], moments["square_average"], moments["row_squares"]
    over_root = (square + eps).rsqrt()
    axes, shape = factored_axes(whole_shape(gradient)), averages.shape
    if axes is None:
        columns = rows
        of_gradient, of_averages = (rows + LEAST_MEAN).rsqrt(), (rows + 1e-6).rsqrt()
    else:
        columns = moments["column_squares"]
        share = rows / (axis_mean(rows, axes[0], whole_shape(gradient)) + LEAST_MEAN)
        of_gradient = share.clamp(min=LEAST_MEAN).rsqrt() * columns.clamp(min=LEAST_MEAN).rsqrt()
        of_averages = of_gradient
    return {
        "gradient": gradient.unsqueeze(0),
        "param": param.unsqueeze(0),
        "averages": averages,
        "square": square,
        "scaled_averages": averages * over_root,
        "over_root": over_root,
        "factored_gradient": gradient * of_gradient,
        "rows": rows.expand(shape),
        "columns": columns.expand(shape),
        "over_rows": (rows + 1e-8).rsqrt().expand(shape),
        "over_columns": (columns + 1e-8).rsqrt().expand(shape),
        "factored_averages": averages * of_averages,
    }


def axis_mean(value: Tensor, axis: int, shape: Sequence[int]) -> Tensor:
    """Return the mean along an axis of the parameter, which stays, as 1.

    Args:
        value: ``[features, *shape]``; of a sharded parameter, this device's rows.
        axis: of ``shape``.
        shape: of the whole parameter.
    """
    total = value.sum(axis + 1, keepdim=True)
    # Rows lie on several devices; what is summed over another axis lies here.
    total = shard_sum(total) if axis == 0 else total
    return total / max(shape[axis], 1)


def _first(value: Tensor, axis: int) -> Tensor:
    """``[features, *shape]`` of zeros with 1 for an axis, for an empty one too."""
    shape = list(value.shape)
    shape[axis + 1] = 1
    return value.new_zeros(shape)


def _along_features(beta: Tensor, like: Tensor) -> Tensor:
    return beta.reshape(-1, *[1] * like.dim())


class MomentRule(UpdateRule):
    """A rule that keeps these moments of each tensor and a clock, and reads one tensor at a time."""

    reads_whole_tensors = True
    divides_rows_only = True
    recurrent_state = ()

    def init_state(self, params: Params) -> RuleState:
        return {name: {"step": initial_step(param)} | init_moments(param) for name, param in params.items()}

    @abc.abstractmethod
    def update(
        self, gradient: Tensor, param: Tensor, state: dict[str, Tensor], num_steps: Tensor | None
    ) -> tuple[Tensor, Params]:
        """Return the update of one tensor, of any shape with its coordinates in order, and its next moments.

        Args:
            gradient: ``[*shape]``.
            param: ``[*shape]``.
            state: its moments and ``step``.
            num_steps: 0-dim, planned updates; None where unknown.
        """

    def forward(
        self, grads: Params, state: RuleState, params: Params, *, num_steps: Tensor | None = None
    ) -> tuple[Params, RuleState]:
        updates: Params = {}
        next_state: RuleState = {}
        for name, gradient in grads.items():
            update, moments = self.update(gradient, params[name], state[name], num_steps)
            updates[name] = update.reshape(gradient.shape)
            next_state[name] = {"step": state[name]["step"] + 1} | moments
        return updates, next_state
