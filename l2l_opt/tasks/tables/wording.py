"""How messages about a table name its parts."""

import warnings
from collections.abc import Iterable
from typing import Any

from l2l_opt.checks import DataNote
from l2l_opt.tasks.tables.columns import Notation


def written(notation: Notation) -> str:
    """Return how numbers are written, where that is not the plain way."""
    ways = ["a decimal comma"] * (notation.mark == ",") + [f"the unit {notation.unit}"] * bool(notation.unit)
    return f" with {' and '.join(ways)}" if ways else ""


def where(column: Any, place: int) -> str:
    """Return the line of a file, or the row of a table, that a cell stands in."""
    return f"{'line' if column.index.name == 'line' else 'row'} {column.index[place]}"


def some(items: Iterable[str], most: int = 8) -> str:
    """Return the first few of several, and how many more there are."""
    items = list(items)
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def note(message: str) -> None:
    """Say what was done to a table that a user may want otherwise."""
    warnings.warn(message, DataNote, stacklevel=3)
