"""Many scalars of one step as one event: a chart a tensor and quantity would otherwise cost a record each."""

from collections.abc import Mapping

from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from torch.utils.tensorboard import SummaryWriter


def write_scalars(writer: SummaryWriter, values: Mapping[str, float], step: int) -> None:
    """Write tag -> value at a step; values that are NaN, which say that there is none, are left out.

    Raises:
        ValueError: a writer that is closed.
    """
    if writer.file_writer is None:
        raise ValueError("a writer must be open while it is written to; got a closed one, detach before closing it")
    present = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items() if value == value]
    if present:
        writer.file_writer.add_summary(Summary(value=present), step)
