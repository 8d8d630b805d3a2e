"""A rule's model card: what its artefact states, None for what it does not, and what is counted on the rule."""

from collections.abc import Mapping, Sequence
from typing import Any

from l2l_opt.rules.base import UpdateRule
from l2l_opt.rules.costs import rule_costs
from l2l_opt.types import is_dict, is_list

# Keys of files; the labels are what people read.
STATED = ("rule", "task", "horizon", "figures", "licence")
LABELS = {
    "task": "task of meta-training",
    "horizon": "horizon of meta-training",
    "figures": "metrics of meta-training",
    "held_out_figures": "held-out metrics",
    "state_bytes_per_parameter": "bytes of state per parameter, float32",
    "state_bytes_per_parameter_bfloat16": "bytes of state per parameter, in bfloat16",
    "operations_per_parameter_and_step": "floating-point operations per parameter and step",
}
ABSENT = {
    "task": "none stated",
    "horizon": "none stated",
    "licence": "none stated",
    "held_out_figures": "none measured",
}


def card_of(rule: UpdateRule) -> dict[str, Any]:
    """Everything, for a machine to read.

    Args:
        rule: in float32.
    """
    card = dict(rule.card or {})
    card.setdefault("rule", {"name": rule.registry_name, "config": rule.config})
    metrics = card.get("figures")
    costs = rule_costs(rule)
    return (
        {key: card.pop(key, None) for key in STATED}
        | {
            # Validation chooses a rule: what it measured is no evidence about tasks that the rule has not seen.
            "held_out_figures": metrics.get("held_out") if is_dict(metrics) else None,
            "weights": sum(weight.numel() for weight in rule.parameters()),
            "state_bytes_per_parameter": costs.state_bytes,
            "state_bytes_per_parameter_bfloat16": costs.state_bytes_bfloat16,
            "operations_per_parameter_and_step": costs.operations,
        }
        | card
    )


def facts_of(card: Mapping[str, Any]) -> list[tuple[str, str | list[tuple[str, str]]]]:
    """Return a card for people to read: names with values, or with names and values of their own."""
    facts: list[tuple[str, str | list[tuple[str, str]]]] = []
    for key, value in card.items():
        label = _plain(LABELS.get(key, key.replace("_", " ")))
        if is_dict(value):
            # held_out is shown by itself.
            own = {name: item for name, item in value.items() if (key, name) != ("figures", "held_out")}
            facts.append((label, [(_plain(name.replace("_", " ")), _plain(_text(item))) for name, item in own.items()]))
        else:
            facts.append((label, _plain(ABSENT.get(key, "none") if value is None else _text(value))))
    return facts


def _text(item: Any) -> str:
    if is_dict(item):
        return ", ".join(f"{key}={_text(value)}" for key, value in item.items())
    if is_list(item):
        return " to ".join(map(_text, item)) if _is_interval(item) else "; ".join(map(_text, item))
    return f"{item:.4g}" if isinstance(item, float) else str(item)


def _is_interval(item: Sequence[Any]) -> bool:
    return len(item) == 2 and all(isinstance(end, (int, float)) for end in item)


def _plain(value: Any) -> str:
    """Return a file's text, without the control characters that a terminal would obey."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(value))
