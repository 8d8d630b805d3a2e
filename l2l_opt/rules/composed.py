"""A rule made of rules, each for the tensors that a predicate on name and shape picks."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from torch import Tensor, nn

from l2l_opt.rules.base import UpdateRule, call_rule, part_of_rule, register_rule
from l2l_opt.types import Params, RuleState


@register_rule("composed")
class ComposedRule(UpdateRule):
    """Routes every tensor to the first part whose predicate matches it.

    Without arguments it is the paper's pair for convolutional networks: one LSTM for convolution kernels (three or
    more dimensions), another for all other tensors.

    Args:
        parts: for each part a rule and its predicate, as a dict with keys ``rule`` (an ``UpdateRule``, or
            ``name:option=value,...``), ``name`` (regular expression searched in the parameter's name, default
            anything; optimizers must then be given ``named_parameters()``), ``min_dim`` and ``max_dim`` (bounds on
            ``param.dim()``, default none).

    A group's weight decay follows the mean of the parts' schedules.

    State of a parameter:
        that of the part it is routed to.

    Raises:
        ValueError: no parts, an unknown key, a bad pattern, bounds that nothing meets; later, a parameter that no part
            matches.

    Source: arXiv 1606.04474, section 3.3 (the parts for convolutional and for fully connected tensors).
    """

    def __init__(self, *, parts: Sequence[dict[str, Any]] = ({"rule": "lstm", "min_dim": 3}, {"rule": "lstm"})):
        rules, predicates = [], []
        if not parts or isinstance(parts, (str, bytes)) or not isinstance(parts, Sequence):
            raise ValueError(f"parts must hold one dict or more; got {parts!r}, use e.g. [{{'rule': 'lstm'}}]")
        for part in parts:
            if not isinstance(part, Mapping):
                raise ValueError(f"a part must be a dict; got {part!r}, use e.g. {{'rule': 'lstm', 'min_dim': 3}}")
            unknown = set(part) - {"rule", "config", "name", "min_dim", "max_dim"}
            if unknown or "rule" not in part:
                raise ValueError(
                    f"a part must have 'rule' and may have 'name', 'min_dim', 'max_dim'; got keys {sorted(part)}, "
                    "use e.g. {'rule': 'lstm', 'min_dim': 3}"
                )
            rules.append(part_of_rule(part["rule"], part.get("config")))
            predicate = {key: part[key] for key in ("name", "min_dim", "max_dim") if key in part}
            for key in ("min_dim", "max_dim"):
                if type(predicate.get(key, 0)) is not int or predicate.get(key, 0) < 0:
                    raise ValueError(
                        f"a part's {key} must be a whole number of 0 or more; got {part[key]!r}, use e.g. 2"
                    )
            if predicate.get("min_dim", 0) > predicate.get("max_dim", math.inf):
                raise ValueError(
                    f"a part's min_dim must not be above its max_dim; got {part['min_dim']} and {part['max_dim']}, "
                    "use e.g. 2 and 3"
                )
            try:
                re.compile(predicate.get("name", ""))
            except (re.error, TypeError) as error:
                raise ValueError(
                    f"a part's name must be a regular expression; got {part['name']!r}: {error}"
                ) from error
            predicates.append(predicate)
        super().__init__(
            parts=[
                {"rule": rule.registry_name, "config": rule.config} | predicate
                for rule, predicate in zip(rules, predicates, strict=True)
            ]
        )
        self.parts = nn.ModuleList(rules)
        self.predicates = predicates
        self.reads_whole_tensors = any(rule.reads_whole_tensors for rule in rules)
        self.reads_loss = any(rule.reads_loss for rule in rules)
        self.reads_names = any("name" in own for own in predicates) or any(rule.reads_names for rule in rules)
        self.moving_averages = tuple(dict.fromkeys(key for rule in rules for key in rule.moving_averages))

    def route(self, params: Params) -> list[tuple[UpdateRule, list[str]]]:
        """Each part that has something to do, down to those made of no others, with the names of its parameters.

        Raises:
            ValueError: a parameter that no part matches.
        """
        names: list[list[str]] = [[] for _ in self.predicates]
        for name, param in params.items():
            for index, predicate in enumerate(self.predicates):
                if _matches(predicate, name, param):
                    names[index].append(name)
                    break
            else:
                raise ValueError(
                    f"every parameter must match a part; got {name!r} of shape {tuple(param.shape)}, "
                    "add a part without predicate at the end"
                )
        pairs = zip(self.rules(), names, strict=True)
        return [found for part, chosen in pairs if chosen for found in part.route(_pick(params, chosen))]

    def init_state(self, params: Params) -> RuleState:
        state: RuleState = {}
        for part, names in self.route(params):
            state |= part.init_state(_pick(params, names))
        return {name: state[name] for name in params}

    def forward(
        self,
        grads: Params,
        state: RuleState,
        params: Params,
        *,
        num_steps: Tensor | None = None,
        loss: Tensor | None = None,
    ) -> tuple[Params, RuleState]:
        updates: Params = {}
        next_state: RuleState = {}
        for part, names in self.route(grads):
            chosen = {name: state[name] for name in names}
            own = _pick(grads, names), chosen, _pick(params, names)
            part_updates, part_state = call_rule(part, *own, num_steps=num_steps, loss=loss)
            updates |= part_updates
            next_state |= part_state
        return {name: updates[name] for name in grads}, {name: next_state[name] for name in grads}

    def decay_schedule(self, progress: float) -> float:
        return fmean(rule.decay_schedule(progress) for rule in self.rules())

    def rules(self) -> Iterable[UpdateRule]:
        """Return the parts, in their order."""
        return (part for part in self.parts if isinstance(part, UpdateRule))


def _matches(predicate: dict[str, Any], name: str, param: Tensor) -> bool:
    return re.search(predicate.get("name", ""), name) is not None and predicate.get(
        "min_dim", 0
    ) <= param.dim() <= predicate.get("max_dim", param.dim())


def _pick(params: Params, names: list[str]) -> Params:
    return {name: params[name] for name in names}
