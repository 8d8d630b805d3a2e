"""l2l-opt specialise."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import torch

from l2l_opt.cli.common import (
    COUNT,
    JSON,
    SEED,
    GroupedCommand,
    device_options,
    option,
    option_group,
    plugin_digests,
    read_device,
    switch,
    wrong_usage,
)
from l2l_opt.cli.evaluating import TASK_HELP, names_in, say
from l2l_opt.cli.progress import MetaTrainingProgress
from l2l_opt.inspection.tensorboard.meta_training import MetaTrainingLog
from l2l_opt.meta_training.estimators.meta_loss import SPLITS
from l2l_opt.meta_training.run import Observer
from l2l_opt.meta_training.trainer import MetaTrainer
from l2l_opt.specialising.run import Specialisation, SpecialiseOptions, StoppedBySignalError


@click.command(cls=GroupedCommand)
@click.argument("rule", default="default-2")
@option_group(
    "Task",
    option("--task", "digits-mlp", TASK_HELP + "; what you train again and again."),
    option("--horizon", 250, "Steps of a training.", type=click.IntRange(min=2)),
    option("--loss-on", "train", "The batches of the losses that count.", type=click.Choice(SPLITS)),
)
@option_group(
    "Run",
    option("--minutes", 10.0, "Of meta-training.", type=click.FloatRange(min=0, min_open=True)),
    option("--out", "runs/specialised", "The run's folder.", type=click.Path(path_type=Path)),
    switch("--resume", "Go on from what lies in --out, or start where there is nothing."),
    SEED,
    JSON,
)
@option_group(
    "Comparison",
    option("--baselines", "adamw,muon", "Tuned baselines to compare with; '' for none."),
    option("--seeds", 10, "Students reported on.", type=COUNT),
    option("--tuning-seeds", 5, "Other students, on which baselines are tuned.", type=COUNT),
    option(
        "--check checks",
        None,
        "Another size, length or task to try the result on: hidden=128, horizon=1000, task=NAME; repeatable.",
        show_default="none",
        multiple=True,
    ),
)
@device_options
def specialise(rule: str, out: Path, resume: bool, as_json: bool, threads: int, **options: Any) -> None:
    """Make RULE (default-2 where none is named) better on your own kind of task.

    It is meta-trained on trainings of the task, from where it stands: students, windows and outer steps are decided
    from the speed of this machine and written into OUT/run.json first. The best is kept if it is better on students
    that it was not chosen by, else the old rule is. OUT/specialised.html compares it on fresh students with the old
    rule, with that rule's best step size, and with tuned baselines, and the number of trainings from which on it pays.

    Example: l2l-opt specialise --task digits-mlp:hidden=64 --minutes 10 --out runs/mine

    Example: l2l-opt specialise default-2 --task novel-rnn --check hidden=128 --check horizon=1000
    """
    torch.set_num_threads(threads)
    with wrong_usage():
        device = str(read_device(options.pop("device")))
        baselines = names_in(options.pop("baselines"))
        own = SpecialiseOptions(rule=rule, device=device, baselines=baselines, **options)
        run = Specialisation(out, own, resume=resume, say=say, watch=_watch, plugins=plugin_digests())
    try:
        found = run.go()
    except StoppedBySignalError as error:
        raise click.ClickException(
            f"a specialisation must reach its end to be done; got {error}, go on with --resume"
        ) from error
    if as_json:
        click.echo(json.dumps(run.record, indent=2))
        return
    click.echo(found.sentence)
    click.echo(f"rule: {out / 'rule.safetensors'}")
    if found.comparison is not None:
        click.echo(f"page: {out / 'specialised.html'}")
    click.echo(f"curves: tensorboard --logdir {out}")


@contextlib.contextmanager
def _watch(trainer: MetaTrainer, folder: Path) -> Iterator[list[Observer]]:
    """Give a progress bar and TensorBoard's events of a stage."""
    log = MetaTrainingLog(folder / "events", start=trainer.outer_steps_done)
    with MetaTrainingProgress(trainer, minutes=None) as progress, contextlib.closing(log):
        yield [progress, log]
