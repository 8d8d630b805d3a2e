"""l2l-opt inspect."""

from pathlib import Path
from typing import Any

import click

from l2l_opt.cli.common import device_options, wrong_usage
from l2l_opt.cli.evaluating import (
    COUNT,
    TASK_HELP,
    begin,
    cache_option,
    config_of,
    names_in,
    say,
    seed_option,
    tuning_seeds_option,
)
from l2l_opt.evaluation.baselines.tuning import BASELINES
from l2l_opt.evaluation.task import TaskEvaluator
from l2l_opt.inspection.tensorboard.dashboard import inspect_rule
from l2l_opt.storage.files import make_writable_folder

NAMES = tuple(baseline.name for baseline in BASELINES)


@click.command()
@click.argument("rule")
@click.option("--task", default="digits-mlp", show_default=True, help=TASK_HELP)
@click.option("--horizon", type=COUNT, default=100, show_default=True, help="Inner steps.")
@click.option(
    "--baselines", default=",".join(NAMES), show_default=True, help="Tuned and drawn beside it; none for none."
)
@tuning_seeds_option()
@click.option("--every", type=COUNT, default=1, show_default=True, help="Steps between points.")
@click.option(
    "--histogram-every",
    type=click.IntRange(min=0),
    default=None,
    show_default="a fiftieth of the horizon",
    help="Steps; 0 for no histograms.",
)
@seed_option
@click.option(
    "--logdir", type=click.Path(path_type=Path), default="runs/inspection", show_default=True, help="For TensorBoard."
)
@click.option(
    "--pictures",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    show_default="none",
    help="A folder for the pictures as SVG files too.",
)
@cache_option
@device_options
def inspect(
    rule: str,
    task: str,
    horizon: int,
    every: int,
    histogram_every: int | None,
    logdir: Path,
    pictures: Path | None,
    **options: Any,
) -> None:
    """Train one student with RULE (a shipped name or a path) in a plain loop, and write all of it to TensorBoard.

    One chart a quantity, with the rule and each tuned baseline in it: the student's loss; of each tensor the update's
    size, its direction against the gradient's and Adam's, and the effective learning rate; the rule's gates and hidden
    state; histograms; pictures of the hidden state, of single coordinates and of the rule's response.

    Example: l2l-opt inspect default-2 --task digits-mlp --logdir runs/inspection
    """
    wanted = () if options["baselines"] == "none" else names_in(options["baselines"])
    options |= {"baselines": ",".join(wanted), "cache": options["cache"] if wanted else None}
    with wrong_usage():
        unknown = [name for name in wanted if name not in NAMES]
        if unknown:
            words = ", ".join(NAMES)
            raise ValueError(f"a baseline must be one of {words}; got {unknown[0]!r}, use one of these or none")
        config = config_of(options, horizons=(horizon,), classical=True)
        evaluator = TaskEvaluator(task, config, say=say)
    loaded = begin(rule, logdir, config, threads=options["threads"])
    if pictures is not None:
        make_writable_folder(pictures)
    for run in inspect_rule(
        loaded,
        evaluator.tasks,
        task=task,
        horizon=horizon,
        seed=config.seed,
        folder=logdir,
        baselines=[(own, evaluator.tuned(own, horizon)) for own in BASELINES if own.name in wanted],
        every=every,
        histogram_every=-(-horizon // 50) if histogram_every is None else histogram_every,
        pictures_folder=pictures,
    ):
        click.echo(f"{run.optimizer}: loss {run.losses[0]:.4g} at the first step, {run.final_loss:.4g} at the end")
    click.echo(f"look at it: tensorboard --logdir {logdir}")
