"""What kind a column of a table is of: numbers, words, or a number of the row."""

import re
from typing import Any

import numpy as np

from l2l_opt.tasks.tables import columns as of_columns
from l2l_opt.tasks.tables.columns import texts
from l2l_opt.tasks.tables.wording import note, where

_ID = re.compile(r"index|(.*[ _.-])?(id|uuid)|(.*[a-z])?I[dD]")
_CODE_NAME = re.compile(r"zip|plz|(zip|post|postal)[ _.-]?code", re.IGNORECASE)


def kind_of(column: Any, present: list[str]) -> str:
    """Numbers or words, by the cells that have a value.

    Raises:
        ValueError: cells that are no numbers among measured ones, or numbers written in several ways.
    """
    name = str(column.name)
    if column.dtype.kind in "biuf":
        return "numbers"
    codes = [cell for cell in present if of_columns.is_code(cell)]
    if _CODE_NAME.fullmatch(name) or (codes and len(set(map(len, present))) == 1 and "".join(present).isdigit()):
        note(f"column {name!r} holds codes such as {(codes or present)[0]!r} and is read as words, not numbers")
        return "words"
    if not codes and of_columns.notation_of(present) is not None:
        return "numbers"
    alike = [cell for cell in present if of_columns.is_like_a_number(cell) and cell not in codes]
    known = set(alike)
    others = [cell for cell in present if cell not in known]
    distinct = len(known)
    measured = 2 * len(alike) >= len(present) and (distinct > 10 or distinct > max(3, len(alike) / 2))
    if others and not measured:
        digits = next((cell for cell in others if cell[0].isdigit()), None)
        if digits or alike:
            beside = f" beside {alike[0]!r}" if alike else ""
            note(f"column {name!r} has {(digits or others[0])!r}{beside} and is read as words, not numbers")
        return "words"
    odd = others[0] if others else of_columns.unlike(alike)
    place = texts(column).index(odd)
    raise ValueError(
        f"a column of numbers must hold numbers written in one way; got {odd!r} in {where(column, place)}, column "
        f"{name!r}, mend it, leave the cell empty, or name the column by --ignore or --words (of a task ignore, words)"
    )


def numbers_rows(name: str, values: np.ndarray) -> bool:
    """Whether numbers are all different whole ones of a column called an id, or count rows one by one, shuffled too."""
    if len(np.unique(values)) < len(values) or not (values == np.round(values)).all():
        return False
    in_order = values if len(values) < 20 else np.sort(values)
    return _ID.fullmatch(name) is not None or (len(values) >= 10 and bool((np.diff(in_order) == 1).all()))
