"""What an optimizer is about to do: its parameters, and what a learned rule is given of each."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from l2l_opt.optimizer import sharding
from l2l_opt.optimizer.learned_optimizer import LearnedOptimizer
from l2l_opt.optimizer.local_parameters import BOOKKEEPING, fresh_state, in_precision, plain, widened


class RuleInputs(NamedTuple):
    """What a rule is given of one tensor in the coming step.

    Attributes:
        gradient: downhill, ``[*shape]``.
        state: of the rule, before the step.
        param: ``[*shape]``, before the step.
        num_steps: planned steps, 0-dim; None where unknown.
    """

    gradient: Tensor
    state: dict[str, Tensor]
    param: Tensor
    num_steps: Tensor | None


def named_parameters(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """Names of an optimizer's parameters (``group.index`` where they have none) and the parameters."""
    for number, group in enumerate(optimizer.param_groups):
        names = group.get("param_names") or [f"{number}.{index}" for index in range(len(group["params"]))]
        yield from zip(names, group["params"], strict=True)


def recurrent_states(optimizer: torch.optim.Optimizer, p: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Of a learned rule the recurrent states of a parameter as far as they lie here: ``[units, *shape]``, axes of 1."""
    if isinstance(optimizer, LearnedOptimizer):
        own = optimizer.state[p]
        yield from ((key, sharding.local(own[key])) for key in optimizer.rule.recurrent_state if key in own)


def at_coordinates(state: Tensor, shape: torch.Size, indices: Tensor) -> Tensor:
    """Features ``[features, indices]`` at flat indices of a tensor of a shape, of a state whose axes may be of 1.

    Args:
        state: ``[features, *shape]``, of which an axis may be 1, along which it is the same everywhere.
        shape: of the parameter.
        indices: flat, of the parameter.
    """
    if state.shape[1:] == shape:
        return state.flatten(1)[:, indices]
    places = torch.unravel_index(indices, shape)
    return state[(slice(None), *(own.clamp(max=size - 1) for own, size in zip(places, state.shape[1:], strict=True)))]


def rule_inputs(optimizer: LearnedOptimizer, *, fresh: bool = False) -> Iterator[tuple[str, RuleInputs]]:
    """Of each whole tensor that is about to be moved, what the rule is given of it.

    Args:
        optimizer: before its step.
        fresh: with the state before a first step, whatever the state is.
    """
    names = iter(named_parameters(optimizer))
    for group in optimizer.param_groups:
        planned = group["num_steps"]
        for _ in group["params"]:
            name, p = next(names)
            own = optimizer.state.get(p, {})
            if p.grad is None or p.grad.layout != torch.strided or sharding.shards_of(p) is not None:
                continue
            if fresh or not own:
                own = fresh_state(optimizer.rule.to(p.device), name, p, state_dtype=None)
            value = widened(plain(p))
            state = {
                key: in_precision(optimizer.rule, key, kept, value.dtype)
                for key, kept in own.items()
                if key not in BOOKKEEPING
            }
            num_steps = None if planned is None else torch.tensor(float(planned), device=value.device)
            gradient = widened(plain(p.grad)) * (-1.0 if group["maximize"] else 1.0)
            yield name, RuleInputs(gradient, state, value, num_steps)
