"""Writes an unroll's records: of each point of a monitor a few numbers a tensor, and a few weights of each."""

import itertools
import time
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from tensorboard.compat.proto.summary_pb2 import (
    DATA_CLASS_TENSOR,  # pyright: ignore[reportAttributeAccessIssue]
    Summary,  # pyright: ignore[reportAttributeAccessIssue]
    SummaryMetadata,  # pyright: ignore[reportAttributeAccessIssue]
)
from tensorboard.compat.proto.tensor_pb2 import TensorProto  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.util.tensor_util import make_tensor_proto
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from l2l_opt.inspection.measures.optimizer_state import at_coordinates
from l2l_opt.inspection.tensorboard.scalars import write_summary
from l2l_opt.inspection.unrolls_tab.records import PLUGIN, QUANTITIES, Header, TensorEntry, tag_of, to_halves

CHUNK = 64
"""Points that are written together."""
CHUNK_SECONDS = 30.0
"""After which fewer are."""
SAMPLED, SAMPLED_OF_EACH = 200, (4, 48)
"""Weights of all tensors together, and of each at least and at most."""
FOLLOWED_ROWS = 2048
"""Hidden units of all weights together."""


def choose_weights(shapes: Mapping[str, tuple[int, ...]], strides: Mapping[str, int], units: int) -> list[TensorEntry]:
    """Choose the weights of each tensor that are recorded, evenly spread.

    Args:
        shapes: of the tensors.
        strides: of each tensor, whose multiples are the places to choose from.
        units: recurrent units of a weight.
    """
    least, most = SAMPLED_OF_EACH
    count = min(most, max(least, SAMPLED // max(1, len(shapes))))
    left = FOLLOWED_ROWS // units if units else 0
    followed_of_each = min(4, max(1, left // max(1, len(shapes))))
    entries = []
    for name, shape in shapes.items():
        available = -(-int(np.prod(shape)) // strides[name])
        places = np.unique(np.linspace(0, available - 1, min(count, available)).astype(int)) if available else []
        sampled = tuple(int(place) * strides[name] for place in places)
        followed = min(followed_of_each, len(sampled), left)
        left -= followed
        where = [
            int(place) for place in np.unique(np.linspace(0, len(sampled) - 1, 2 * followed + 1).astype(int)[1::2])
        ]
        probe = where[len(where) // 2] if where else len(sampled) // 2
        entries.append(TensorEntry(name, shape, sampled, tuple(where), probe))
    return entries


class UnrollRecorder:
    """Gathers points, and writes them in chunks.

    Args:
        writer: where to.
        header: what is recorded.
        outer_step: of the rule in its meta-training; None outside.
    """

    def __init__(self, writer: SummaryWriter, header: Header, *, outer_step: int | None = None):
        self.writer, self.header, self.outer_step = writer, header, outer_step
        self.unroll = unroll = outer_step or 0
        self._numbers = itertools.count()
        self._places = {entry.name: torch.tensor(entry.sampled, dtype=torch.long) for entry in header.tensors}
        self._points: list[tuple[int, float, list[np.ndarray]]] = []
        self._written = time.monotonic()
        self._write({tag_of(unroll, "about"): header.text()}, step=0)

    def gather(self, name: str, values: Iterable[Tensor]) -> Tensor:
        """Values of the sampled weights of a tensor: ``[values, sampled]``, on the tensor's device."""
        return torch.stack([value.reshape(-1)[self._places[name].to(value.device)].float() for value in values])

    def units_of(self, entry: TensorEntry, hidden: Tensor) -> Tensor:
        """Hidden units of the followed weights of a tensor: ``[followed, units]``."""
        places = self._places[entry.name][list(entry.followed)]
        return at_coordinates(hidden, torch.Size(entry.shape), places.to(hidden.device)).t().float()

    def add(
        self,
        step: int,
        loss: float,
        table: Mapping[str, list[float]],
        weights: Mapping[str, Tensor],
        hidden: Mapping[str, Tensor],
    ) -> None:
        """Take in one point; a tensor without values had no gradient.

        Args:
            step: inner step.
            loss: before it.
            table: by tensor, its ``QUANTITIES``.
            weights: by tensor ``[3, sampled]``: values, gradients, updates.
            hidden: by tensor ``[followed, units]``.
        """
        tensors, units = self.header.tensors, self.header.units
        nothing = [float("nan")] * len(QUANTITIES)
        columns = [np.array([table.get(entry.name, nothing) for entry in tensors]).reshape(-1)]
        for found, sizes in (
            (weights, [3 * len(entry.sampled) for entry in tensors]),
            (hidden, [units * len(entry.followed) for entry in tensors]),
        ):
            pieces = [
                found[entry.name].reshape(-1).cpu().numpy() if entry.name in found else np.full(size, np.nan)
                for entry, size in zip(tensors, sizes, strict=True)
            ]
            columns.append(np.concatenate(pieces) if pieces else np.empty(0))
        self._points.append((step, loss, columns))
        if len(self._points) >= CHUNK or time.monotonic() - self._written > CHUNK_SECONDS:
            self.flush()

    def add_responses(self, step: int, rows: Mapping[int, tuple[tuple[float, ...], Tensor]]) -> None:
        """Write responses at a step.

        Args:
            step: inner step.
            rows: by index of the tensor its reach, gradient and momentum, and ``[2, points, points]``: the rule's
                response (NaN where there is no rule) and Adam's.
        """
        if not rows:
            return
        at = np.array([(index, *numbers) for index, (numbers, _) in rows.items()], dtype=np.float32)
        surfaces = torch.cat([surfaces.reshape(-1, surfaces.shape[-1]).cpu() for _, surfaces in rows.values()])
        arrays = {
            tag_of(self.unroll, "response_at", step): at,
            tag_of(self.unroll, "response", step): to_halves(surfaces.numpy()),
        }
        self._write(arrays, step=step)

    def flush(self) -> None:
        """Write what has been gathered."""
        if not self._points:
            return
        number = next(self._numbers)
        steps, losses, columns = zip(*self._points, strict=True)
        parts = {"steps": np.array(steps, dtype=np.float64), "loss": np.array(losses, dtype=np.float32)}
        for part, own in zip(("table", "weights", "hidden"), zip(*columns, strict=True), strict=True):
            if own[0].size:
                parts[part] = to_halves(np.stack(own, axis=1))
        self._points, self._written = [], time.monotonic()
        self._write({tag_of(self.unroll, part, number): array for part, array in parts.items()}, step=steps[-1])

    def _write(self, values: Mapping[str, np.ndarray | str], *, step: int) -> None:
        # A record of meta-training lies at its outer step, so that a run that goes on hides what it repeats.
        write_summary(self.writer, summary_of(values), step if self.outer_step is None else self.outer_step)


def summary_of(values: Mapping[str, np.ndarray | str]) -> Summary:
    """Return arrays and texts as one summary of the tab's, by tag."""
    metadata = SummaryMetadata(data_class=DATA_CLASS_TENSOR)
    metadata.plugin_data.plugin_name = PLUGIN
    return Summary(
        value=[Summary.Value(tag=tag, metadata=metadata, tensor=_proto(value)) for tag, value in values.items()]
    )


def _proto(value: np.ndarray | str) -> TensorProto:
    if isinstance(value, str):
        return make_tensor_proto(value)
    # make_tensor_proto writes halves number by number, as whole numbers of three bytes.
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=length) for length in value.shape])
    kind = make_tensor_proto(value.dtype.type(0)).dtype
    return TensorProto(dtype=kind, tensor_shape=shape, tensor_content=np.ascontiguousarray(value).tobytes())
