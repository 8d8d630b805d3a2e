"""l2l-opt inspect."""

from pathlib import Path
from typing import Any

import click

from l2l_opt.cli.common import wrong_usage
from l2l_opt.cli.evaluating import (
    CACHE,
    begin,
    config_of,
    names_in,
    task_option,
    tuning_seeds,
)
from l2l_opt.cli.messages import say
from l2l_opt.cli.options import (
    SEED,
    GroupedCommand,
    count,
    device_options,
    names_option,
    option_group,
    path_option,
)
from l2l_opt.evaluation.baselines.tuning import BASELINES
from l2l_opt.evaluation.statistics import refuse_without_finite_results
from l2l_opt.evaluation.task import TaskEvaluator
from l2l_opt.inspection.tensorboard.dashboard import inspect_rule
from l2l_opt.storage.files import make_writable_folder

NAMES = tuple(baseline.name for baseline in BASELINES)


@click.command(cls=GroupedCommand)
@click.argument("rule")
@option_group(
    "Evaluation",
    task_option("--task", "digits-mlp"),
    count("--horizon", 100, "Inner steps."),
    names_option("--baselines", ",".join(NAMES), "Baselines drawn beside it, each tuned, or none"),
    tuning_seeds(3),
    SEED,
    CACHE,
)
@option_group(
    "Output",
    count(
        "--every",
        None,
        "Inner steps between points, of the tab Unrolls and of charts.",
        show_default="a thousandth of the horizon, a hundredth in charts",
    ),
    count(
        "--histogram-every",
        None,
        "Inner steps between histograms; 0 for none.",
        show_default="a twentieth of the horizon",
        least=0,
    ),
    path_option("--logdir", "runs/inspection", "Folder for TensorBoard."),
    path_option("--pictures", None, "Folder for the pictures as SVG files too.", show_default="none"),
)
@device_options
def inspect(rule: str, task: str, horizon: int, logdir: Path, pictures: Path | None, **options: Any) -> None:
    """Train one student with RULE (a shipped name or a path) in a plain loop, and write all of it to TensorBoard.

    The tab Unrolls plays it step by step: losses, tensors, single weights, the rule's response at each state. Beside it
    one chart a quantity, with the rule and each tuned baseline in it: the student's loss; of each tensor the update's
    size, its direction against the gradient's and Adam's, and the effective learning rate; the rule's gates and hidden
    state; histograms; pictures of the hidden state, of single coordinates and of the rule's response.

    Example: l2l-opt inspect default-4 --task digits-mlp --logdir runs/inspection
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
    runs = inspect_rule(
        loaded,
        evaluator.tasks,
        task=task,
        horizon=horizon,
        seed=config.seed,
        folder=logdir,
        baselines=[(own, evaluator.tuned(own, horizon)) for own in BASELINES if own.name in wanted],
        every=options["every"],
        histogram_every=options["histogram_every"],
        pictures_folder=pictures,
    )
    finals = []
    for run in runs:
        finals.append(run.final_loss)
        click.echo(f"{run.optimizer}: loss {run.losses[0]:.4g} at the first step, {run.final_loss:.4g} at the end")
    refuse_without_finite_results(task, finals)
    click.echo(f"look at it: tensorboard --logdir {logdir}")
