"""l2l-opt evaluate."""

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from l2l_opt.checkpoint import write_atomically
from l2l_opt.cli.common import device_options, prepare
from l2l_opt.evaluation.plots import curves_png
from l2l_opt.evaluation.protocol import Result
from l2l_opt.evaluation.protocol import evaluate as judge


@click.command()
@click.argument("rule")
@click.option("--task", default="digits-mlp", show_default=True, help="NAME or NAME:OPTION=VALUE,...")
@click.option(
    "--horizon",
    "horizons",
    type=click.IntRange(min=1),
    multiple=True,
    default=(100,),
    show_default=True,
    help="Inner steps; repeatable.",
)
@click.option("--seeds", type=click.IntRange(min=1), default=10, show_default=True, help="Students reported on.")
@click.option(
    "--tuning-seeds",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Other students, on which baselines are tuned.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all students.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="runs/evaluation",
    show_default=True,
    help="For evaluation.json and curves.png.",
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
def evaluate(
    rule: str,
    task: str,
    horizons: tuple[int, ...],
    seeds: int,
    tuning_seeds: int,
    seed: int,
    out: Path,
    as_json: bool,
    device: str,
    threads: int,
    dtype: str,
) -> None:
    """Judge RULE (a shipped name or a path) against SGD, momentum, RMSprop and Adam, each tuned for the task.

    Baselines get half-decade learning rates, a grid widened while the best sits at its edge, and students of their own
    to be tuned on, at each horizon; Adam comes with a constant rate and with a cosine. The rule is not tuned.

    Example: l2l-opt evaluate default-1 --task digits-mlp --horizon 100 --horizon 200 --out runs/evaluation
    """
    teacher, family = prepare(rule, task, out, device=device, threads=threads, dtype=dtype)
    results = judge(
        teacher,
        family,
        task=task,
        horizons=list(dict.fromkeys(horizons)),
        num_seeds=seeds,
        tuning_seeds=tuning_seeds,
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
