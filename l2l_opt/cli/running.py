"""A resumable run from the command line: its options, what watches it, and how it ended."""

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click

from l2l_opt.cli.messages import Stopped, command_line, note_kept, say
from l2l_opt.cli.options import JSON, SEED, Declared, count, option, option_group, path_option, switch
from l2l_opt.cli.progress import MetaTrainingProgress
from l2l_opt.cli.recipes import CONFIG
from l2l_opt.meta_training.options import SCHEDULES
from l2l_opt.meta_training.run import Observer, ResumableRun


def meta_optimizer_options(*more: Declared, clip_norm: float) -> Callable[..., Any]:
    """Declare the options of AdamW on what is learned, with others of the command."""
    return option_group(
        "Meta-optimizer",
        count("--outer-steps", 1000, "Outer steps, each an update of what is learned."),
        option("--meta-lr", 1e-3, "AdamW's learning rate on what is learned."),
        option("--meta-lr-schedule", "constant", "Of that rate, over outer steps.", type=click.Choice(SCHEDULES)),
        option("--clip-norm", clip_norm, "Bound on the meta-gradient's norm."),
        *more,
    )


def validate_every(default: int) -> Declared:
    """--validate-every."""
    return count("--validate-every", default, "Outer steps between validations; 0 for one at the end only.", least=0)


def run_options(*more: Declared) -> Callable[..., Any]:
    """Declare the options of ``RunOptions``, --seed and --config, with others of the command."""
    return option_group(
        "Run",
        CONFIG,
        path_option("--out", "runs/meta-train", "The run's folder."),
        SEED,
        *more,
        option(
            "--minutes",
            None,
            "Minutes after which it stops, with a checkpoint.",
            show_default="no limit",
            type=click.FloatRange(min=0, min_open=True),
        ),
        switch("--resume", "Go on from the last checkpoint in --out, or start where there is none."),
        switch("--allow-changed-options", "With --resume: go on with other options than the run had."),
        count("--checkpoint-every", None, "Outer steps between checkpoints.", show_default="3 minutes"),
        JSON,
    )


@dataclass(frozen=True)
class RunOptions:
    """The options of a run that do not change its result."""

    out: Path
    minutes: float | None
    resume: bool
    allow_changed_options: bool
    checkpoint_every: int | None
    as_json: bool

    @classmethod
    def taken_from(cls, options: dict[str, Any]) -> "RunOptions":
        """Take them out of the options of a command."""
        return cls(**{field.name: options.pop(field.name) for field in fields(cls)})

    def of_folder(self) -> dict[str, Any]:
        """Return what a ``ResumableRun`` is made with."""
        return {
            "resume": self.resume,
            "allow_changed_options": self.allow_changed_options,
            "say": say,
        }


def follow(run: ResumableRun, options: RunOptions, *, artefact: str, watchers: Sequence[Callable[[], Any]]) -> None:
    """Take a run to its end under a progress bar, and print how it ended and where what it made lies.

    Args:
        run: ready to go.
        options: of the command.
        artefact: the name of the file with the best of what was learned.
        watchers: make observers that are closed at the end.

    Raises:
        Stopped: a signal ended it.
        click.ClickException: nothing was learned.
    """
    note_kept("the run's last checkpoint is kept", "--resume")
    with contextlib.ExitStack() as stack:
        observers: list[Observer] = []
        if run.ranks.is_first:
            observers = [stack.enter_context(MetaTrainingProgress(run.trainer, minutes=options.minutes))]
            observers += [stack.enter_context(contextlib.closing(watcher())) for watcher in watchers]
        ending = run.go(minutes=options.minutes, checkpoint_every=options.checkpoint_every, observers=observers)
    if not run.ranks.is_first:
        if ending.startswith("SIG") or not run.has_learned:
            raise SystemExit(1)
        return
    record = json.loads((run.folder / "run.json").read_text())
    if options.as_json:
        click.echo(json.dumps(record, indent=2))
    else:
        metric, steps = record["figures"]["validation"], run.trainer.outer_steps
        shown = "none yet" if metric is None else f"{metric:.4g}"
        click.echo(f"{ending} after outer step {record['outer_step']} of {steps}, best validation metric {shown}")
        name = artefact if run.has_learned else "last"
        click.echo(f"{name}: {run.folder / name}.safetensors")
        click.echo(f"curves: tensorboard --logdir {run.folder / 'events'}")
    if ending.startswith("SIG"):
        done = run.trainer.outer_steps_done
        raise Stopped(f"stopped by {ending} after outer step {done}; go on with: {command_line('--resume')}")
    if not run.has_learned:
        raise click.ClickException(run.trainer.why_nothing_was_learned)
