"""LearnedOptimizer: an update rule as a torch.optim.Optimizer."""

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from l2l_opt.kernels import triton
from l2l_opt.optimizer import sharding
from l2l_opt.optimizer.adam import adam_step
from l2l_opt.optimizer.arguments import check_arguments, check_options, check_options_of_all
from l2l_opt.optimizer.cost import StepCost, state_bytes, step_costs
from l2l_opt.optimizer.eager import EagerOptimizer, eager
from l2l_opt.optimizer.groups import GroupStepper, named
from l2l_opt.optimizer.habits import Habits
from l2l_opt.optimizer.local_parameters import buckets_of, check_placement, fresh_meta_state, reduce_over
from l2l_opt.optimizer.rates import step_options
from l2l_opt.optimizer.state_dict import boxed, check_state_dict, digest_of, in_own_order, unboxed
from l2l_opt.optimizer.watch import Watch, sample, size_of_update, snapshot
from l2l_opt.pretrained import DEFAULT
from l2l_opt.rules.base import UpdateRule
from l2l_opt.rules.products import products_of
from l2l_opt.storage.rule_file import load_rule
from l2l_opt.types import is_dict

UNSHOWN = ("params", "param_names", "rule", "rule_digest", "watch", "unread")
OF_ALL_GROUPS = ("guard", "state_dtype", "whitening_dtype")
OWN = ("rule", *OF_ALL_GROUPS, "_title")
"""Attributes that torch's own pickling would lose."""


class LearnedOptimizer(EagerOptimizer):
    """Train a model with an update rule, where ``torch.optim.AdamW(params, lr=...)`` stood and nothing is to be tuned.

        theta <- theta - lr * .001 * s * weight_decay * theta + lr * update,    update = g_phi(gradient, state, theta)

    It takes the same steps as the rule took in meta-training. State lies in ``optimizer.state[p]``, in float32 at least
    where parameters are in half precision, and for complex ones of their real view; of a DTensor it is a DTensor.

    Args:
        params: parameters, named parameters, or groups of either.
        rule: None for the shipped default, the name of a shipped rule, the path of an artefact, or a rule.
        lr: dimensionless multiplier of the update; 1.0 is as meta-trained. A step with a value below 0.03, the habit
            of other optimizers, warns once, but not where a scheduler has come down to it.
        weight_decay: as of AdamW at a rate of .001, whose numbers (.01 to .1) can stay: decoupled from the rule, and
            multiplied by lr and by s, the rule's schedule over ``num_steps`` (``UpdateRule.decay_schedule``): a cosine
            for ``compact``, ``celo2`` and hand-designed rules with one, ``max((1 - f) / (1 + steepness f), .01)`` for
            ``scale-free`` (the default), where f of the run is over, for ``tensor-lstm`` that of the rule below it; 1
            for others, and where num_steps is unknown.
        num_steps: planned steps, for rules that anneal (a key of the group); None where unknown. The first step beyond
            it warns.
        maximize: climb instead of descend.
        guard: ``"skip"``: where a gradient, an update or what would follow from it is not finite, the tensor and its
            state stay as they are, and ``state[p]["skipped"]`` goes up; no device synchronisation. ``"fallback"``:
            that, and where the losses given to ``step`` diverge (``fallback.Fallback``), parameters go back to their
            last good snapshot and training goes on with Adam, at the rate that matches the rule's updates; 12 bytes
            more a parameter. Losses on a GPU are looked at ten at a time, one wait. Ranks of DDP must be given the
            same loss. None: updates are applied as they come.
        state_dtype: of the rule's state between steps, but for a few numbers a tensor, e.g. ``torch.bfloat16`` for half
            the memory; None for the precision of the computation. Averages are rounded at random to bfloat16, by bits
            that are always the same (``rounding.rounded_at_random``); other than hidden states they are not kept in
            float16. A state of either dtype loads: it is cast to this one, or goes on as it is where this is None.
        whitening_dtype: of the matrices that a rule multiplies where it whitens, as ``scale-free`` (the default) does:
            ``torch.bfloat16`` rounds them first, from a shorter side of 64 on, and sums stay in float32. That is faster
            on processors with AVX512-BF16 and on GPUs; elsewhere it rounds likewise, and saves nothing. Steps differ
            from those in float32 by a few hundredths.

    Groups have a ``momentum``, so that OneCycleLR, CyclicLR and fastai can cycle it; like other optimizers' options in
    a group it has no effect, and a warning once. Sparse gradients are made dense.

    Raises:
        ValueError: a number out of range, an unknown guard, a dtype that there is not, an artefact that is not one, a
            parameter sharded in a way that the rule cannot take.
        FileNotFoundError: no such artefact.
        TypeError: a rule of another kind, an option of other optimizers.

    Example:
        >>> optimizer = LearnedOptimizer(model.parameters(), num_steps=1000)
        >>> loss_fn(model(inputs), targets).backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: ParamsT,
        rule: UpdateRule | str | os.PathLike[str] | None = None,
        *,
        lr: float = 1.0,
        weight_decay: float = 0.0,
        num_steps: int | None = None,
        maximize: bool = False,
        guard: Literal["skip", "fallback"] | None = "skip",
        state_dtype: torch.dtype | None = None,
        whitening_dtype: torch.dtype = torch.float32,
        **others: Any,
    ):
        check_arguments(rule, guard, state_dtype, whitening_dtype, others)
        self._title = DEFAULT if rule is None else str(rule)
        if not isinstance(rule, UpdateRule):
            rule = load_rule(self._title)
        else:
            self._title = rule.registry_name or type(rule).__name__
        self.rule, self.state_dtype, self.whitening_dtype = rule, state_dtype, whitening_dtype
        self.guard: Literal["skip", "fallback"] | None = guard
        self._habits = Habits()
        self._lock = threading.RLock()
        self._watch, self._stepper = Watch(), self._new_stepper()
        defaults: dict[str, Any] = {
            "lr": lr,
            "weight_decay": weight_decay,
            "num_steps": num_steps,
            "maximize": maximize,
            "momentum": 0.0,
            "rule": self._kind(),
            "rule_digest": digest_of(rule),
            "steps_taken": 0,
        }
        if guard == "fallback":
            defaults |= self._watch.entries()
        check_options(defaults)
        super().__init__(params, defaults)

    def __repr__(self) -> str:
        lines = [f"LearnedOptimizer (rule: {self._title}, guard: {self.guard}"]
        for index, group in enumerate(self.param_groups):
            shown = (f"    {key}: {group[key]}" for key in sorted(group) if key not in UNSHOWN)
            lines += [f"Parameter Group {index}", *shown]
        return "\n".join([*lines, ")"])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, perhaps with their own ``lr``, ``weight_decay``, ``num_steps`` and ``maximize``.

        Raises:
            ValueError: a number out of range, another rule, an option that is the same for all groups, a parameter
                without a name or sharded in a way that the rule cannot take.
        """
        self._check_rule_of(param_group)
        check_options_of_all(param_group, {key: getattr(self, key) for key in OF_ALL_GROUPS})
        super().add_param_group(param_group)
        try:
            check_options(self.param_groups[-1])
            if self.rule.reads_names and not self.param_groups[-1].get("param_names"):
                raise ValueError(
                    f"parameters must have names where the rule {self._title!r} goes by them; got a group "
                    "without, use LearnedOptimizer(model.named_parameters(), ...)"
                )
            for name, p in named(self.param_groups[-1]):
                check_placement(self.rule, name, p)
        except ValueError:
            self.param_groups.pop()
            raise

    def _check_rule_of(self, group: Any) -> None:
        """Refuse a group's rule that is not the optimizer's own, which ZeroRedundancyOptimizer's groups name again."""
        if not (is_dict(group) and "rule" in group):
            return
        given = group["rule"]
        same = given is self.rule if isinstance(given, UpdateRule) else str(given) in (self._title, self._kind())
        if not same and given is not None:
            raise ValueError(
                f"all groups must have the optimizer's rule, {self._title!r}; got {given!r} in a group, make an "
                "optimizer of its own for it"
            )
        group |= {key: self.defaults[key] for key in ("rule", "rule_digest")}

    def _new_stepper(self) -> GroupStepper:
        return GroupStepper(self.rule, keeps_snapshots=self.guard == "fallback")

    def _kind(self) -> str:
        return self.rule.registry_name or type(self.rule).__name__

    @eager
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, *, loss: Any = None) -> Any:
        """Update every parameter that has a gradient.

        Args:
            closure: evaluates the loss anew, with gradients enabled, and returns it.
            loss: of the parameters as they are, a number or a tensor of one, the same on all ranks of DDP; serves
                ``guard="fallback"`` and rules that read it, which otherwise look at what the closure returns.

        Returns:
            What the closure returned, or None.
        """
        # Kernels run without Python's lock and write in place: two steps at once would read half-written state.
        with self._lock:
            return self._step(closure, loss)

    @eager
    def zero_grad(self, set_to_none: bool = True) -> None:
        with self._lock:
            super().zero_grad(set_to_none)

    def _step(self, closure: Callable[[], Any] | None, loss: Any) -> Any:
        returned = None
        if closure is not None:
            with torch.enable_grad():
                returned = closure()
        loss = returned if loss is None else loss
        if self.guard == "fallback" and any(map(triton.is_captured, {p.device for p in self._parameters()})):
            raise RuntimeError(
                "a step that is captured in a CUDA graph must not be watched, which its replays would not be; got "
                "guard='fallback', use guard='skip'"
            )
        seen = None
        self._habits.look_for_loss(self.rule, loss)
        if loss is not None and (self.guard == "fallback" or self.rule.reads_loss):
            seen = sharding.mean_loss(loss, self._parameters())
        if self.guard == "fallback" and seen is not None and self._fell_back(seen):
            return returned
        with products_of(self.whitening_dtype):
            sizes = [size for group in self.param_groups for size in self._step_group(group, seen)]
        if self.guard == "fallback":
            self._watch.after_step(sizes)
            if self._watch.is_read:
                self._remember()
        for group in self.param_groups:
            group["steps_taken"] += 1
        self._habits.look_beyond_plan(self.param_groups, self.rule, self.defaults["rule"])
        return returned

    def _parameters(self) -> Iterator[Tensor]:
        return (p for group in self.param_groups for p in group["params"])

    def _step_group(self, group: dict[str, Any], loss: Tensor | None) -> list[Tensor]:
        """One step of a group; returns the sizes of its updates where they are measured."""
        options = step_options(group, self.rule, self._habits, guard=self.guard, loss=loss)
        fallback = self._watch.fallback
        if fallback.rate is None and not self._watch.measures:
            self._stepper.step(group, self.state, options, state_dtype=self.state_dtype)
            return []
        found = self._stepper.local_parameters(group, self.state, state_dtype=self.state_dtype)
        buckets = [(reduce_over(shards), params) for shards, params in buckets_of(found)]
        if fallback.rate is not None:
            for reduce, params in buckets:
                adam_step(params, options, rate=fallback.rate, num_steps=fallback.num_adam_steps, reduce=reduce)
            return []
        before = [sample(params) for _, params in buckets]
        self._stepper.step(group, self.state, options, state_dtype=self.state_dtype)
        lr = options.lr if options.rate is None else options.lr * options.rate
        return [
            size_of_update(params, old, lr=lr, reduce=reduce)
            for (reduce, params), old in zip(buckets, before, strict=True)
        ]

    def _fell_back(self, loss: Tensor) -> bool:
        """Take in a loss; whether parameters have gone back to the last good snapshot."""
        first = self.param_groups[0]
        states = [(p, own) for p, own in self.state.items() if "fallback" in own]
        lower_is_better = -loss if first["maximize"] else loss
        gone_back = self._watch.take(lower_is_better, states, first)
        if gone_back:
            self._remember()
        return gone_back

    def _remember(self) -> None:
        for group in self.param_groups if self.guard == "fallback" else ():
            group |= self._watch.entries()

    def cost(self) -> list[StepCost]:
        """Predict what a step on these parameters costs on this machine, beside fused AdamW and torch's Muon.

        Bytes of state are counted; seconds are predicted from matrices of the parameters' shorter sides, measured for
        about a second each. Muon steps matrices, convolutions flattened; AdamW steps what it leaves.

        Returns:
            One of this optimizer, of AdamW and of Muon.

        Raises:
            ValueError: a parameter that is not on the CPU.
        """
        pairs = [pair for group in self.param_groups for pair in named(group)]
        params = [p for _, p in pairs]

        def make(own: list[Tensor]) -> Callable[[], Any]:
            options = {key: getattr(self, key) for key in OWN if key.endswith("dtype")}
            numbered = [(str(index), p) for index, p in enumerate(own)]  # for rules that go by names
            return LearnedOptimizer(numbered, self.rule, num_steps=1000, guard=self.guard, **options).step

        states = (fresh_meta_state(self.rule, name, p, state_dtype=self.state_dtype) for name, p in pairs)
        kept = state_bytes(states) + 8 * len(pairs)
        kept += sum(12 * p.numel() for p in params) if self.guard == "fallback" else 0
        return step_costs(self._title, make, params, kept=kept)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state, which keeps its own dtypes, but for ``state_dtype``.

        Raises:
            ValueError: the state of another rule, of other weights of the same rule or of other parameters.
        """
        if not is_dict(state_dict):
            # It is refused there; torch.optim would fail before it calls a hook.
            self._checked(state_dict)
        # Registered last, so that it sees what the hooks of others have made of the state.
        handle = self.register_load_state_dict_pre_hook(lambda _, found: self._checked(found))
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()

    def _checked(self, state_dict: Any) -> dict[str, Any]:
        finite = self.guard is not None
        state_dict = in_own_order(state_dict, self.param_groups)
        check_state_dict(state_dict, self.param_groups, rule=self.rule, defaults=self.defaults, must_be_finite=finite)
        return boxed(state_dict)

    @eager
    def state_dict(self) -> dict[str, Any]:
        """Return states and groups, in which ``guard="fallback"`` keeps what it has seen so far."""
        self._remember()
        return super().state_dict()

    def __getstate__(self) -> dict[str, Any]:
        self._remember()
        # torch's keeps three entries only, so that copies would lose the rule.
        return super().__getstate__() | {key: getattr(self, key) for key in OWN}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault("whitening_dtype", torch.float32)  # pickles of 0.4 hold none
        self._stepper = self._new_stepper()
        self._lock = self.__dict__.get("_lock") or threading.RLock()
        self._habits = self.__dict__.get("_habits") or Habits()
        self._habits.restart(self.param_groups)
        for group in self.param_groups:
            for key in self.defaults.keys() - {"differentiable"}:  # torch's own, which no group of ours holds
                group.setdefault(key, self.defaults[key])
        own = unboxed(self.state, self.rule, self.state_dtype)
        self.state.clear()
        self.state.update(own)
        is_used = self.guard == "fallback"
        self._watch = Watch(self.param_groups[0]) if is_used else Watch()
        for p, own in self.state.items() if is_used else ():
            if own and "fallback" not in own:
                own["fallback"] = snapshot(p)
