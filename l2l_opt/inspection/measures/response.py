"""A rule's response surface: its update for a gradient, after a history of gradients."""

from dataclasses import dataclass

import torch
from torch import Tensor

from l2l_opt.rules.base import UpdateRule

HISTORY = 20
REACH = 3.0
POINTS = 41


@dataclass(frozen=True)
class ResponseSurface:
    """Updates of a grid of coordinates that differ in their past and present gradients alone.

    Attributes:
        past: ``[rows]``, the mean gradient of the history.
        present: ``[columns]``, the last gradient.
        updates: ``[rows, columns]``.
        noise: deviation of the gradients of the history around their mean.
        history: their number.
    """

    past: Tensor
    present: Tensor
    updates: Tensor
    noise: float
    history: int


@torch.no_grad()
def response_surface(
    rule: UpdateRule,
    *,
    noise: float = 0.0,
    history: int = HISTORY,
    reach: float = REACH,
    points: int = POINTS,
    planned_steps: int | None = None,
    param: float = 0.1,
    seed: int = 0,
) -> ResponseSurface:
    """Ask a rule for its update of a vector of ``points x points`` coordinates, all at the same place.

    Coordinate (i, j) has seen ``history`` gradients around ``past[i]``, and now sees ``present[j]``; the parameters do
    not move meanwhile, so that nothing but gradients distinguishes coordinates.

    Args:
        rule: any.
        noise: deviation of past gradients around their mean, the same draws for every coordinate.
        history: gradients before the last.
        reach: largest magnitude of past and present gradients, in the gradient's own unit.
        points: of the grid, along each axis; an odd number has nothing in its middle.
        planned_steps: the number of steps that the rule is given; twice the history where None.
        param: value of every coordinate.
        seed: of the noise.

    Raises:
        ValueError: a history or grid of no length.
    """
    if history < 1 or points < 2:
        raise ValueError(
            f"history must be at least 1 and points at least 2; got {history} and {points}, use e.g. 20 and 41"
        )
    weight = next(rule.parameters(), torch.zeros(()))
    axis = torch.linspace(-reach, reach, points, dtype=weight.dtype, device=weight.device)
    past, present = (grid.flatten() for grid in torch.meshgrid(axis, axis, indexing="ij"))
    params = {"grid": torch.full_like(past, param)}
    planned = torch.tensor(float(2 * history if planned_steps is None else planned_steps), device=weight.device)
    draws = torch.randn(history, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()
    state = rule.init_state(params)
    for draw in draws:
        _, state = rule({"grid": past + noise * draw}, state, params, num_steps=planned)
    updates, _ = rule({"grid": present}, state, params, num_steps=planned)
    return ResponseSurface(axis.cpu(), axis.cpu(), updates["grid"].reshape(points, points).cpu(), noise, history)
