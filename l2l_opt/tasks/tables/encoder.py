"""Rows of a table as inputs of a model; what kind each column is of is decided once and kept."""

import difflib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from l2l_opt.checks import check_choices, nearest_first
from l2l_opt.tasks.tables import columns as of_columns
from l2l_opt.tasks.tables.columns import Notation, as_word, is_missing, read_number, texts
from l2l_opt.tasks.tables.kinds import kind_of, numbers_rows
from l2l_opt.tasks.tables.wording import note, some, where, written

if TYPE_CHECKING:
    from pandas import DataFrame

MOST_CATEGORIES = 50
"""Of a column of words; the rarer ones are like words that were never seen."""
ROLES = {"numbers": "numbers", "words": "words", "id": "an id", "ignore": "left out"}
"""What a user can say that a column is, and how that reads."""


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
                names = some(nearest_first(name, map(str, frame.columns)))
                raise ValueError(f"a column must be in the table; got {name!r} to be {ROLES[role]}, use one of {names}")
        encoder, left_out = cls({}, {}), []
        for name in frame.columns:
            reason = encoder._enter(frame[name], roles.get(name), slice(None) if measured_on is None else measured_on)
            left_out += [f"{name!r} ({reason})"] if reason else []
        if left_out:
            note(f"left out, unless named as numbers or words: {some(left_out)}")
        if not encoder.columns:
            raise ValueError(
                f"a table must have a column of numbers, or of words that repeat; got {some(map(repr, frame.columns))}"
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
                note(f"cells {what}: {some(f'{count} in {name!r}' for name, count in counts.items() if count)}")
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
                f"a table must have the columns a model was made with; got none named {some(map(repr, missing))}, "
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
                f"column {column.name!r} must hold numbers{written(notation)} alone; got "
                f"{cells[place]!r} in {where(column, place)}, mend it or leave the cell empty"
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
        if (role or kind_of(column, present)) == "numbers":
            notation = of_columns.notation_of(present) or Notation()
            as_text = () if column.dtype.kind in "biuf" else present
            odd = next((cell for cell in as_text if not of_columns.is_plain(cell)), None)
            if odd is not None:
                self.notations[name] = list(notation)
                number = read_number(odd, notation)
                note(f"column {name!r} is read as numbers{written(notation)}: {odd!r} as {number:g}")
            values = self.values(column)
            if role is None and len(np.unique(values[~np.isnan(values)])) == 1:
                self.notations.pop(name, None)
                return f"always {present[0]!r}"
            if role is None and numbers_rows(str(name), values):
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
            note(f"column {name!r} has {len(counts)} words, of which the {MOST_CATEGORIES} most frequent are used")
        self.words[name] = sorted(word for word, _ in counts.most_common(MOST_CATEGORIES))
        return None


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
