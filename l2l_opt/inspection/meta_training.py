"""A meta-training run in TensorBoard."""

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from l2l_opt.meta_trainer import MetaTrainer, OuterStep, Validation


class MetaTrainingLog:
    """Writes a point an outer step, and the students' whole loss curve at each validation.

    Charts over outer steps: ``meta/loss``, ``meta/gradient_norm``, ``meta/lr``, ``meta/skipped``, ``meta/seconds``,
    ``meta/coordinates_per_second``, ``validation/figure``. Over inner steps, one run a validation
    (``validation-000120``): ``student/loss``.

    Args:
        folder: of the events.
        start: outer steps done already; later points of an earlier life are hidden.
    """

    def __init__(self, folder: Path, *, start: int = 0):
        self.folder = folder
        self.writer = SummaryWriter(str(folder), purge_step=start or None)

    def on_outer_step(self, trainer: MetaTrainer, step: OuterStep) -> None:
        for tag, value in {
            "meta/loss": step.meta_loss,
            "meta/gradient_norm": step.meta_gradient_norm,
            "meta/lr": step.meta_lr,
            "meta/skipped": trainer.num_skipped,
            "meta/seconds": step.seconds,
            "meta/coordinates_per_second": step.coordinates_per_second,
        }.items():
            self.writer.add_scalar(tag, value, step.number)

    def on_validation(self, trainer: MetaTrainer, validation: Validation) -> None:
        self.writer.add_scalar("validation/figure", validation.figure, validation.outer_step)
        with SummaryWriter(str(self.folder / f"validation-{validation.outer_step:06d}")) as writer:
            for step, loss in enumerate(validation.curve.tolist()):
                writer.add_scalar("student/loss", loss, step)

    def close(self) -> None:
        self.writer.close()
