"""One step of a group by the optimizer's rule: states of new parameters begin, and what stays in its place is kept."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from l2l_opt.kernels import triton
from l2l_opt.optimizer.local_parameters import (
    BOOKKEEPING,
    LocalParameter,
    buckets_of,
    check_placement,
    fresh_meta_state,
    fresh_state,
    local_parameter,
    order_for,
)
from l2l_opt.optimizer.prepared import PreparedCall
from l2l_opt.optimizer.stepping import Options, Stepper
from l2l_opt.optimizer.watch import snapshot
from l2l_opt.rules.base import UpdateRule

States = Mapping[Tensor, dict[str, Any]]
"""An optimizer's ``state``, which makes an empty one of a parameter that it does not know."""


def named(group: Mapping[str, Any]) -> list[tuple[str, Tensor]]:
    """Names and parameters of a group, each parameter once."""
    names = group.get("param_names") or [str(index) for index in range(len(group["params"]))]
    return list({id(p): (name, p) for name, p in zip(names, group["params"], strict=True)}.values())


class GroupStepper:
    """Steps the groups of an optimizer.

    Args:
        rule: moved to the device of what it steps.
        keeps_snapshots: whether a state holds its parameter as it was, to go back to (``guard="fallback"``).

    Attributes:
        prepared: the id of a group -> calls that step it, to be taken again for as long as everything stays where it
            is, and the parameters that none of them steps.
    """

    def __init__(self, rule: UpdateRule, *, keeps_snapshots: bool):
        self.rule, self.keeps_snapshots = rule, keeps_snapshots
        self.prepared: dict[int, tuple[list[PreparedCall], list[Tensor]]] = {}
        self._stepper = Stepper(rule)
        self._keys: dict[Tensor, frozenset[str]] = {}
        self._captured: list[Any] = []

    def step(self, group: dict[str, Any], states: States, options: Options, *, state_dtype: torch.dtype | None) -> None:
        """Take one step of all parameters of a group that have a gradient.

        Args:
            group: of the optimizer.
            states: the optimizer's.
            options: of the group.
            state_dtype: of states that begin.
        """
        calls, others = self.prepared.pop(id(group), ([], []))
        if self._step_again(calls, others, group, states, options):
            self.prepared[id(group)] = calls, others
            found = self.local_parameters(group, states, state_dtype=state_dtype, among=others) if others else []
            self._step_anew(found, options)
            return
        found = self.local_parameters(group, states, state_dtype=state_dtype)
        calls = self._step_anew(found, options)
        if calls:
            taken = {id(kept.param) for call in calls for kept in call.kept}
            self.prepared[id(group)] = calls, [param.whole for param in found if id(param.whole) not in taken]

    def _step_anew(self, found: Sequence[LocalParameter], options: Options) -> list[PreparedCall]:
        """Step parameters as they are found; return calls that may be taken again."""
        again: list[PreparedCall] = []
        kinds: dict[bool, list[LocalParameter]] = {True: [], False: []}
        for param in found:
            kinds[PreparedCall.takes(param)].append(param)
        for regular, own in kinds.items():
            for shards, params in buckets_of(own):
                taken = self._stepper.step(params, options, shards)
                rule = self._stepper.rule_on(params[0].value.device)
                again += [PreparedCall(rule, call, same, options.num_steps) for call, same in taken if regular]
        return again

    def _step_again(
        self,
        calls: Sequence[PreparedCall],
        others: Sequence[Tensor],
        group: dict[str, Any],
        states: States,
        options: Options,
    ) -> bool:
        """Take the calls that are prepared, if all of the group is as it was; whether it was."""
        stepped = len(others) + sum(len(call.kept) for call in calls)
        if not calls or sum(p.grad is not None for p in group["params"]) != stepped:
            return False
        gradients = [call.gradients(states, options.num_steps) for call in calls]
        if any(found is None for found in gradients) or any(p.grad is None for p in others):
            return False
        for call, found in zip(calls, gradients, strict=True):
            call.step(found or [], options)
            if triton.is_captured(call.kept[0].param.device):
                # A graph goes on reading the tables that it was captured with.
                self._captured.append(call.tables())
        return True

    def local_parameters(
        self,
        group: dict[str, Any],
        states: States,
        *,
        state_dtype: torch.dtype | None,
        among: Sequence[Tensor] | None = None,
    ) -> list[LocalParameter]:
        """Parameters of a group that have a gradient, as they lie on this device; those without a state are given one.

        Args:
            group: of the optimizer.
            states: the optimizer's.
            state_dtype: of states that begin.
            among: of these parameters alone; None for all.

        Raises:
            ValueError: a parameter sharded in a way that the rule cannot take.
        """
        wanted = None if among is None else set(map(id, among))
        return [
            self._local_parameter(name, p, gradient, states[p], state_dtype)
            for name, p in named(group)
            if (gradient := p.grad) is not None and (wanted is None or id(p) in wanted)
        ]

    def _local_parameter(
        self, name: str, p: Tensor, gradient: Tensor, own: dict[str, Any], state_dtype: torch.dtype | None
    ) -> LocalParameter:
        keys = self._keys.get(p)
        # Every state that is ours has this, and wrappers may have written theirs before.
        if "skipped" not in own:
            check_placement(self.rule, name, p)
            own.update(fresh := fresh_state(self._stepper.rule_on(p.device), name, p, state_dtype=state_dtype))
            keys = self._keys[p] = frozenset(fresh) - set(BOOKKEEPING)
            if self.keeps_snapshots:
                own["fallback"] = snapshot(p)
        if keys is None:
            keys = self._keys[p] = frozenset(fresh_meta_state(self.rule, name, p))
        return local_parameter(name, p, gradient, own, keys, order_for(self.rule, p))
