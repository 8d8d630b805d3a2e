"""A few-shot meta-training run in TensorBoard."""

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from l2l_opt.few_shot.meta_learner import MetaLearner
from l2l_opt.inspection.tensorboard.scalars import outer_step_scalars, validation_scalars, write_scalars
from l2l_opt.meta_training.outer_loop import OuterStep, Validation

EVERY = 20
"""Outer steps between points: one takes milliseconds, and there are tens of thousands."""


class FewShotLog:
    """Scalars of few-shot meta-training, over outer steps.

    ``Loss/student``, the loss of adapted students on query sets, which TensorBoard opens on and which is this loop's
    ``meta/loss`` too; ``meta/gradient_norm``, ``meta/lr``, ``meta/skipped``, ``meta/seconds``,
    ``meta_gradient_norm/W`` of each tensor learned, and ``validation/figure``.

    Args:
        folder: of the events.
        start: outer steps done already; later points of an earlier start are hidden.
    """

    def __init__(self, folder: Path, *, start: int = 0):
        self.writer = SummaryWriter(str(folder), purge_step=start or None)

    def on_outer_step(self, trainer: MetaLearner, step: OuterStep) -> None:
        if step.number % EVERY:
            return
        write_scalars(self.writer, {"Loss/student": step.meta_loss} | outer_step_scalars(trainer, step), step.number)

    def on_validation(self, trainer: MetaLearner, validation: Validation) -> None:
        write_scalars(self.writer, validation_scalars(validation), validation.outer_step)

    def close(self) -> None:
        self.writer.close()
