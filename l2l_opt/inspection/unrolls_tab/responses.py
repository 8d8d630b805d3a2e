"""Responses of the rule, and of Adam, at the very state of a step: one weight of some tensors of an unroll."""

import time
from collections.abc import Mapping

import torch
from torch import Tensor

from l2l_opt.inspection.measures.adam_reference import BETA1, BETA2, AdamReference
from l2l_opt.inspection.measures.optimizer_state import RuleInputs, rule_inputs
from l2l_opt.inspection.measures.response_at import adam_response_at, response_at
from l2l_opt.inspection.unrolls_tab.records import TensorEntry
from l2l_opt.optimizer.learned_optimizer import LearnedOptimizer

POINTS = 11
"""Of the grid, along each axis: momenta are rows, gradients columns."""
REACH = 3.0
"""Of the grid, in usual gradients of the weight."""
MOST_TENSORS = 24
"""Of an unroll; evenly chosen where there are more."""


def measure_responses(
    optimizer: torch.optim.Optimizer,
    adam: AdamReference,
    entries: Mapping[str, TensorEntry],
    *,
    fresh: bool = False,
    seconds: float = float("inf"),
) -> dict[str, tuple[tuple[float, ...], Tensor]]:
    """Measure the responses of one weight of each tensor before a step.

    Args:
        optimizer: before its step; the rule's rows are NaN for one that is no ``LearnedOptimizer``.
        adam: what Adam has seen so far.
        entries: the tensors' records, by name.
        fresh: at the state before a first step instead.
        seconds: after which no further tensor is begun.

    Returns:
        By name the reach, the gradient and the momentum, and ``[2, POINTS, POINTS]``: the rule's and Adam's.
    """
    begun = time.perf_counter()
    with_weights = [name for name, entry in entries.items() if entry.sampled]
    chosen = set(with_weights[:: -(-len(with_weights) // MOST_TENSORS) or 1])
    found: dict[str, tuple[tuple[float, ...], Tensor]] = {}
    if not isinstance(optimizer, LearnedOptimizer):
        return found
    for name, inputs in rule_inputs(optimizer, fresh=fresh):
        if time.perf_counter() - begun > seconds:
            break
        if name in chosen:
            found[name] = _responses_of(optimizer, adam, name, inputs, entries[name], fresh=fresh)
    return found


def _responses_of(
    optimizer: LearnedOptimizer, adam: AdamReference, name: str, inputs: RuleInputs, entry: TensorEntry, *, fresh: bool
) -> tuple[tuple[float, ...], Tensor]:
    place = entry.sampled[entry.probe]
    gradient = float(inputs.gradient.reshape(-1)[place])
    m, v, steps, steps_of_mean = _moments(adam, name, place, like=inputs.gradient, fresh=fresh)
    momentum = float(m) / (1 - BETA1**steps_of_mean) if steps_of_mean else 0.0
    usual = (float(v) / (1 - BETA2**steps)) ** 0.5 if steps else abs(gradient)
    reach = REACH * (usual or float(inputs.gradient.square().mean().sqrt()) or 1.0)
    axis = torch.linspace(-reach, reach, POINTS, dtype=inputs.gradient.dtype, device=inputs.gradient.device)
    rule = response_at(
        optimizer.rule,
        name,
        inputs.gradient,
        inputs.state,
        inputs.param,
        place=place,
        momenta=axis,
        gradients=axis,
        num_steps=inputs.num_steps,
    )
    of_adam = adam_response_at(m, v, steps=steps, steps_of_mean=steps_of_mean, momenta=axis, gradients=axis)
    return (reach, gradient, momentum), torch.stack([rule, of_adam]).float()


def _moments(
    adam: AdamReference, name: str, place: int, *, like: Tensor, fresh: bool
) -> tuple[Tensor, Tensor, int, int]:
    if fresh or name not in adam.moments:
        return like.new_zeros(()), like.new_zeros(()), 0, 0
    m, v = adam.moments[name][:, place // adam.strides[name]].to(like.dtype)
    return m, v, adam.steps[name], adam.steps_of_stretch[name]
