"""l2l-opt list."""

import inspect
import json
from collections.abc import Callable, Iterable
from typing import Any

import click

from l2l_opt.cli.common import device_options
from l2l_opt.few_shot.methods import METHODS, method_options
from l2l_opt.few_shot.models import MODELS, model_options
from l2l_opt.few_shot.sources import EPISODES, episode_options
from l2l_opt.meta_training.estimators import ESTIMATORS, MetaGradientEstimator
from l2l_opt.pretrained import list_pretrained
from l2l_opt.registry import Registry
from l2l_opt.rules import RULES
from l2l_opt.storage.rule_file import load_rule
from l2l_opt.tasks import TASKS
from l2l_opt.tasks.base import task_options

FEW_SHOT: dict[str, tuple[Registry[Any], Callable[[str], Iterable[str]]]] = {
    "episodes": (EPISODES, episode_options),
    "methods": (METHODS, method_options),
    "models": (MODELS, model_options),
}
"""What is listed of few-shot learning, and which options users give."""


@click.command("list")
@click.argument(
    "what", type=click.Choice(["tasks", "rules", "estimators", "pretrained", "episodes", "methods", "models"])
)
@click.option("--json", "as_json", is_flag=True, default=False, show_default="off", help="For a machine to read.")
@device_options
def list_names(what: str, as_json: bool, device: str, threads: int, dtype: str) -> None:
    """List WHAT there is, with a line and the options of each.

    Example: l2l-opt list tasks
    """
    entries: list[dict[str, Any]] = []
    if what == "pretrained":
        for name in list_pretrained():
            card = load_rule(name).card or {}
            summary = f"{card['rule']['name']}, meta-trained on {card.get('task')} to horizon {card.get('horizon')}"
            entries.append({"name": name, "summary": summary, "options": {}})
    elif what == "tasks":
        entries = [_entry(name, TASKS.summary(name), task_options(name)) for name in TASKS.names()]
    elif what == "rules":
        entries = [_entry(name, RULES.summary(name), RULES.options(name)) for name in RULES.names()]
    elif what in FEW_SHOT:
        registry, own_options = FEW_SHOT[what]
        for name in registry.names():
            options = registry.options(name)
            entries.append(_entry(name, registry.summary(name), {key: options[key] for key in own_options(name)}))
    else:
        common = inspect.signature(MetaGradientEstimator).parameters
        for name in ESTIMATORS.names():
            own = {key: value for key, value in ESTIMATORS.options(name).items() if key not in common}
            entries.append(_entry(name, ESTIMATORS.summary(name), own))
    if as_json:
        click.echo(json.dumps(entries, indent=2))
        return
    for entry in entries:
        click.echo(f"{entry['name']}: {entry['summary']}")
        if entry["options"]:
            click.echo("    " + ", ".join(f"{key}={value}" for key, value in entry["options"].items()))


def _entry(name: str, summary: str, options: dict[str, inspect.Parameter]) -> dict[str, Any]:
    empty = inspect.Parameter.empty
    defaults = {key: "(required)" if value.default is empty else value.default for key, value in options.items()}
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()}
    return {"name": name, "summary": summary, "options": plain}
