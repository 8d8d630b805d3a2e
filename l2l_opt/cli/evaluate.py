"""l2l-opt evaluate."""

import json
from pathlib import Path
from typing import Any

import click
import torch
from click.core import ParameterSource
from rich.console import Console
from rich.table import Table

from l2l_opt.cli.common import device_options, prepare
from l2l_opt.cli.suite import judge_suite
from l2l_opt.evaluation.cache import DEFAULT_FOLDER
from l2l_opt.evaluation.plots import curves_png
from l2l_opt.evaluation.results import Result
from l2l_opt.evaluation.results import evaluate as judge
from l2l_opt.storage.files import write_atomically

SUITE_ONLY = ("baselines", "cache", "nproc")


@click.command()
@click.argument("rule")
@click.option("--task", default="digits-mlp", show_default=True, help="NAME or NAME:OPTION=VALUE,...")
@click.option(
    "--suite",
    default=None,
    show_default="none",
    help="Judge on many tasks instead of one: validation, held-out, or a file with one task a line.",
)
@click.option(
    "--horizon",
    "horizons",
    type=click.IntRange(min=1),
    multiple=True,
    show_default="100, of a suite 500 and 2000",
    help="Inner steps; repeatable.",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=None,
    show_default="10, of a suite 5",
    help="Students reported on.",
)
@click.option(
    "--tuning-seeds",
    type=click.IntRange(min=1),
    default=None,
    show_default="10, of a suite 3",
    help="Other students, on which baselines are tuned.",
)
@click.option(
    "--baselines",
    default="adamw,sgd,adam,muon,schedule-free,prodigy",
    show_default=True,
    help="With --suite: which to compare with; adamw is always among them.",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_FOLDER,
    show_default=True,
    help="With --suite: a folder where tuned baselines and all runs are kept.",
)
@click.option(
    "--nproc",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="With --suite: tasks judged at a time, each in a process with one thread.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all students.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="runs/evaluation",
    show_default=True,
    help="For evaluation.json, curves.png and, of a suite, profile.png.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    default=False,
    show_default="off",
    help="Print evaluation.json instead of a table.",
)
@device_options
@click.pass_context
def evaluate(
    context: click.Context,
    rule: str,
    task: str,
    suite: str | None,
    horizons: tuple[int, ...],
    seeds: int | None,
    tuning_seeds: int | None,
    baselines: str,
    cache: Path,
    nproc: int,
    seed: int,
    out: Path,
    as_json: bool,
    device: str,
    threads: int,
    dtype: str,
) -> None:
    """Judge RULE (a shipped name or a path) against tuned baselines, on one task or on a suite of tasks.

    Baselines get half-decade learning rates, a grid widened while the best sits at its edge, and students of their own
    to be tuned on, at each horizon. The rule is not tuned.

    On one task they are SGD, momentum, RMSprop and Adam, the last with a constant rate and with a cosine. On a suite
    they are AdamW, SGD with momentum, Muon (constant and cosine), Adam, and Schedule-Free AdamW and Prodigy with their
    defaults; speed-ups in steps and in seconds, test losses and intervals over tasks are reported too, and all is kept
    in --cache, so that another rule costs its own runs only.

    Example: l2l-opt evaluate default-2 --task digits-mlp --horizon 100 --horizon 200 --out runs/evaluation

    Example: l2l-opt evaluate default-2 --suite held-out --out runs/held-out
    """
    given = [name for name in SUITE_ONLY if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if suite is None and given:
        raise click.UsageError(f"--{given[0]} is for suites; got it without --suite, leave it out or name a suite")
    if suite is not None:
        if context.get_parameter_source("task") is ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"--suite and --task exclude each other; got {suite!r} and {task!r}, use one of them"
            )
        torch.set_num_threads(threads)
        judge_suite(
            rule,
            suite,
            out=out,
            cache=cache,
            baselines=baselines,
            num_processes=nproc,
            device=device,
            dtype=dtype,
            as_json_text=as_json,
            say=lambda message: click.echo(message, err=True),
            horizons=tuple(dict.fromkeys(horizons)) or (500, 2000),
            num_seeds=seeds or 5,
            tuning_seeds=tuning_seeds or 3,
            seed=seed,
        )
        return
    horizons = horizons or (100,)
    teacher, family = prepare(rule, task, out, device=device, threads=threads, dtype=dtype)
    results = judge(
        teacher,
        family,
        task=task,
        horizons=list(dict.fromkeys(horizons)),
        num_seeds=seeds or 10,
        tuning_seeds=tuning_seeds or 10,
        seed=seed,
        settings={"rule": rule, "name": teacher.registry_name, "digest": (teacher.card or {}).get("digest")},
        on_progress=lambda message: click.echo(message, err=True),
    )
    content = json.dumps({"results": [result.record() for result in results]}, indent=2) + "\n"
    write_atomically(out / "evaluation.json", content.encode())
    write_atomically(out / "curves.png", curves_png(results))
    if as_json:
        click.echo(content, nl=False)
        return
    for horizon in dict.fromkeys(horizons):
        _print_table([result for result in results if result.horizon == horizon])
    click.echo(f"figures: {out / 'evaluation.json'}")
    click.echo(f"curves: {out / 'curves.png'}")


def _print_table(results: list[Result]) -> None:
    first = results[0]
    table = Table(title=f"{first.task}, {first.horizon} steps, {len(first.final_losses)} seeds: final training loss")
    for heading, justify in (
        ("optimizer", "left"),
        ("mean", "right"),
        ("95 % interval", "right"),
        ("settings", "left"),
        ("seconds a seed", "right"),
    ):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for result in sorted(results, key=lambda result: result.mean):
        low, high = result.interval
        row = [
            result.optimizer,
            f"{result.mean:.4g}",
            f"{low:.4g} to {high:.4g}",
            _settings(result.settings),
            f"{result.seconds:.2g}",
        ]
        table.add_row(*row, style="bold" if result.optimizer == "learned" else "")
    Console(width=None if Console().is_terminal else 110).print(table)


def _settings(settings: dict[str, Any]) -> str:
    return f"lr {settings['lr']:.3g}" if "lr" in settings else "nothing tuned"
