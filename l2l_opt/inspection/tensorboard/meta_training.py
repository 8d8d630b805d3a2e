"""A meta-training run in TensorBoard."""

import math
import time
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from l2l_opt.inspection.measures.meta_gradients import meta_gradient_by_position
from l2l_opt.inspection.pictures import figures
from l2l_opt.inspection.pictures.watched_run import watch
from l2l_opt.inspection.tensorboard.dashboard import Gallery, cadences_of, write_rule
from l2l_opt.inspection.tensorboard.layout import meta_training_layout
from l2l_opt.inspection.tensorboard.scalars import outer_step_scalars, validation_scalars, write_scalars
from l2l_opt.meta_training.outer_loop import OuterStep, Validation
from l2l_opt.meta_training.trainer import MetaTrainer

DASHBOARD_SECONDS = 240.0
LONGEST_UNROLL = 500
"""Inner steps of a dashboard's unroll, at most: it is paid for every few minutes."""


class MetaTrainingLog:
    """Writes a point an outer step, the students' whole loss curve at each validation, and now and then an unroll.

    Charts over outer steps: ``meta/loss``, ``meta/gradient_norm``, ``meta/lr``, ``meta/skipped``, ``meta/seconds``,
    ``meta/coordinates_per_second``; ``meta_gradient_norm/W`` of each weight tensor W of the rule; ``students/horizon_``
    and ``students/age_`` ``mean`` and ``max``; ``validation/figure``, and ``low`` and ``high``, its 95 % interval
    over students; ``student/final_loss`` of the unroll's student.
    Over inner steps, one run a validation (``validation-000120``): ``Loss/student``, and
    ``meta_gradient/by_position`` where an unroll was drawn too.

    Every few minutes, at a validation, the unroll of the rule as it is then: records of the tab "Unrolls"; pictures of
    the validation students before and after, of hidden state, coordinates and response surfaces, under the same names
    at each outer step, so that TensorBoard's slider goes through the rule's meta-training.

    Args:
        folder: of the events.
        start: outer steps done already; later points of an earlier start are hidden.
        dashboard_seconds: between unrolls; 0 for one at each validation, infinite for none.
    """

    def __init__(self, folder: Path, *, start: int = 0, dashboard_seconds: float = DASHBOARD_SECONDS):
        self.folder, self.dashboard_seconds = folder, dashboard_seconds
        self.writer = SummaryWriter(str(folder), purge_step=start or None)
        self.writer.add_custom_scalars(meta_training_layout())
        self._first: Validation | None = None
        self._last_dashboard = -math.inf

    def on_outer_step(self, trainer: MetaTrainer, step: OuterStep) -> None:
        horizons = [student.horizon for student in trainer.students.members]
        inner_steps = [student.inner_step for student in trainer.students.members]
        values = outer_step_scalars(trainer, step) | {
            "meta/coordinates_per_second": step.coordinates_per_second,
            "students/horizon_mean": float(np.mean(horizons)),
            "students/horizon_max": max(horizons),
            "students/age_mean": float(np.mean(inner_steps)),
            "students/age_max": max(inner_steps),
        }
        write_scalars(self.writer, values, step.number)

    def on_validation(self, trainer: MetaTrainer, validation: Validation) -> None:
        self._first = self._first or validation
        write_scalars(self.writer, validation_scalars(validation), validation.outer_step)
        with SummaryWriter(str(self.folder / f"validation-{validation.outer_step:06d}")) as writer:
            for step, loss in enumerate(validation.curve.tolist()):
                write_scalars(writer, {"Loss/student": loss}, step)
            if time.monotonic() - self._last_dashboard >= self.dashboard_seconds:
                self._draw(trainer, validation, writer)
                self._last_dashboard = time.monotonic()

    def _draw(self, trainer: MetaTrainer, validation: Validation, of_validation: SummaryWriter) -> None:
        rule, outer_step, estimator = trainer.rule, validation.outer_step, trainer.estimator
        horizon = min(trainer.validation_horizon, LONGEST_UNROLL)
        monitoring = cadences_of(horizon) | {"charts_every": 0, "histogram_every": 0, "outer_step": outer_step}
        run = watch(
            "learned",
            rule,
            trainer.validation_family,
            horizon=horizon,
            seed=trainer.seed,
            writer=self.writer,
            **monitoring,
        )
        self.writer.add_scalar("student/final_loss", run.final_loss, outer_step)
        write_rule(Gallery(self.writer), rule, run, step=outer_step)
        assert self._first is not None
        first, now = self._first.curve.numpy(), validation.curve.numpy()
        steps = (self._first.outer_step, outer_step)
        self.writer.add_figure(
            "student/before_and_after", figures.before_and_after(first, now, outer_steps=steps), outer_step
        )
        norms = meta_gradient_by_position(
            rule,
            trainer.validation_family,
            length=min(estimator.truncation_length, horizon),
            horizon=horizon,
            seed=trainer.seed,
            meta_loss=estimator.meta_loss,
        )
        for position, norm in enumerate(norms.tolist()):
            write_scalars(of_validation, {"meta_gradient/by_position": norm}, position)
        picture = figures.by_position(norms.numpy(), title=f"outer step {outer_step}")
        self.writer.add_figure("meta_gradient/by_position", picture, outer_step)

    def close(self) -> None:
        self.writer.close()
