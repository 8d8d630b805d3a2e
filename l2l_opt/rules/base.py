"""The contract of an update rule, and the registry of rules."""

import abc
import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from l2l_opt.contexts import holding
from l2l_opt.kernels import CompiledPerceptron, CompiledStep
from l2l_opt.registry import Registry, parse_spec
from l2l_opt.types import Params, RuleState

_kept_in: ContextVar[torch.dtype | None] = ContextVar("kept_in", default=None)


def states_kept_in(dtype: torch.dtype | None) -> AbstractContextManager[None]:
    """While it lasts, fresh states are made for an optimizer that keeps them in this dtype; None for their own."""
    return holding(_kept_in, dtype)


class UpdateRule(nn.Module, abc.ABC):
    """Turn gradients into updates; subclass it to write a rule of one's own.

        theta_{t+1} = theta_t + g_phi(grad_t, state_t, theta_t)

    A rule is written for one student and is pure: it changes none of its inputs, and the caller adds the updates.
    It is coordinatewise: the number of weights in phi (``dict(rule.named_parameters())``) does not depend on the
    student. ``state[name]["step"]`` counts the updates already applied to that parameter; there is no other clock.

    Args:
        config: the constructor's arguments, plain JSON values: what an artefact needs to build the rule again.
    """

    registry_name: str = ""
    card: Mapping[str, Any] | None = None
    """The model card in the artefact that this rule was loaded from; None for a rule made in this process."""
    reads_whole_tensors: bool = True
    """Whether an update may depend on other coordinates of its tensor (through ``features.tensor_sum``). With
    False, a rule is run on blocks of a tensor, one after the other."""
    earlier_options: Mapping[str, Any] = MappingProxyType({})
    """Options that artefacts of earlier releases do not name, with the values that leave those rules as they were."""
    recurrent_state: tuple[str, ...] = ("hidden", "cell")
    """State of the network's own, which may be kept in another dtype between steps
    (``LearnedOptimizer(state_dtype=...)``), rounded to nearest."""
    moving_averages: tuple[str, ...] = ()
    """State that may be too, in dtypes with the range of float32; in bfloat16 rounded at random, since rounding to
    nearest would lose what a slow average gains in a step."""
    reads_loss: bool = False
    """Whether ``forward`` is given ``loss``: set for every class whose ``forward`` names it."""
    reads_names: bool = False
    """Whether what it does with a parameter depends on its name, so that an optimizer must be given names."""

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if "forward" in vars(cls):
            cls.reads_loss = "loss" in inspect.signature(cls.forward).parameters

    def __init__(self, **config: Any):
        super().__init__()
        self.config = config

    def dtype_between_steps(self, key: str, state_dtype: torch.dtype | None) -> torch.dtype | None:
        """Return the dtype in which ``LearnedOptimizer(state_dtype=...)`` keeps a state; None for that it comes in."""
        if key in self.recurrent_state:
            return state_dtype
        # Squares of usual gradients are zero in float16.
        wide = state_dtype is not None and torch.finfo(state_dtype).max >= torch.finfo(torch.bfloat16).max
        return state_dtype if wide and key in self.moving_averages else None

    def zeros(self, key: str, param: Tensor, size: int) -> Tensor:
        """Return a state ``[size, *param.shape]`` of zeros: in the parameter's dtype, or in that it will be kept in.

        A rule whose states begin so makes them by this, and an optimizer that keeps them in bfloat16 has no copy in
        float32 at its first step.
        """
        return param.new_zeros(size, *param.shape, dtype=self.dtype_between_steps(key, _kept_in.get()) or param.dtype)

    @abc.abstractmethod
    def init_state(self, params: Params) -> RuleState:
        """Return the state before the first update.

        Args:
            params: parameter name -> tensor of any shape.

        Returns:
            Parameter name -> state; each tensor ``[features, *param.shape]`` or 0-dim, ``"step"`` among them. Of a
            rule that reads whole tensors an axis of the parameter may be 1, where what is kept is one for all along it.
        """

    @abc.abstractmethod
    def forward(
        self, grads: Params, state: RuleState, params: Params, *, num_steps: Tensor | None = None
    ) -> tuple[Params, RuleState]:
        """Turn gradients into updates.

        A rule may name one more keyword, ``loss: Tensor | None = None``: 0-dim, the loss whose gradients these are, or
        None where nobody passes one (``LearnedOptimizer.step`` without ``loss`` and closure). Such a rule has no
        compiled step, whose kernels are given none.

        Args:
            grads: parameter name -> gradient, ``param.shape``.
            state: as ``init_state`` or the last call returned it.
            params: parameter name -> value before the update.
            num_steps: 0-dim, planned number of updates of this training run; None where it is unknown.

        Returns:
            Updates (signed changes, to be *added* to params), and the state after them.
        """

    def decay_schedule(self, progress: float) -> float:
        """Return what weight decay is multiplied by: the rule's own schedule, so that decay ends where its updates do.

        Args:
            progress: of a planned run, ``min(t / num_steps, 1)``.

        Returns:
            A factor of 1 at the beginning; 1 throughout for a rule that does not anneal.
        """
        return 1.0

    def route(self, params: Params) -> "list[tuple[UpdateRule, list[str]]]":
        """Return which rule moves which parameters, by name: itself all of them, but for a rule made of others."""
        return [(self, list(params))]

    def compiled_step(self) -> CompiledStep | CompiledPerceptron | None:
        """Return the same computation for ``kernels.PreparedStep``, in place; None where it is not compiled."""
        return self.compiled_step_of(dict(self.named_parameters()))

    def compiled_step_of(self, phi: Params) -> CompiledStep | CompiledPerceptron | None:
        """Return the same for ``kernels.particles_step_``, with weights phi, shared or ``[P, ...]``; or None."""
        return None


def call_rule(
    rule: UpdateRule,
    grads: Params,
    state: RuleState,
    params: Params,
    *,
    num_steps: Tensor | None = None,
    loss: Tensor | None = None,
) -> tuple[Params, RuleState]:
    """Call a rule's ``forward``, with the loss where it reads one."""
    return rule(grads, state, params, num_steps=num_steps, **loss_for(rule, loss))


def loss_for(rule: UpdateRule, loss: Tensor | None) -> dict[str, Tensor | None]:
    """Return the keyword that hands a loss to a rule; none for a rule that does not read it."""
    return {"loss": loss} if rule.reads_loss else {}


def initial_step(param: Tensor) -> Tensor:
    """Return the clock of one parameter before its first update: 0-dim float32, as torch.optim keeps it."""
    return torch.zeros((), dtype=torch.float32, device=param.device)


RULES: Registry[UpdateRule] = Registry("rule")

RuleClass = TypeVar("RuleClass", bound=type[UpdateRule])


def register_rule(name: str) -> Callable[[RuleClass], RuleClass]:
    """Enter a rule in the registry under ``name``, so that options and artefacts can name it; a class decorator.

    Example:
        >>> @register_rule("my-rule")
        ... class MyRule(UpdateRule): ...

    Raises:
        ValueError: the name is taken.
        TypeError: what is decorated is not an UpdateRule.
    """

    def enter(rule_class: RuleClass) -> RuleClass:
        if not _is_rule_class(rule_class):
            raise TypeError(f"a registered rule must be a subclass of UpdateRule; got {rule_class!r}")
        RULES.register(name, rule_class)
        rule_class.registry_name = name
        return rule_class

    return enter


def _is_rule_class(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, UpdateRule)


def make_rule(spec: str, **options: Any) -> UpdateRule:
    """Make a fresh rule from ``name`` or ``name:option=value,...``; keyword options are added to those of the notation.

    Raises:
        ValueError: unknown rule, unknown option or bad value.
    """
    name, spec_options = parse_spec(spec)
    return RULES.make(name, **{**spec_options, **options})


def part_of_rule(part: UpdateRule | str, config: Mapping[str, Any] | None = None) -> UpdateRule:
    """Return a rule that another one is made of: itself, or a fresh one by its name or notation and its options.

    Raises:
        ValueError: neither a rule nor a name, a rule that is not registered, options that are no dict or are refused,
            or are given beside a rule.
    """
    if config is not None and isinstance(part, UpdateRule):
        raise ValueError(f"a part's config must be of one that is named; got {config!r} beside a rule, leave it out")
    if config is not None and not isinstance(config, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"a part's config must be a dict of options; got {config!r}, use e.g. {{'hidden_size': 8}}")
    rule = part if isinstance(part, UpdateRule) else make_rule(part, **(config or {}))
    RULES.factory(rule.registry_name)
    return rule
