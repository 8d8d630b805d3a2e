"""Rows of a file, with their labels where a column is named."""

import os
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from l2l_opt.checks import nearest_first
from l2l_opt.tasks.tables import columns as of_columns
from l2l_opt.tasks.tables.columns import as_word, texts
from l2l_opt.tasks.tables.csv_file import read_csv
from l2l_opt.tasks.tables.wording import note, some

if TYPE_CHECKING:
    from pandas import DataFrame

_NOT_A_CLASS = of_columns.MISSING - {"-", "none"} | {"inf", "-inf"}


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
            f"{some(nearest_first(label, rows.columns))}"
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
    shown = some(" and ".join(f"{word!r} ({count})" for word, count in counts.most_common()) for counts in several)
    note(f"labels that differ by case or blanks alone are one class: {shown}")
    usual = {word: counts.most_common(1)[0][0] for counts in several for word in counts}
    return [usual.get(word, word) for word in words]
