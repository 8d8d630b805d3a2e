"""l2l-opt inspect."""

from pathlib import Path

import click

from l2l_opt.cli.common import DTYPES, device_options, plugin_digests, prepare, wrong_usage
from l2l_opt.evaluation.baselines.tuning import BASELINES, Baseline
from l2l_opt.evaluation.cache import DEFAULT_FOLDER
from l2l_opt.evaluation.task import Protocol, TaskJudge
from l2l_opt.inspection.tensorboard.dashboard import inspect_rule
from l2l_opt.storage.files import make_writable_folder

NAMES = tuple(baseline.name for baseline in BASELINES)


@click.command()
@click.argument("rule")
@click.option("--task", default="digits-mlp", show_default=True, help="NAME or NAME:OPTION=VALUE,...")
@click.option("--horizon", type=click.IntRange(min=1), default=100, show_default=True, help="Inner steps.")
@click.option(
    "--baselines", default=",".join(NAMES), show_default=True, help="Tuned and drawn beside it; none for none."
)
@click.option(
    "--tuning-seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Students baselines are tuned on."
)
@click.option("--every", type=click.IntRange(min=1), default=1, show_default=True, help="Steps between points.")
@click.option(
    "--histogram-every",
    type=click.IntRange(min=0),
    default=None,
    show_default="a fiftieth of the horizon",
    help="Steps; 0 for no histograms.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the student.")
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
@click.option(
    "--cache-dir",
    type=click.Path(path_type=Path),
    default=DEFAULT_FOLDER,
    show_default=True,
    help="Where tuned learning rates are kept.",
)
@device_options
def inspect(
    rule: str,
    task: str,
    horizon: int,
    baselines: str,
    tuning_seeds: int,
    every: int,
    histogram_every: int | None,
    seed: int,
    logdir: Path,
    pictures: Path | None,
    cache_dir: Path,
    device: str,
    threads: int,
    dtype: str,
) -> None:
    """Train one student with RULE (a shipped name or a path) in a plain loop, and write all of it to TensorBoard.

    One chart a quantity, with the rule and each tuned baseline in it: the student's loss; of each tensor the update's
    size, its direction against the gradient's and Adam's, and the effective learning rate; the rule's gates and hidden
    state; histograms; pictures of the hidden state, of single coordinates and of the rule's response.

    Example: l2l-opt inspect default-2 --task digits-mlp --logdir runs/inspection
    """
    with wrong_usage():
        wanted = _named(baselines)
        judge = (
            TaskJudge(
                task,
                Protocol(
                    horizons=(horizon,),
                    tuning_seeds=tuning_seeds,
                    seed=seed,
                    baselines=(),
                    device=device,
                    dtype=DTYPES[dtype],
                    cache=cache_dir,
                    plugins=plugin_digests(),
                ),
                say=lambda message: click.echo(message, err=True),
            )
            if wanted
            else None
        )
    if pictures is not None:
        make_writable_folder(pictures)
    teacher, tasks = prepare(rule, task, logdir, device=device, threads=threads, dtype=dtype)
    runs = inspect_rule(
        teacher,
        tasks,
        task=task,
        horizon=horizon,
        seed=seed,
        folder=logdir,
        baselines=[(baseline, judge.tuned(baseline, horizon)) for baseline in wanted] if judge else [],
        every=every,
        histogram_every=-(-horizon // 50) if histogram_every is None else histogram_every,
        pictures_folder=pictures,
        say=lambda message: click.echo(message, err=True),
    )
    for run in runs:
        click.echo(f"{run.optimizer}: loss {run.losses[0]:.4g} at the first step, {run.final_loss:.4g} at the end")
    click.echo(f"look at it: tensorboard --logdir {logdir}")


def _named(names: str) -> list[Baseline]:
    """Baselines by name.

    Raises:
        ValueError: an unknown one.
    """
    if names == "none":
        return []
    wanted = list(dict.fromkeys(filter(None, names.split(","))))
    unknown = [name for name in wanted if name not in NAMES]
    if unknown:
        raise ValueError(f"a baseline must be one of {', '.join(NAMES)}; got {unknown[0]!r}, use one of these or none")
    return [baseline for baseline in BASELINES if baseline.name in wanted]
