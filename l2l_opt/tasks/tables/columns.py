"""What a cell of a table means, whatever other rows there are: a number as people write them, a word, or nothing."""

import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

MISSING = frozenset(("", "na", "n/a", "#n/a", "<na>", "nan", "null", "none", "?", "-"))
"""Cells without a value, in small letters."""
LARGEST = 1e100
"""Of numbers; squares and differences of larger ones overflow."""

_PLAIN = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_CODE = re.compile(r"0[0-9]+")
_INTEGRAL = re.compile(r"(-?(?:0|[1-9][0-9]{0,14}))(?:\.0*)?")
_UNIT = re.compile(r"[$€£¥%]")
_GROUPS = re.compile(r"(?<=[0-9])[ '\u00a0\u202f\u2019](?=[0-9]{3}(?![0-9]))")
_NUMBER = {
    mark: re.compile(
        rf"(?=[+-]?\{mark}?[0-9])[+-]?([1-9][0-9]{{0,2}}(\{other}[0-9]{{3}})+|[0-9]*)(\{mark}[0-9]*)?([eE][+-]?[0-9]+)?"
    )
    for mark, other in (".,", ",.")
}


class Notation(NamedTuple):
    """How a column's numbers are written.

    Attributes:
        mark: of decimals, ``.`` or ``,``; the other one parts thousands.
        unit: one of ``$``, ``€``, ``£``, ``¥``, which cells may have, or ``%``, which all must have.
    """

    mark: str = "."
    unit: str = ""


PLAIN = Notation()


def texts(column: Any) -> list[str]:
    """Cells of a pandas Series as stripped text; None and NaN are empty."""
    return ["" if gone else str(cell).strip() for cell, gone in zip(column.tolist(), column.isna(), strict=True)]


def is_missing(cell: str) -> bool:
    """Whether a cell has no value."""
    return cell.casefold() in MISSING


def is_plain(cell: str) -> bool:
    """Whether a cell is a number as programs write them."""
    return _PLAIN.fullmatch(cell) is not None


def is_code(cell: str) -> bool:
    """Whether a cell is digits that are no number, such as 02."""
    return _CODE.fullmatch(cell) is not None


def as_word(cell: str) -> str:
    """A cell as the name of a kind, under which 1 and 1.0 are the same."""
    whole = _INTEGRAL.fullmatch(cell)
    return str(int(whole[1])) if whole else cell


def is_integer(cell: str) -> bool:
    """Whether a cell is a whole number, 1.0 included and codes excluded."""
    return _INTEGRAL.fullmatch(cell) is not None


def read_number(cell: str, notation: Notation = PLAIN) -> float:
    """The number in a cell, NaN where there is none."""
    mark, unit = notation
    if unit == "%" and unit not in cell:
        return math.nan
    bare = cell.replace("\u2212", "-")
    if unit:
        bare = bare.replace(unit, "", 1).strip().replace("- ", "-")
    bare = _GROUPS.sub("", bare)
    if not _NUMBER[mark].fullmatch(bare):
        return math.nan
    return float(bare.replace("," if mark == "." else ".", "").replace(",", "."))


def notation_of(cells: Iterable[str]) -> Notation | None:
    """The first notation by which all cells are numbers; 1,234 alone is read as 1234. None where there is none."""
    distinct = set(cells)
    units = _units(distinct)
    if len(units) > 1:
        return None
    for mark in _NUMBER:
        notation = Notation(mark, *units)
        if not any(math.isnan(read_number(cell, notation)) for cell in distinct):
            return notation
    return None


def unlike(cells: list[str]) -> str:
    """The first cell that is no number by the notation by which most cells are."""
    ways = [Notation(mark, unit) for unit in ("", *sorted(_units(cells))) for mark in _NUMBER]
    usual = max(ways, key=lambda way: sum(not math.isnan(read_number(cell, way)) for cell in cells))
    return next(cell for cell in cells if math.isnan(read_number(cell, usual)))


def is_like_a_number(cell: str) -> bool:
    """Whether a cell is a number by some notation."""
    return notation_of([cell]) is not None


def _units(cells: Iterable[str]) -> set[str]:
    return {unit for cell in cells for unit in _UNIT.findall(cell)}
