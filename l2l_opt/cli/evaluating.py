"""What evaluate, inspect and report share: options, how tasks are evaluated, and the rule to begin with."""

from pathlib import Path
from typing import Any

import click
import torch

from l2l_opt.cli.messages import note_kept
from l2l_opt.cli.options import Declared, count, option
from l2l_opt.cli.plugins import plugin_digests
from l2l_opt.evaluation.cache import DEFAULT_FOLDER
from l2l_opt.evaluation.task import SuiteConfig
from l2l_opt.rules.base import UpdateRule
from l2l_opt.storage.files import make_writable_folder
from l2l_opt.storage.rule_file import load_rule
from l2l_opt.types import DTYPES

CACHE = option(
    "--cache --cache-dir cache",
    DEFAULT_FOLDER,
    "Folder where tuned baselines and all runs are kept.",
    type=click.Path(path_type=Path, file_okay=False),
)


def task_option(names: str, default: Any, **attributes: Any) -> Declared:
    """--task."""
    text = "Task, NAME or NAME:OPTION=VALUE,..." + "; repeatable." * ("multiple" in attributes)
    return option(names, default, text, **attributes)


def tuning_seeds(default: int | None, **attributes: Any) -> Declared:
    """--tuning-seeds."""
    return count("--tuning-seeds", default, "Other students, on which baselines are tuned.", **attributes)


def names_in(text: str) -> tuple[str, ...]:
    """Names with commas between them, each once."""
    return tuple(dict.fromkeys(filter(None, map(str.strip, text.split(",")))))


def config_of(options: dict[str, Any], **more: Any) -> SuiteConfig:
    """How tasks are evaluated.

    Args:
        options: of the command line: baselines, tuning_seeds, seed, cache, device, dtype.
        more: of ``SuiteConfig``.
    """
    return SuiteConfig(
        tuning_seeds=options["tuning_seeds"],
        seed=options["seed"],
        baselines=names_in(options["baselines"]),
        device=options["device"],
        dtype=DTYPES[options["dtype"]],
        cache=options["cache"],
        plugins=tuple(plugin_digests().values()),
        **more,
    )


def begin(rule: str, folder: Path, config: SuiteConfig, *, threads: int) -> UpdateRule:
    """Load a rule for the config's device and dtype; fails before any work if the folder cannot be written."""
    torch.set_num_threads(threads)
    loaded = load_rule(rule).to(device=config.device, dtype=config.dtype)
    make_writable_folder(folder)
    if config.cache is not None:
        note_kept(f"what was tuned and run is kept in {config.cache}")
    return loaded
