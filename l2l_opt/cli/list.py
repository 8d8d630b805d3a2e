"""l2l-opt list."""

import json
import shutil
import textwrap
from collections.abc import Callable, Iterable
from inspect import Parameter, signature
from typing import Any

import click

from l2l_opt.cli.options import JSON, GroupedCommand, device_options, option_group
from l2l_opt.few_shot.methods import METHODS
from l2l_opt.few_shot.models import MODELS
from l2l_opt.few_shot.sources import EPISODES
from l2l_opt.meta_training.estimators import ESTIMATORS, MetaGradientEstimator
from l2l_opt.pretrained import list_pretrained
from l2l_opt.registry import Registry
from l2l_opt.rules import RULES
from l2l_opt.storage.rule_file import load_rule
from l2l_opt.tasks import TASKS

LISTED: dict[str, tuple[Registry[Any], Callable[[str], Iterable[str]]]] = {
    "tasks": (TASKS, TASKS.options),
    "rules": (RULES, RULES.options),
    "estimators": (
        ESTIMATORS,
        lambda name: [
            key for key in ESTIMATORS.options(name) if key not in signature(MetaGradientEstimator).parameters
        ],
    ),
    "episodes": (EPISODES, EPISODES.options),
    "methods": (METHODS, METHODS.options),
    "models": (MODELS, MODELS.options),
}
"""What is listed, and which options of each users give."""


@click.command("list", cls=GroupedCommand)
@click.argument("what", type=click.Choice(["pretrained", *LISTED]), metavar="WHAT")
@option_group("Output", JSON)
@device_options
def list_names(what: str, as_json: bool, **unused: Any) -> None:
    """List WHAT there is: pretrained, tasks, rules, estimators, episodes, methods or models, each with its options.

    Example: l2l-opt list tasks
    """
    entries = _pretrained() if what == "pretrained" else _registered(*LISTED[what])
    if as_json:
        click.echo(json.dumps(entries, indent=2))
        return
    lines = textwrap.TextWrapper(
        shutil.get_terminal_size().columns, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
    for entry in entries:
        click.echo(lines.fill(f"{entry['name']}: {entry['summary'].replace('``', '')}"))
        options = ", ".join(f"{key}={value}" for key, value in entry["options"].items())
        if options:
            click.echo(lines.fill(f"    {options}"))
    if what == "pretrained":
        click.echo("more of each: l2l-opt show NAME")


def _pretrained() -> list[dict[str, Any]]:
    entries = []
    for name in list_pretrained():
        card = load_rule(name).card or {}
        families = card["task"].split(" + ")
        tasks = families[0] if len(families) == 1 else f"{len(families)} tasks"
        summary = f"{card['rule']['name']}, meta-trained on {tasks} to horizon {card['horizon']}"
        entries.append({"name": name, "summary": summary, "options": {}})
    return entries


def _registered(registry: Registry[Any], options_of: Callable[[str], Iterable[str]]) -> list[dict[str, Any]]:
    entries = []
    for name in registry.names():
        known = registry.options(name)
        defaults = {key: known[key].default for key in options_of(name)}
        options = {key: "(required)" if value is Parameter.empty else value for key, value in defaults.items()}
        options |= {key: list(value) for key, value in options.items() if isinstance(value, tuple)}
        entries.append({"name": name, "summary": registry.summary(name), "options": options})
    return entries
