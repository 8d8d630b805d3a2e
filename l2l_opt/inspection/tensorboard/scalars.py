"""Many scalars of one step as one event: a chart a tensor and quantity would otherwise cost a record each."""

from collections.abc import Mapping

from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from torch.utils.tensorboard import SummaryWriter

from l2l_opt.evaluation.statistics import mean_and_interval
from l2l_opt.meta_training.outer_loop import OuterLoop, OuterStep, Validation


def write_scalars(writer: SummaryWriter, values: Mapping[str, float], step: int) -> None:
    """Write tag -> value at a step; values that are NaN, where there is none, are left out.

    Raises:
        ValueError: a writer that is closed.
    """
    present = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items() if value == value]
    write_summary(writer, Summary(value=present), step)


def write_summary(writer: SummaryWriter, summary: Summary, step: int) -> None:
    """Write one event, where there is anything in it.

    Raises:
        ValueError: a writer that is closed.
    """
    if writer.file_writer is None:
        raise ValueError("a writer must be open while it is written to; got a closed one, detach before closing it")
    if summary.value:
        writer.file_writer.add_summary(summary, step)


def outer_step_scalars(loop: OuterLoop, step: OuterStep) -> dict[str, float]:
    """Return what is drawn of one outer step, whatever is learned; ``meta_gradient_norm/W`` for each tensor W."""
    values = {
        "meta/loss": step.meta_loss,
        "meta/gradient_norm": step.meta_gradient_norm,
        "meta/lr": step.meta_lr,
        "meta/skipped": float(loop.num_skipped),
        "meta/seconds": step.seconds,
    }
    return values | {f"meta_gradient_norm/{name}": norm for name, norm in step.norms.items()}


def validation_scalars(validation: Validation) -> dict[str, float]:
    """Return the metric of a validation, and the ends of its 95 % interval over what was validated on."""
    values = {"validation/figure": validation.metric}
    if validation.metrics is not None:
        _, (low, high) = mean_and_interval(validation.metrics.tolist())
        values |= {"validation/low": low, "validation/high": high}
    return values
