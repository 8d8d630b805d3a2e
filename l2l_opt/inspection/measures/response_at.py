"""A rule's response at one state of one training run: its update for a gradient and a momentum, at that weight."""

import math

import torch
from torch import Tensor

from l2l_opt.inspection.measures.adam_reference import BETA1, BETA2, EPS
from l2l_opt.rules.base import UpdateRule

FED = 5
"""Gradients that stand for the momentum: a mean over a few steps, which rules without averages remember as well."""
MOST_NEIGHBOURS = 256
"""Coordinates of a tensor that a response is measured in; of a larger one, an even part of every axis."""


@torch.no_grad()
def response_at(
    rule: UpdateRule,
    name: str,
    gradient: Tensor,
    state: dict[str, Tensor],
    param: Tensor,
    *,
    place: int,
    momenta: Tensor,
    gradients: Tensor,
    num_steps: Tensor | None,
) -> Tensor:
    """Measure how one weight would be updated if its own gradients were others.

    From the state as it is, the weight sees five gradients of a momentum's size and then one more; its update for the
    last is returned. All else is as in the run: the other weights of its tensor keep their gradients, and what the
    rule knows of the tensor as a whole, or of a row or column, stays as it is, so that only the weight's own history
    differs.

    Args:
        rule: any.
        name: of the tensor.
        gradient: ``[*shape]``, at that step.
        state: of the rule, of this tensor, before the step; it is not changed.
        param: ``[*shape]``, before the step.
        place: flat index of the weight.
        momenta: ``[rows]``, mean gradients of the five steps.
        gradients: ``[columns]``, of the last step.
        num_steps: as the rule is given it.

    Returns:
        ``[rows, columns]``, updates.
    """
    indices, probe = _neighbourhood(gradient.shape, place)
    whole = [key for key, value in state.items() if value.shape[1:] != gradient.shape and key != "step"]
    gradient, param = _part(gradient, indices), _part(param, indices)
    state = {key: _part(value, indices, first=1) if value.dim() else value for key, value in state.items()}
    params = {name: param}

    def step(own: Tensor, before: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        flat = torch.cat([gradient.reshape(-1)[:probe], own.reshape(1), gradient.reshape(-1)[probe + 1 :]])
        updates, after = rule({name: flat.reshape(gradient.shape)}, {name: before}, params, num_steps=num_steps)
        return updates[name].reshape(-1)[probe], after[name] | {key: before[key] for key in whole}

    many = torch.func.vmap(step)
    rows, columns = momenta.numel(), gradients.numel()
    states = {key: value.expand(rows, *value.shape) for key, value in state.items()}
    for _ in range(FED):
        _, states = many(momenta, states)
    states = {key: value.repeat_interleave(columns, dim=0) for key, value in states.items()}
    updates, _ = many(gradients.repeat(rows), states)
    return updates.reshape(rows, columns)


def adam_response_at(
    m: Tensor, v: Tensor, *, steps: int, steps_of_mean: int, momenta: Tensor, gradients: Tensor
) -> Tensor:
    """Measure Adam's update at a learning rate of one where ``response_at`` measures a rule's.

    Args:
        m: 0-dim, mean of gradients before the step, as Adam keeps it.
        v: 0-dim, of their squares.
        steps: gradients in v.
        steps_of_mean: gradients in m.
        momenta: ``[rows]``.
        gradients: ``[columns]``.

    Returns:
        ``[rows, columns]``.
    """
    m, v = m.expand_as(momenta), v.expand_as(momenta)
    for _ in range(FED):
        m, v = BETA1 * m + (1 - BETA1) * momenta, BETA2 * v + (1 - BETA2) * momenta.square()
    m = BETA1 * m[:, None] + (1 - BETA1) * gradients
    v = BETA2 * v[:, None] + (1 - BETA2) * gradients.square()
    m_hat = m / (1 - BETA1 ** (steps_of_mean + FED + 1))
    return -m_hat / ((v / (1 - BETA2 ** (steps + FED + 1))).sqrt() + EPS)


def _neighbourhood(shape: torch.Size, place: int) -> tuple[list[Tensor], int]:
    """Even indices along each axis, the weight's own among them, and the weight's place in what they cut out."""
    sizes = list(shape)
    while math.prod(sizes) > MOST_NEIGHBOURS:
        largest = max(range(len(sizes)), key=sizes.__getitem__)
        sizes[largest] = (sizes[largest] + 1) // 2
    indices, probe = [], 0
    for size, length, position in zip(sizes, shape, _unravelled(place, shape), strict=True):
        own = ((position + torch.arange(size) * (length // size)) % length).sort().values
        indices.append(own)
        probe = probe * size + int((own == position).nonzero())
    return indices, probe


def _unravelled(place: int, shape: torch.Size) -> list[int]:
    positions = []
    for length in reversed(shape):
        positions.append(place % length)
        place //= length
    return positions[::-1]


def _part(tensor: Tensor, indices: list[Tensor], *, first: int = 0) -> Tensor:
    """Take the indices along each axis but those of 1, along which a state is the same everywhere."""
    for axis, own in enumerate(indices, start=first):
        tensor = tensor if tensor.shape[axis] == 1 else tensor.index_select(axis, own.to(tensor.device))
    return tensor
