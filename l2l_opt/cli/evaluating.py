"""What evaluate, inspect and report share: options, how tasks are evaluated, and the rule to begin with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch

from l2l_opt.cli.common import DTYPES, plugin_digests, read_device
from l2l_opt.evaluation.cache import DEFAULT_FOLDER
from l2l_opt.evaluation.task import SuiteConfig
from l2l_opt.rules.base import UpdateRule
from l2l_opt.storage.files import make_writable_folder
from l2l_opt.storage.rule_file import load_rule

Command = Callable[..., Any]

TASK_HELP = "NAME or NAME:OPTION=VALUE,..."
COUNT = click.IntRange(min=1)

cache_option = click.option(
    "--cache",
    "--cache-dir",
    "cache",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_FOLDER,
    show_default=True,
    help="A folder where tuned baselines and all runs are kept.",
)
"""--cache."""
seed_option = click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all students.")
"""--seed."""


def tuning_seeds_option(default: int | None = 3, shown: str | bool = True) -> Callable[[Command], Command]:
    """--tuning-seeds."""
    help_text = "Other students, on which baselines are tuned."
    return click.option("--tuning-seeds", type=COUNT, default=default, show_default=shown, help=help_text)


def names_in(text: str) -> tuple[str, ...]:
    """Names with commas between them, each once."""
    return tuple(dict.fromkeys(filter(None, map(str.strip, text.split(",")))))


def config_of(options: dict[str, Any], **more: Any) -> SuiteConfig:
    """How tasks are evaluated.

    Args:
        options: of the command line: baselines, tuning_seeds, seed, cache, device, dtype.
        more: of ``SuiteConfig``.

    Raises:
        ValueError: a device that this machine lacks.
    """
    return SuiteConfig(
        tuning_seeds=options["tuning_seeds"],
        seed=options["seed"],
        baselines=names_in(options["baselines"]),
        device=str(read_device(options["device"])),
        dtype=DTYPES[options["dtype"]],
        cache=options["cache"],
        plugins=plugin_digests(),
        **more,
    )


def begin(rule: str, folder: Path, config: SuiteConfig, *, threads: int) -> UpdateRule:
    """Load a rule for the config's device and dtype; fails before any work if the folder cannot be written."""
    torch.set_num_threads(threads)
    loaded = load_rule(rule).to(device=config.device, dtype=config.dtype)
    make_writable_folder(folder)
    return loaded


def say(message: str) -> None:
    """Print progress, out of the way of results."""
    click.echo(message, err=True)
