"""A progress bar for meta-training; where there is no terminal, a line a validation."""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from l2l_opt.meta_training.outer_loop import OuterLoop, OuterStep, Validation


class MetaTrainingProgress:
    """Shows outer steps, time left, the validation metric, coordinates a second and skipped outer steps.

    Args:
        trainer: whose run is shown.
        minutes: the run's time budget, or None.
    """

    def __init__(self, trainer: OuterLoop, *, minutes: float | None):
        self.console = Console(stderr=True)
        self.metric, self.throughput = "validation ...", ""
        self.seconds, self.coordinate_steps = 0.0, 0
        self.started = time.monotonic()
        self.progress = Progress(
            TextColumn("outer step"),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            # On a narrow terminal these two give way.
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            TextColumn(
                "{task.fields[metric]}, {task.elapsed:.0f} s so far",
                table_column=Column(ratio=4, no_wrap=True, overflow="ellipsis"),
            ),
            console=self.console,
            disable=not self.console.is_terminal,
            expand=True,
        )
        budget = "" if minutes is None else f", at most {minutes:g} minutes"
        self.console.print(
            f"meta-training {type(trainer.rule).__name__}: {trainer.outer_steps} outer steps{budget}", highlight=False
        )
        self.bar = self.progress.add_task(
            "", total=trainer.outer_steps, completed=trainer.outer_steps_done, metric=self.metric
        )

    def on_outer_step(self, trainer: OuterLoop, step: OuterStep) -> None:
        self.seconds += step.seconds
        self.coordinate_steps += step.coordinate_steps
        self.throughput = f", {self.coordinate_steps / self.seconds:.3g} coordinates/s"
        self.progress.update(self.bar, completed=step.number, metric=self.metric + self.throughput + _skipped(trainer))

    def on_validation(self, trainer: OuterLoop, validation: Validation) -> None:
        best = min(validation.metric, trainer.best.metric if trainer.best is not None else validation.metric)
        self.metric = f"validation {validation.metric:.4g} (best {best:.4g})"
        self.progress.update(self.bar, metric=self.metric)
        if not self.console.is_terminal:
            seconds = time.monotonic() - self.started
            self.console.print(
                f"outer step {validation.outer_step} of {trainer.outer_steps}, {seconds:.0f} s: "
                f"{self.metric}{self.throughput}{_skipped(trainer)}",
                highlight=False,
                soft_wrap=True,
            )

    def __enter__(self) -> "MetaTrainingProgress":
        self.progress.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.progress.stop()


def _skipped(trainer: OuterLoop) -> str:
    return f", {trainer.num_skipped} skipped (meta-gradient not finite)" if trainer.num_skipped else ""
