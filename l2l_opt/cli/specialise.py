"""l2l-opt specialise."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import torch

from l2l_opt.cli.common import fields_of, wrong_usage
from l2l_opt.cli.evaluating import names_in, task_option, tuning_seeds
from l2l_opt.cli.messages import Stopped, command_line, note_kept, say
from l2l_opt.cli.options import (
    JSON,
    SEED,
    GroupedCommand,
    count,
    device_options,
    names_option,
    option,
    option_group,
    path_option,
    switch,
)
from l2l_opt.cli.plugins import plugin_digests
from l2l_opt.cli.progress import MetaTrainingProgress
from l2l_opt.meta_training.estimators.meta_loss import SPLITS
from l2l_opt.meta_training.run import Observer
from l2l_opt.meta_training.trainer import MetaTrainer
from l2l_opt.pretrained import DEFAULT
from l2l_opt.specialising.options import SpecialiseOptions
from l2l_opt.specialising.run import Specialisation, StoppedBySignalError


@click.command(cls=GroupedCommand)
@click.argument("rule", default=DEFAULT)
@option_group(
    "Task",
    task_option("--task", "digits-mlp"),
    count("--horizon", 250, "Inner steps of a training.", least=2),
    option("--loss-on", "train", "Batches that losses are of.", type=click.Choice(SPLITS)),
)
@option_group(
    "Run",
    option("--minutes", 10.0, "Minutes of meta-training.", type=click.FloatRange(min=0, min_open=True)),
    path_option("--out", "runs/specialised", "Folder of the run."),
    switch("--resume", "Go on from what lies in --out, or start where there is nothing."),
    SEED,
    JSON,
)
@option_group(
    "Comparison",
    names_option("--baselines", "adamw,muon", "Tuned baselines to compare with, or ''"),
    count("--seeds", 10, "Students reported on."),
    tuning_seeds(5),
    option(
        "--check checks",
        None,
        "Also try hidden=128, horizon=1000 or task=NAME; repeatable.",
        show_default="none",
        multiple=True,
    ),
)
@device_options
def specialise(rule: str, out: Path, resume: bool, as_json: bool, **options: Any) -> None:
    """Make RULE (default-4 where none is named) better on your own kind of task.

    RULE is a shipped name, a file, or a registered rule such as rnnprop, which begins from fresh weights.
    It is meta-trained on trainings of the task, from where it stands: students, windows and outer steps are decided
    from the speed of this machine and written into OUT/run.json first. The best is kept if it is better on students
    that it was not chosen by, else the old rule is. OUT/specialised.html compares it on fresh students with the old
    rule, with that rule's best step size, and with tuned baselines, and has the training from which on it pays.

    Example: l2l-opt specialise --task digits-mlp:hidden=64 --minutes 10 --out runs/mine

    Example: l2l-opt specialise default-4 --task novel-rnn --check hidden=128 --check horizon=1000
    """
    torch.set_num_threads(options["threads"])
    options["baselines"] = names_in(options["baselines"])
    with wrong_usage():
        own = SpecialiseOptions(rule=rule, **fields_of(SpecialiseOptions, options))
        run = Specialisation(
            out, own, resume=resume, say=say, watch=_watch, plugins=plugin_digests(), command=command_line()
        )
    try:
        found = run.go()
    except StoppedBySignalError as error:
        raise Stopped(f"stopped by {error}; go on with: {command_line('--resume')}") from error
    if as_json:
        click.echo(json.dumps(run.record, indent=2))
        return
    click.echo(found.sentence)
    click.echo(f"rule: {out / 'rule.safetensors'}")
    if found.comparison is not None:
        click.echo(f"page: {out / 'specialised.html'}")
    click.echo(f"curves: tensorboard --logdir {out}")


@contextlib.contextmanager
def _watch(trainer: MetaTrainer) -> Iterator[list[Observer]]:
    """Give a progress bar of a stage, from which on there is something to keep."""
    note_kept("what was learned is kept", "--resume")
    with MetaTrainingProgress(trainer, minutes=None) as progress:
        yield [progress]
