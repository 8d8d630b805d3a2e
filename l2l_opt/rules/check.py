"""Whether a user's own rule keeps the contract, found out by one update before anything is trained."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from l2l_opt.checks import refuse_exits
from l2l_opt.rules.base import UpdateRule, call_rule
from l2l_opt.types import Params


def check_rule(rule: UpdateRule) -> UpdateRule:
    """Refuse a rule of a plugin that does not return updates and states as ``UpdateRule`` has it; returns the rule.

    Raises:
        ValueError: a method that returns anything else, or exits.
    """
    if type(rule).__module__.startswith("l2l_opt."):
        return rule
    name = rule.registry_name or type(rule).__name__
    params = {"weight": torch.ones(2, 3), "bias": torch.ones(3)}
    with torch.no_grad(), refuse_exits(f"rule {name!r}"):
        state: Any = rule.init_state(params)
        _check(_is_state(state, params), name, "init_state", state, 'name -> {"step": tensor, ...}')
        result: Any = call_rule(rule, params, state, params, num_steps=torch.tensor(10.0), loss=torch.tensor(1.0))
        both = isinstance(result, tuple) and len(result) == 2
        _check(both, name, "forward", result, "two dicts, updates and the next state")
        updates, state = result
        _check(
            _is_updates(updates, params), name, "forward", updates, "updates as parameter name -> tensor of its shape"
        )
        _check(_is_state(state, params), name, "forward", state, 'states as name -> {"step": tensor, ...}')
    return rule


def _check(right: bool, name: str, method: str, got: Any, wanted: str) -> None:
    if not right:
        leaves = [leaf for leaf in tree_leaves(got) if not isinstance(leaf, Tensor)]
        found = type(leaves[0] if leaves else got).__name__
        raise ValueError(f"{method} of rule {name!r} must return {wanted}; got {found}, see UpdateRule's docstring")


def _is_updates(updates: Any, params: Params) -> bool:
    return (
        isinstance(updates, dict)
        and updates.keys() == params.keys()
        and all(isinstance(update, Tensor) and update.shape == params[key].shape for key, update in updates.items())
    )


def _is_state(state: Any, params: Params) -> bool:
    return (
        isinstance(state, dict)
        and state.keys() == params.keys()
        and all(
            isinstance(own, dict) and "step" in own and all(isinstance(value, Tensor) for value in own.values())
            for own in state.values()
        )
    )
