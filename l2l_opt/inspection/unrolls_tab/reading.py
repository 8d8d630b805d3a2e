"""Reads unrolls back from TensorBoard's data, array by array, whatever else lies in the event files."""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tensorboard.data.provider import DataProvider, RunTagFilter

from l2l_opt.inspection.unrolls_tab.records import PLUGIN, Header, from_halves, parse_tag, tag_of

CACHED_BYTES = 256 << 20
"""Of arrays, as they lie in event files."""
COLUMNS = 600
"""Of a heat map, at most: more would be narrower than pixels."""
READ_AT_ONCE = 1000
"""Summaries of one tag; an unroll that was written twice has two."""


class UnreadableError(ValueError):
    """A run or an unroll cannot be shown; the message is a sentence."""


@dataclass(frozen=True)
class Unroll:
    """One unroll, of which chunks are read as they are needed.

    Attributes:
        header: what it is of.
        steps: ``[points]``, inner steps.
        losses: ``[points]``.
        starts: the point that each chunk begins with.
        chunks: their numbers.
        responses: steps at which there are responses.
    """

    header: Header
    steps: np.ndarray
    losses: np.ndarray
    starts: list[int]
    chunks: list[int]
    responses: list[int]


class UnrollReader:
    """Gives what the tab shows.

    Args:
        provider: TensorBoard's.
    """

    def __init__(self, provider: DataProvider):
        self.provider = provider
        self._arrays: OrderedDict[tuple, np.ndarray] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def tags(self, ctx: Any, experiment: str) -> dict[str, dict[int, dict[str, float]]]:
        """All arrays that there are: run -> unroll -> tag -> when it was last written."""
        found: dict[str, dict[int, dict[str, float]]] = {}
        listed = self.provider.list_tensors(ctx, experiment_id=experiment, plugin_name=PLUGIN) or {}
        for run, series in sorted(listed.items()):
            unrolls = found.setdefault(run, {})
            for tag, own in series.items():
                try:
                    number, _, _ = parse_tag(tag)
                except ValueError:
                    continue  # Of another tool under our name: it is none of ours.
                unrolls.setdefault(number, {})[tag] = own.max_wall_time
        return found

    def view(self, ctx: Any, experiment: str, run: str, number: int) -> "UnrollView":
        """Return one unroll.

        Raises:
            UnreadableError: there is no such unroll, or its header or steps are damaged.
        """
        tags = self.tags(ctx, experiment).get(run, {}).get(number)
        if not tags:
            raise UnreadableError(f"There is no unroll {number} in the run {run!r}.")
        return UnrollView(self, ctx, experiment, run, number, tags)

    def arrays(self, ctx: Any, experiment: str, run: str, tags: dict[str, float]) -> list[np.ndarray]:
        """Read arrays, those that are not kept all at once.

        Args:
            ctx: of the request.
            experiment: TensorBoard's name of what it serves.
            run: TensorBoard's.
            tags: tag -> when it was written.

        Raises:
            UnreadableError: one is not there, or damaged.
        """
        keys = {tag: (experiment, run, tag, written) for tag, written in tags.items()}
        with self._lock:
            found = {tag: self._arrays[key] for tag, key in keys.items() if key in self._arrays}
            for tag in found:
                self._arrays.move_to_end(keys[tag])
        missing = [tag for tag in tags if tag not in found]
        if missing:
            only = RunTagFilter(runs=[run], tags=missing)
            data: Any = self.provider.read_tensors(
                ctx, experiment_id=experiment, plugin_name=PLUGIN, downsample=READ_AT_ONCE, run_tag_filter=only
            )
            data = data or {}
            for tag in missing:
                try:
                    found[tag] = np.asarray(max(data[run][tag], key=lambda datum: datum.wall_time).numpy)
                except (KeyError, ValueError, TypeError) as error:
                    raise UnreadableError(f"The record {tag} of the run {run!r} is damaged.") from error
        with self._lock:
            for tag in missing:
                if keys[tag] not in self._arrays:
                    self._arrays[keys[tag]] = found[tag]
                    self._bytes += found[tag].nbytes
            while self._bytes > CACHED_BYTES and len(self._arrays) > 1:
                self._bytes -= self._arrays.popitem(last=False)[1].nbytes
        return [found[tag] for tag in tags]


class UnrollView:
    """One unroll, and what is shown of it.

    Args:
        reader: which reads its arrays.
        ctx: of the request.
        experiment: TensorBoard's name of what it serves.
        run: TensorBoard's.
        number: of the unroll.
        tags: tag -> when it was written.

    Raises:
        UnreadableError: its header or steps are damaged.
    """

    def __init__(self, reader: UnrollReader, ctx: Any, experiment: str, run: str, number: int, tags: dict[str, float]):
        self._reader, self._place, self.run, self.number = reader, (ctx, experiment, run), run, number
        about = tag_of(number, "about")
        if about not in tags:
            raise UnreadableError(f"Unroll {number} of the run {run!r} has no header yet, or has lost it.")
        # What an earlier unroll in the same folder has left, which this one does not write over, is not of it.
        self._tags = {tag: written for tag, written in tags.items() if written >= tags[about]}
        try:
            self.header = Header.read(_text(self._array(about)))
        except ValueError as error:
            raise UnreadableError(f"Unroll {number} of the run {run!r} cannot be read: {error}.") from error
        self._sizes = self._rows_of_parts()
        # A chunk of which a part is not there yet is not shown.
        self.chunks = [
            chunk
            for chunk in self._numbers("steps")
            if all(tag_of(number, part, chunk) in self._tags for part in ("loss", *self._sizes))
        ]
        self.responses = [
            step for step in self._numbers("response") if tag_of(number, "response_at", step) in self._tags
        ]

    def unroll(self) -> Unroll:
        """Read what the page needs first."""
        steps = self._steps()
        losses = [own.reshape(-1) for own in self._arrays("loss")]
        if [own.size for own in losses] != [own.size for own in steps]:
            raise UnreadableError(f"The losses of unroll {self.number} of the run {self.run!r} are damaged.")
        starts = np.cumsum([0, *(own.size for own in steps)])[:-1]
        return Unroll(
            self.header, _joined(steps), _joined(losses), starts.astype(int).tolist(), self.chunks, self.responses
        )

    def table(self, chunk: int) -> np.ndarray:
        """All tensors at the points of a chunk: ``[points, tensors, quantities]``."""
        if chunk not in self.chunks or "table" not in self._sizes:
            raise UnreadableError(f"There is no chunk {chunk} in unroll {self.number} of the run {self.run!r}.")
        (packed,) = self._parts("table", [chunk])
        values = from_halves(packed)
        tensors, quantities = len(self.header.tensors), len(self.header.quantities)
        return values.reshape(tensors, quantities, -1).transpose(2, 0, 1)

    def quantities(self, tensor: int) -> np.ndarray:
        """One tensor at all points: ``[quantities, points]``."""
        count = len(self.header.quantities)
        return self._rows("table", slice(tensor * count, (tensor + 1) * count))

    def weight(self, tensor: int, place: int) -> np.ndarray:
        """One weight at all points: its values, gradients and updates, ``[3, points]``."""
        first, count = self._first_weight(tensor), self._sampled(tensor)
        return np.concatenate(
            [self._rows("weights", slice(row, row + 1)) for row in range(first + place, first + 3 * count, count)]
        )

    def hidden(self, tensor: int, place: int) -> np.ndarray:
        """Hidden units of one weight at points of a heat map: ``[units, columns]``; no rows where none are recorded."""
        entry, units = self.header.tensors[tensor], self.header.units
        if not units or place not in entry.followed:
            return np.empty((0, 0), dtype=np.float32)
        before = sum(len(own.followed) for own in self.header.tensors[:tensor])
        first = (before + entry.followed.index(place)) * units
        return self._rows("hidden", slice(first, first + units))[:, self.columns()]

    def updates(self, tensor: int) -> np.ndarray:
        """Read updates of all sampled weights of a tensor at points of a heat map: ``[sampled, columns]``."""
        first, count = self._first_weight(tensor), self._sampled(tensor)
        return self._rows("weights", slice(first + 2 * count, first + 3 * count))[:, self.columns()]

    def columns(self) -> np.ndarray:
        """Points that heat maps show: all of them, or evenly spread ones."""
        points = sum(own.size for own in self._steps())
        return (
            np.unique(np.linspace(0, points - 1, min(points, COLUMNS)).round().astype(int))
            if points
            else np.empty(0, int)
        )

    def response(self, tensor: int) -> Iterator[dict[str, Any]]:
        """Yield the responses of a tensor's weight, by step, the rule's ``[points, points]`` and Adam's."""
        for step in self.responses:
            at = self._array(tag_of(self.number, "response_at", step))
            surfaces = from_halves(self._array(tag_of(self.number, "response", step)))
            points = surfaces.shape[1]
            if at.ndim != 2 or at.shape[1] != 4 or len(surfaces) != len(at) * 2 * points:
                raise UnreadableError(f"The responses at step {step} of the run {self.run!r} are damaged.")
            for own, both in zip(at, surfaces.reshape(len(at), 2, points, points), strict=True):
                if int(own[0]) == tensor:
                    reach, gradient, momentum = map(float, own[1:])
                    yield {"step": step, "reach": reach, "gradient": gradient, "momentum": momentum, "surfaces": both}

    def _first_weight(self, tensor: int) -> int:
        return 3 * sum(len(entry.sampled) for entry in self.header.tensors[:tensor])

    def _sampled(self, tensor: int) -> int:
        return len(self.header.tensors[tensor].sampled)

    def _rows(self, part: str, rows: slice) -> np.ndarray:
        width = rows.stop - rows.start
        found = [from_halves(packed[rows]) for packed in self._parts(part, self.chunks)]
        return np.concatenate(found, axis=1) if found else np.empty((width, 0), dtype=np.float32)

    def _rows_of_parts(self) -> dict[str, int]:
        """Rows of each part of a chunk, as the header has them; those without rows are not written."""
        tensors = self.header.tensors
        rows = {
            "table": len(tensors) * len(self.header.quantities),
            "weights": self._first_weight(len(tensors)),
            "hidden": self.header.units * sum(len(entry.followed) for entry in tensors),
        }
        return {part: count for part, count in rows.items() if count}

    def _steps(self) -> list[np.ndarray]:
        return [own.reshape(-1) for own in self._arrays("steps")]

    def _parts(self, part: str, chunks: list[int]) -> list[np.ndarray]:
        """Read a part of chunks, each ``[rows, 1 + points]`` halves."""
        found = self._arrays(part, chunks)
        for chunk, array in zip(chunks, found, strict=True):
            if array.dtype != np.float16 or array.ndim != 2 or array.shape[0] != self._sizes[part]:
                name = tag_of(self.number, part, chunk)
                raise UnreadableError(f"The record {name} of the run {self.run!r} is damaged.")
        return found

    def _numbers(self, part: str) -> list[int]:
        parsed = (parse_tag(tag) for tag in self._tags)
        return sorted(number for _, own, number in parsed if own == part and number >= 0)

    def _arrays(self, part: str, chunks: list[int] | None = None) -> list[np.ndarray]:
        tags = [tag_of(self.number, part, chunk) for chunk in (self.chunks if chunks is None else chunks)]
        return self._reader.arrays(*self._place, {tag: self._tags[tag] for tag in tags})

    def _array(self, tag: str) -> np.ndarray:
        return self._reader.arrays(*self._place, {tag: self._tags[tag]})[0]


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.empty(0)


def _text(value: np.ndarray) -> str:
    item = value.item() if value.size == 1 else b""
    return item.decode(errors="replace") if isinstance(item, bytes) else str(item)
