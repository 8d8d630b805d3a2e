"""l2l-opt evaluate."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import rich.table
from rich.console import Console

from l2l_opt.cli.common import device_options, plugin_files, register_plugins, wrong_usage
from l2l_opt.cli.evaluating import (
    COUNT,
    TASK_HELP,
    begin,
    cache_option,
    config_of,
    say,
    seed_option,
    tuning_seeds_option,
)
from l2l_opt.evaluation.baselines.entries import CLASSICAL, ENTRIES
from l2l_opt.evaluation.plots import curves_png, profile_png
from l2l_opt.evaluation.results import TaskEvaluation
from l2l_opt.evaluation.suite import evaluate_suite
from l2l_opt.evaluation.suites import Suite, load_suite
from l2l_opt.evaluation.summary import as_json
from l2l_opt.evaluation.tables import Table, tables_of
from l2l_opt.storage.files import write_atomically
from l2l_opt.storage.finite_json import json_text

OF_A_TASK = {"horizons": (100,), "seeds": 10, "tuning_seeds": 10, "baselines": ",".join(CLASSICAL)}
OF_A_SUITE = {"horizons": (500, 2000), "seeds": 5, "tuning_seeds": 3, "baselines": ",".join(ENTRIES)}
"""What is not given."""


@click.command()
@click.argument("rule")
@click.option("--task", default=None, show_default="digits-mlp", help=TASK_HELP)
@click.option(
    "--suite",
    "source",
    default=None,
    show_default="none",
    help="Many tasks instead of one: validation, held-out, or a file with one task a line.",
)
@click.option(
    "--horizon",
    "horizons",
    type=COUNT,
    multiple=True,
    show_default="100, of a suite 500 and 2000",
    help="Inner steps; repeatable.",
)
@click.option("--seeds", type=COUNT, default=None, show_default="10, of a suite 5", help="Students reported on.")
@tuning_seeds_option(None, "10, of a suite 3")
@click.option(
    "--baselines",
    default=None,
    show_default=f"{OF_A_TASK['baselines']}, of a suite {OF_A_SUITE['baselines']}",
    help="Which to compare with, of both lists; of a suite adamw is always among them, and sgd has momentum.",
)
@cache_option
@click.option(
    "--nproc", type=COUNT, default=1, show_default=True, help="Tasks at a time, each in a process with one thread."
)
@seed_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="runs/evaluation",
    show_default=True,
    help="For evaluation.json, curves.png and, of several tasks, profile.png.",
)
@click.option(
    "--json",
    "as_json_text",
    is_flag=True,
    default=False,
    show_default="off",
    help="Print evaluation.json instead of tables.",
)
@device_options
def evaluate(
    rule: str, task: str | None, source: str | None, nproc: int, out: Path, as_json_text: bool, **options: Any
) -> None:
    """Evaluate RULE (a shipped name or a path) against tuned baselines, on one task or on a suite of tasks.

    Baselines get half-decade learning rates, a grid widened while the best sits at its edge, and students of their own
    to be tuned on, at each horizon. The rule is not tuned. All is kept in --cache, so that another rule costs its own
    runs only.

    On one task they are SGD, momentum, RMSprop and Adam, the last with a constant rate and with a cosine. On a suite
    they are AdamW, SGD with momentum, Muon (constant and cosine), Adam, and Schedule-Free AdamW and Prodigy with their
    defaults. With AdamW, speed-ups over it in steps and in seconds are reported too.

    Example: l2l-opt evaluate default-2 --task digits-mlp --horizon 100 --horizon 200 --out runs/evaluation

    Example: l2l-opt evaluate default-2 --suite held-out --out runs/held-out
    """
    if task is not None and source is not None:
        raise click.UsageError(f"--suite and --task exclude each other; got {source!r} and {task!r}, use one of them")
    options |= {key: options[key] or value for key, value in (OF_A_TASK if source is None else OF_A_SUITE).items()}
    horizons = tuple(dict.fromkeys(options["horizons"]))
    with wrong_usage():
        config = config_of(options, horizons=horizons, num_seeds=options["seeds"], classical=source is None)
        name = task or "digits-mlp"
        suite = Suite(name, (name,)) if source is None else load_suite(source)
    loaded = begin(rule, out, config, threads=options["threads"])
    settings = {"rule": rule, "name": loaded.registry_name, "digest": (loaded.card or {}).get("digest")}
    with wrong_usage():
        evaluations = evaluate_suite(
            loaded,
            suite,
            config,
            settings=settings,
            num_processes=nproc,
            initializer=register_plugins,
            initargs=(plugin_files(),),
            say=say,
        )
    content = as_json(evaluations, suite, config, settings)
    written = write_evaluation(out, content, evaluations)
    if as_json_text:
        click.echo(json_text(content), nl=False)
        return
    for table in tables_of(content):
        _print(table)
    for note in content["notes"]:
        click.echo(f"note: {note}")
    for path in written:
        click.echo(f"{path.stem}: {path}")


def write_evaluation(out: Path, content: dict[str, Any], evaluations: Sequence[TaskEvaluation]) -> list[Path]:
    """Write what an evaluation came to, and its pictures, into a folder; returns the files."""
    files = {"evaluation.json": json_text(content).encode(), "curves.png": curves_png(evaluations)}
    if content["summary"][0]["tasks"] > 1:
        files["profile.png"] = profile_png(content["summary"])
    for name, data in files.items():
        write_atomically(out / name, data)
    return [out / name for name in files]


def _print(table: Table) -> None:
    shown = rich.table.Table(title=table.caption)
    for index, heading in enumerate(table.headings):
        shown.add_column(heading, justify="right" if index else "left")
    for row in table.rows:
        shown.add_row(*row, style="bold" if row[0] == "learned" else "")
    Console(width=None if Console().is_terminal else 160).print(shown)
