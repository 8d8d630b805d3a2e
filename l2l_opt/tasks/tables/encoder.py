"""Rows of a table: read, and encoded as numbers; what kind each column is of is decided once and kept."""

import difflib
import math
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from l2l_opt.checks import DataNote, check_choices, nearest_first
from l2l_opt.tasks.tables import columns as of_columns
from l2l_opt.tasks.tables.columns import Notation, as_word, is_missing, read_number, texts
from l2l_opt.tasks.tables.csv_file import read_csv

if TYPE_CHECKING:
    from pandas import DataFrame

MOST_CATEGORIES = 50
"""Of a column of words; the rarer ones are like words that were never seen."""
ROLES = {"numbers": "numbers", "words": "words", "id": "an id", "ignore": "left out"}
"""What a user can say that a column is, and how that reads."""

_NOT_A_CLASS = of_columns.MISSING - {"-", "none"} | {"inf", "-inf"}
_ID = re.compile(r"index|(.*[ _.-])?(id|uuid)|(.*[a-z])?I[dD]")
_CODE_NAME = re.compile(r"zip|plz|(zip|post|postal)[ _.-]?code", re.IGNORECASE)


@dataclass(frozen=True)
class Table:
    """Rows of a file.

    Attributes:
        columns: all but the label's, as ``read_csv`` gives them.
        labels: of each row, whole numbers where all are, words otherwise; none where no column was named.
    """

    columns: "DataFrame"
    labels: np.ndarray

    @property
    def classes(self) -> list[str]:
        """Different labels, whole numbers in their order."""
        return [str(name) for name in np.unique(self.labels)]

    def targets(self) -> Tensor:
        """``[rows]``, indices into ``classes``."""
        return torch.from_numpy(np.unique(self.labels, return_inverse=True)[1])


def read_table(file: str | os.PathLike[str], *, label: str | None) -> Table:
    """Read a CSV file with a header, labelled or not.

    Args:
        file: as ``read_csv`` takes it.
        label: the column of classes, in which 0 and 0.0 are one; None where there is none.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not CSV, no header or rows, a ragged row, a row without a label, no such column, nothing but labels.
    """
    rows = read_csv(file)
    if not len(rows):
        raise ValueError(f"a table must have a header and rows; got 0 rows in {str(file)!r}, add them")
    if label is not None and label not in rows.columns:
        raise ValueError(
            f"the label's column must be in the table; got {label!r}, use one of "
            f"{_some(nearest_first(label, rows.columns))}"
        )
    short = rows.isna().any(axis=1)
    if short.any():
        line = rows.index[int(short.argmax())]
        raise ValueError(
            f"every row must have as many cells as the header; got {int(rows.loc[line].notna().sum())} in line {line} "
            f"of {str(file)!r} where the header has {len(rows.columns)}, mend it"
        )
    columns = rows.drop(columns=[] if label is None else [label])
    if not len(columns.columns):
        header = list(rows.columns)
        raise ValueError(f"a table must have other columns than its label; got {header} in {str(file)!r}, add some")
    return Table(columns, np.array([]) if label is None else _labels(rows[label]))


def _labels(column: Any) -> np.ndarray:
    cells = texts(column)
    for line, cell in zip(column.index, cells, strict=True):
        if cell.casefold() in _NOT_A_CLASS:
            raise ValueError(
                f"every cell must have a value in the label's column; got {cell!r} in line {line}, column "
                f"{column.name!r}, fill it in or leave the row out"
            )
    if all(map(of_columns.is_integer, cells)):
        return np.array([int(as_word(cell)) for cell in cells])
    return np.array(_one_spelling([as_word(cell) for cell in cells]))


def _one_spelling(words: list[str]) -> list[str]:
    """Labels of which those that differ by case or blanks alone are one, as most are written; that is said."""
    spellings: dict[str, Counter[str]] = {}
    for word in words:
        spellings.setdefault("".join(word.casefold().split()), Counter())[word] += 1
    several = [counts for counts in spellings.values() if len(counts) > 1]
    if not several or len(spellings) < 2:
        return words
    shown = _some(" and ".join(f"{word!r} ({count})" for word, count in counts.most_common()) for counts in several)
    _note(f"labels that differ by case or blanks alone are one class: {shown}")
    usual = {word: counts.most_common(1)[0][0] for counts in several for word in counts}
    return [usual.get(word, word) for word in words]


@dataclass(frozen=True)
class TableEncoder:
    """Columns as inputs of a model: numbers less their mean over their deviation, words as one input each.

    A column of numbers whose largest values lie far out (above 10 deviations of the middle half) is compressed by
    asinh first. A missing number is the mean; a missing word, like one that is not known, is none of the words. What
    is done that a user may want otherwise is said in a ``DataNote``.

    Attributes:
        numbers: column -> (middle, spread, whether compressed, mean, deviation).
        words: column -> its words.
        notations: column of numbers -> (mark, unit) of ``Notation``, where it is not the plain one.
        ids: columns that name rows, left out of the inputs.
    """

    numbers: dict[str, list[Any]]
    words: dict[str, list[str]]
    notations: dict[str, list[str]] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)

    @classmethod
    def fit(
        cls,
        columns: "DataFrame | Mapping[str, Sequence[Any]]",
        roles: Mapping[str, str] | None = None,
        *,
        measured_on: Sequence[int] | None = None,
    ) -> "TableEncoder":
        """Decide what kind each column is of, and learn means, deviations and words.

        Args:
            columns: of numbers, or of text that may be numbers.
            roles: column -> numbers, words, id or ignore, where it shall not be decided by its cells.
            measured_on: places of the rows that means and deviations are of, e.g. those for training; all where None.

        Raises:
            ValueError: a column of numbers with a cell that is none, no column left, or a role of no column.
        """
        import pandas

        frame, roles = pandas.DataFrame(columns), roles or {}
        for name, role in roles.items():
            check_choices(ROLES, **{f"the kind of column {name!r}": role})
            if name not in frame.columns:
                names = _some(nearest_first(name, map(str, frame.columns)))
                raise ValueError(f"a column must be in the table; got {name!r} to be {ROLES[role]}, use one of {names}")
        encoder, left_out = cls({}, {}), []
        for name in frame.columns:
            reason = encoder._enter(frame[name], roles.get(name), slice(None) if measured_on is None else measured_on)
            left_out += [f"{name!r} ({reason})"] if reason else []
        if left_out:
            _note(f"left out, unless named as numbers or words: {_some(left_out)}")
        if not encoder.columns:
            raise ValueError(
                f"a table must have a column of numbers, or of words that repeat; got {_some(map(repr, frame.columns))}"
                ", add one, or name as words or numbers what was left out"
            )
        return encoder

    @property
    def columns(self) -> list[str]:
        """Those that inputs are made of."""
        return [*self.numbers, *self.words]

    @property
    def num_inputs(self) -> int:
        return len(self.numbers) + sum(map(len, self.words.values()))

    def encode(self, columns: "DataFrame | Mapping[str, Sequence[Any]]") -> Tensor:
        """``[rows, num_inputs]``, float32.

        Raises:
            ValueError: a column is missing, or holds something else where there were numbers.
        """
        import pandas

        frame = pandas.DataFrame(columns)
        self.check_columns(frame)
        inputs: list[Tensor] = []
        gaps: Counter[str] = Counter()
        news: Counter[str] = Counter()
        for name, how in self.numbers.items():
            values = torch.tensor(self.values(frame[name]))
            gaps[name] = int(values.isnan().sum())
            inputs.append(((_shaped(values, how) - how[3]) / how[4]).nan_to_num(0).clamp(-1e6, 1e6).unsqueeze(-1))
        for name, known in self.words.items():
            cells = texts(frame[name])
            # Models of 0.1 know words as they were written.
            words = [cell if cell in known else as_word(cell) for cell in cells]
            found = np.array(words, dtype=object)[:, None] == np.array(known, dtype=object)
            gaps[name] = sum(map(is_missing, cells))
            news[name] = int((~found.any(axis=1)).sum()) - sum(is_missing(cell) and cell not in known for cell in cells)
            inputs.append(torch.from_numpy(found).double())
        for counts, what in ((gaps, "without a value, taken as the mean or as no word"), (news, "of unknown words")):
            if counts.total():
                _note(f"cells {what}: {_some(f'{count} in {name!r}' for name, count in counts.items() if count)}")
        return torch.cat(inputs, dim=1).float()

    def check_columns(self, table: "DataFrame") -> None:
        """Refuse a table that lacks columns.

        Raises:
            ValueError: one that inputs are made of.
        """
        missing = [name for name in self.columns if name not in table.columns]
        if missing:
            others = [str(name) for name in table.columns if name not in self.columns]
            near = difflib.get_close_matches(missing[0].casefold(), [name.casefold() for name in others], n=1)
            same = next((name for name in others if near and name.casefold() == near[0]), None)
            fix = "add it, with empty cells where nothing is known, or make a model without it (--ignore)"
            raise ValueError(
                f"a table must have the columns a model was made with; got none named {_some(map(repr, missing))}, "
                + (fix if same is None else f"did you mean {same!r}? rename it, or {fix}")
            )

    def values(self, column: Any) -> np.ndarray:
        """Return a column's numbers, NaN where there is no value.

        Raises:
            ValueError: a cell that is no number, or one too large.
        """
        notation = Notation(*self.notations.get(str(column.name), ()))
        if column.dtype.kind in "biuf":
            cells, values = column.tolist(), column.to_numpy(float, na_value=math.nan)
            wrong = np.isinf(values)
        else:
            cells = texts(column)
            values = np.array([read_number(cell, notation) for cell in cells])
            wrong = np.isnan(values) & ~np.array([is_missing(cell) for cell in cells])
        wrong |= np.abs(np.nan_to_num(values)) > of_columns.LARGEST
        if wrong.any():
            place = int(wrong.argmax())
            raise ValueError(
                f"column {column.name!r} must hold numbers{_written(notation)} alone; got "
                f"{cells[place]!r} in {_where(column, place)}, mend it or leave the cell empty"
            )
        return values

    def _enter(self, column: Any, role: str | None, rows: Any) -> str | None:
        """Learn a column; why it is left out, if it is and nobody asked for that."""
        name = str(column.name)
        if role in ("id", "ignore"):
            self.ids.extend([name] if role == "id" else [])
            return None
        cells = texts(column)
        present = [cell for cell in cells if not is_missing(cell)]
        if not present:
            return "no values"
        if (role or _kind(column, present)) == "numbers":
            notation = of_columns.notation_of(present) or Notation()
            written = () if column.dtype.kind in "biuf" else present
            odd = next((cell for cell in written if not of_columns.is_plain(cell)), None)
            if odd is not None:
                self.notations[name] = list(notation)
                number = read_number(odd, notation)
                _note(f"column {name!r} is read as numbers{_written(notation)}: {odd!r} as {number:g}")
            values = self.values(column)
            if role is None and len(np.unique(values[~np.isnan(values)])) == 1:
                self.notations.pop(name, None)
                return f"always {present[0]!r}"
            if role is None and _numbers_rows(str(name), values):
                self.notations.pop(name, None)
                self.ids.append(name)
                return "it numbers the rows"
            measured = values[rows]
            self.numbers[name] = _measures(measured[~np.isnan(measured)])
            return None
        counts = Counter(map(as_word, present))
        if role is None and len(counts) == 1 and len(present) == len(cells):
            return f"always {present[0]!r}"
        if role is None and len(counts) > 5 and len(counts) >= 0.75 * len(present):
            self.ids.extend([name] if len(counts) == len(cells) and max(map(len, cells)) <= 40 else [])
            return "names or text, nearly all different"
        if len(counts) > MOST_CATEGORIES:
            _note(f"column {name!r} has {len(counts)} words, of which the {MOST_CATEGORIES} most frequent are used")
        self.words[name] = sorted(word for word, _ in counts.most_common(MOST_CATEGORIES))
        return None


def _kind(column: Any, present: list[str]) -> str:
    """Numbers or words, by the cells that have a value.

    Raises:
        ValueError: cells that are no numbers among measured ones, or numbers written in several ways.
    """
    name = str(column.name)
    if column.dtype.kind in "biuf":
        return "numbers"
    codes = [cell for cell in present if of_columns.is_code(cell)]
    if _CODE_NAME.fullmatch(name) or (codes and len(set(map(len, present))) == 1 and "".join(present).isdigit()):
        _note(f"column {name!r} holds codes such as {(codes or present)[0]!r} and is read as words, not numbers")
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
            _note(f"column {name!r} has {(digits or others[0])!r}{beside} and is read as words, not numbers")
        return "words"
    odd = others[0] if others else of_columns.unlike(alike)
    place = texts(column).index(odd)
    raise ValueError(
        f"a column of numbers must hold numbers written in one way; got {odd!r} in {_where(column, place)}, column "
        f"{name!r}, mend it, leave the cell empty, or name the column by --ignore or --words (of a task ignore, words)"
    )


def _numbers_rows(name: str, values: np.ndarray) -> bool:
    """Whether numbers are all different whole ones of a column called an id, or count rows one by one, shuffled too."""
    if len(np.unique(values)) < len(values) or not (values == np.round(values)).all():
        return False
    in_order = values if len(values) < 20 else np.sort(values)
    return _ID.fullmatch(name) is not None or (len(values) >= 10 and bool((np.diff(in_order) == 1).all()))


def _measures(numbers: np.ndarray) -> list[Any]:
    if not len(numbers):
        return [0.0, 1.0, False, 0.0, 1.0]
    values = torch.tensor(numbers)
    low, middle, high = torch.quantile(values, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
    spread = (high - low) / 1.35 or float(values.std(correction=0)) or 1.0
    compressed = bool(((values - middle) / spread).abs().max() > 10)
    how = [middle, spread, compressed, 0.0, 1.0]
    shape = _shaped(values, how)
    how[3:] = [float(shape.mean()), float(shape.std(correction=0)) or 1.0]
    return how


def _shaped(values: Tensor, how: Sequence[Any]) -> Tensor:
    middle, spread, compressed = how[:3]
    relative = ((values - middle) / spread).clamp(-1e150, 1e150)
    return torch.asinh(relative) if compressed else relative


def _written(notation: Notation) -> str:
    ways = ["a decimal comma"] * (notation.mark == ",") + [f"the unit {notation.unit}"] * bool(notation.unit)
    return f" with {' and '.join(ways)}" if ways else ""


def _where(column: Any, place: int) -> str:
    return f"{'line' if column.index.name == 'line' else 'row'} {column.index[place]}"


def _some(items: Iterable[str], most: int = 8) -> str:
    items = list(items)
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def _note(message: str) -> None:
    warnings.warn(message, DataNote, stacklevel=3)
