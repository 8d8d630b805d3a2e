"""What the tab keeps in event files: tags, arrays in half precision, and what a header holds.

An unroll is a header and chunks of some steps each. Every array is a summary of its own tag, since TensorBoard keeps
ten summaries a tag and drops the others:

    unroll/ID/about                  the header: JSON
    unroll/ID/steps/CHUNK            [T] float64, inner steps; each chunk has one, the others as there are such data
    unroll/ID/loss/CHUNK             [T] float32
    unroll/ID/table/CHUNK            [tensors * quantities, T] halves
    unroll/ID/weights/CHUNK          [sampled weights * 3, T] halves: of each tensor its values, gradients, updates
    unroll/ID/hidden/CHUNK           [followed weights * units, T] halves
    unroll/ID/response/STEP          [tensors * 2 * points, points] halves: of each tensor the rule's rows and Adam's
    unroll/ID/response_at/STEP       [tensors, 4] float32: index, reach, gradient and momentum at that step

ID is the outer step of the rule, 0 outside meta-training. Of halves a row is its power of two, then its numbers over
it.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

PLUGIN = "l2l_unrolls"
VERSION = 1
QUANTITIES = (
    "update_over_parameter",
    "cosine_with_descent",
    "cosine_with_adam",
    "update_rms",
    "gradient_rms",
    "skipped",
)
"""Of each tensor at each step, as ``UnrollMonitor`` defines them; skipped is the share of its steps so far."""
LARGEST_HALF_EXPONENT = 14
"""Numbers of a row are brought to 2^14 at most: the largest half is just below 2^16."""


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of an unroll.

    Attributes:
        name: of the tensor.
        shape: of it, or of the shard on this device.
        sampled: flat places of the weights that are recorded, ascending.
        followed: places within ``sampled`` of those whose hidden units are recorded.
        probe: the place within ``sampled`` of the weight whose response is recorded.
    """

    name: str
    shape: tuple[int, ...]
    sampled: tuple[int, ...]
    followed: tuple[int, ...] = ()
    probe: int = 0


@dataclass(frozen=True)
class Header:
    """What an unroll is of.

    Attributes:
        optimizer: class of the optimizer, or name of the rule.
        horizon: planned steps; None where unknown.
        tensors: those that are recorded, in order.
        units: recurrent units of a weight; 0 where it has none.
        quantities: columns of the table, in order.
        version: of the format.
    """

    optimizer: str
    horizon: int | None
    tensors: tuple[TensorEntry, ...]
    units: int = 0
    quantities: tuple[str, ...] = QUANTITIES
    version: int = field(default=VERSION)

    def text(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> "Header":
        """Read a header.

        Raises:
            ValueError: it is no header, or one of a later version.
        """
        try:
            found: dict[str, Any] = json.loads(text)
            version = int(found["version"])
            if version <= VERSION:
                tensors = tuple(_entry(**entry) for entry in found["tensors"])
                return cls(
                    str(found["optimizer"]),
                    None if found["horizon"] is None else int(found["horizon"]),
                    tensors,
                    int(found["units"]),
                    tuple(map(str, found["quantities"])),
                    version,
                )
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError("its header is damaged") from error
        raise ValueError(f"it is of format {version}; this version of l2l_opt reads up to {VERSION}, use a later one")


def _entry(name: str, shape: Any, sampled: Any, followed: Any, probe: Any) -> TensorEntry:
    entry = TensorEntry(
        str(name), tuple(map(int, shape)), tuple(map(int, sampled)), tuple(map(int, followed)), int(probe)
    )
    places = [*entry.followed, entry.probe] if entry.sampled else entry.followed
    if not all(0 <= place < len(entry.sampled) for place in places):
        raise ValueError("a place is outside the sample")
    return entry


def to_halves(values: np.ndarray) -> np.ndarray:
    """Round to half precision, row by row relative to the row's largest.

    Errors are below 2^-11 of a number; of numbers below 2^-28 of the row's largest, below 2^-39 of that.

    Args:
        values: ``[rows, columns]``; infinities and NaN stay what they are.

    Returns:
        ``[rows, 1 + columns]`` float16, the first column the row's power of two.
    """
    values = np.asarray(values, dtype=np.float64)
    sizes = np.where(np.isfinite(values), np.abs(values), 0.0).max(axis=1, initial=0.0)
    powers = np.where(sizes > 0, np.frexp(sizes)[1], 0) - LARGEST_HALF_EXPONENT
    return np.concatenate([powers[:, None], np.ldexp(values, -powers[:, None])], axis=1).astype(np.float16)


def from_halves(packed: np.ndarray) -> np.ndarray:
    """Undo ``to_halves``: float32 ``[rows, columns]``."""
    powers = packed[:, :1].astype(np.int32)
    return np.ldexp(packed[:, 1:].astype(np.float64), powers).astype(np.float32)


def tag_of(unroll: int, part: str, number: int | None = None) -> str:
    """Return the tag of one array of an unroll; of the header, without a number."""
    return f"unroll/{unroll}/{part}" + ("" if number is None else f"/{number:08d}")


def parse_tag(tag: str) -> tuple[int, str, int]:
    """Return unroll, part and number of a tag.

    Raises:
        ValueError: no tag of this tab.
    """
    pieces = tag.split("/")
    if len(pieces) not in (3, 4) or pieces[0] != "unroll":
        raise ValueError(f"no tag of an unroll: {tag!r}")
    return int(pieces[1]), pieces[2], int(pieces[3]) if len(pieces) == 4 else -1
