"""Rows of a CSV file: read, checked, and encoded as numbers."""

import csv
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MOST_CATEGORIES = 50
"""Of a column of words; more are names, which tell nothing of other rows."""


@dataclass(frozen=True)
class Table:
    """Rows by column.

    Attributes:
        columns: name -> numbers (floats) or words (strings), all but the label's.
        labels: of each row as they were written; None where the file has no such column.
    """

    columns: dict[str, list[float] | list[str]]
    labels: list[str] | None

    @property
    def num_rows(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def classes(self) -> list[str]:
        """Different labels, numbers in their order."""
        assert self.labels is not None
        return sorted(set(self.labels), key=_in_order)

    def targets(self) -> Tensor:
        """``[rows]``, indices into ``classes``."""
        places = {name: place for place, name in enumerate(self.classes)}
        return torch.tensor([places[label] for label in self.labels or []])


def _in_order(text: str) -> tuple[int, float, str]:
    value = _number(text)
    return (1, 0.0, text) if value is None else (0, value, text)


def read_table(file: str | os.PathLike[str], *, label: str | None) -> Table:
    """Read a CSV file with a header.

    A column all of whose cells are numbers is one of numbers, any other one of words.

    Args:
        file: separated by commas, semicolons or tabs.
        label: the column of classes; None where there is none.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no header or rows, a ragged row, an empty or not finite cell, no such column, nothing but labels.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"a table must exist; got {str(path)!r}, name another file")
    header, rows = _read_rows(path)
    if label is not None and label not in header:
        raise ValueError(f"the label's column must be in the table; got {label!r}, use one of {', '.join(header)}")
    for number, row in rows:
        for name, cell in zip(header, row, strict=True):
            value = _number(cell)
            if not cell or (value is not None and not math.isfinite(value)):
                raise ValueError(
                    f"every cell must have a value; got {cell!r} in line {number}, column {name!r} of {str(path)!r}, "
                    "fill it in or leave the row out"
                )
    columns = {
        name: _numbers_or_words([row[place] for _, row in rows]) for place, name in enumerate(header) if name != label
    }
    if not columns:
        raise ValueError(f"a table must have other columns than its label; got {header} in {str(path)!r}, add some")
    labels = None if label is None else [row[header.index(label)] for _, row in rows]
    return Table(columns, labels)


def _read_rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as text:
            start = text.readline()
            text.seek(0)
            delimiter = max(",;\t", key=start.count)
            reader = csv.reader(text, delimiter=delimiter, strict=True)
            header = [name.strip() for name in next(reader, [])]
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"a table must be CSV text in UTF-8; got {str(path)!r}: {error}, save it anew") from error
    if not header or not rows:
        raise ValueError(f"a table must have a header and rows; got {len(rows)} rows in {str(path)!r}, add them")
    if len(set(header)) != len(header) or not all(header):
        raise ValueError(f"columns must have names of their own; got {header} in {str(path)!r}, rename them")
    for number, row in rows:
        if len(row) != len(header):
            raise ValueError(
                f"every row must have as many cells as the header; got {len(row)} in line {number} of {str(path)!r} "
                f"where the header has {len(header)}, mend it"
            )
    return header, rows


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _numbers_or_words(cells: list[str]) -> list[float] | list[str]:
    numbers = [number for number in map(_number, cells) if number is not None]
    return numbers if len(numbers) == len(cells) else cells


@dataclass(frozen=True)
class TableEncoder:
    """Columns as inputs of a model: numbers less their mean over their deviation, words as one input each.

    A column of numbers whose largest values lie far out (above 10 deviations of the middle half) is compressed by
    asinh first.

    Attributes:
        numbers: column -> (middle, spread, whether compressed, mean, deviation).
        words: column -> its words.
    """

    numbers: dict[str, list[Any]]
    words: dict[str, list[str]]

    @classmethod
    def fit(cls, columns: dict[str, list[float] | list[str]]) -> "TableEncoder":
        """Learn means, deviations and words.

        Raises:
            ValueError: a column of more than 50 different words.
        """
        numbers: dict[str, list[Any]] = {}
        words: dict[str, list[str]] = {}
        for name, cells in columns.items():
            if isinstance(cells[0], str):
                words[name] = sorted({str(cell) for cell in cells})
                if len(words[name]) > MOST_CATEGORIES:
                    raise ValueError(
                        f"a column of words must have at most {MOST_CATEGORIES} different ones; got "
                        f"{len(words[name])} in {name!r}, leave it out or make numbers of it"
                    )
                continue
            values = torch.tensor(cells, dtype=torch.float64)
            low, middle, high = torch.quantile(values, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
            spread = (high - low) / 1.35 or float(values.std(correction=0)) or 1.0
            compressed = bool(((values - middle) / spread).abs().max() > 10)
            numbers[name] = [middle, spread, compressed, 0.0, 1.0]
            shape = _shaped(values, numbers[name])
            numbers[name][3:] = [float(shape.mean()), float(shape.std(correction=0)) or 1.0]
        return cls(numbers, words)

    @property
    def num_inputs(self) -> int:
        return len(self.numbers) + sum(map(len, self.words.values()))

    def encode(self, columns: dict[str, list[float] | list[str]]) -> Tensor:
        """``[rows, num_inputs]``, float32. Words that were not there to be learned are all zeros.

        Raises:
            ValueError: a column is missing, or holds words where there were numbers.
        """
        missing = [name for name in (*self.numbers, *self.words) if name not in columns]
        if missing:
            raise ValueError(f"a table must have the columns a model was made with; got none named {missing[0]!r}")
        inputs: list[Tensor] = []
        for name, how in self.numbers.items():
            if isinstance(columns[name][0], str):
                word = next(cell for cell in columns[name] if _number(str(cell)) is None)
                raise ValueError(f"column {name!r} must hold numbers, as it did at first; got {word!r}")
            values = torch.tensor(columns[name], dtype=torch.float64)
            inputs.append(((_shaped(values, how) - how[3]) / how[4]).unsqueeze(-1))
        for name, known in self.words.items():
            # These rows may hold numbers alone, and were then read as such, where the column held a word at first.
            read = known if isinstance(columns[name][0], str) else [_number(word) for word in known]
            inputs.append(torch.tensor([[float(cell == word) for word in read] for cell in columns[name]]).double())
        return torch.cat(inputs, dim=1).float()


def _shaped(values: Tensor, how: Sequence[Any]) -> Tensor:
    middle, spread, compressed = how[:3]
    relative = (values - middle) / spread
    return torch.asinh(relative) if compressed else relative
