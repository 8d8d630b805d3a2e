"""A user's own rows, of a CSV or an npz file, as training and test examples: classes or numbers are learned."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from l2l_opt.checks import check_finite
from l2l_opt.tasks.data_files import Stamp, stamp_of
from l2l_opt.tasks.examples import Examples
from l2l_opt.tasks.tables.columns import notation_of, read_number, unlike
from l2l_opt.tasks.tables.encoder import TableEncoder
from l2l_opt.tasks.tables.table import read_table

FEWEST_ROWS = 10
MOST_WHOLE_CLASSES = 20
"""Whole numbers of more values than these, or than a third of the rows, are learned as numbers."""


@dataclass(frozen=True, eq=False)
class Rows:
    """What a student learns.

    Attributes:
        examples: inputs ``[rows, inputs]`` and targets, classes ``[rows]`` or numbers ``[rows, outputs]``; a fifth of
            the rows, the same every time, is the test split.
        classes: names of the classes; empty where numbers are learned.
    """

    examples: Examples
    classes: tuple[str, ...]

    @property
    def num_outputs(self) -> int:
        """Of a model: one for each class or number."""
        return len(self.classes) or self.examples.targets.shape[1]


def read_rows(
    file: str, *, target: str | None = None, kind: str = "auto", roles: Mapping[str, str] | None = None
) -> Rows:
    """Read rows and what is to be learned of them.

    Inputs, and targets that are numbers, have mean 0 and deviation 1 over the training rows.

    Args:
        file: a CSV file as ``read_csv`` takes it, or an npz file of the arrays x, ``[rows, ...]``, and y.
        target: the CSV file's column that is learned; its other columns are inputs, as ``TableEncoder`` reads them.
        kind: of targets: classes, numbers, or auto: words are classes, and so are whole numbers of few values.
        roles: column -> numbers, words or ignore, where its kind shall not be decided by its cells.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that cannot be read, too few rows, cells or targets without a value, one class alone.
    """
    path = Path(file)
    return _read(path.resolve(), stamp_of(path), target, kind, tuple(sorted((roles or {}).items())))


@lru_cache(16)
def _read(path: Path, stamp: Stamp, target: str | None, kind: str, roles: tuple[tuple[str, str], ...]) -> Rows:
    del stamp  # a file that has changed is read again
    if path.is_dir():
        raise ValueError(f"data must be a CSV or an npz file; got the folder {str(path)!r}, use one of its files")
    if path.suffix.casefold() == ".npz":
        if target is not None or roles:
            given = {"target": target} if target is not None else dict(roles)
            raise ValueError(f"columns have names in a CSV file alone; got {given} for {str(path)!r}, leave it out")
        return _of_arrays(path, kind)
    return _of_csv(path, target, kind, dict(roles))


def _of_csv(path: Path, target: str | None, kind: str, roles: Mapping[str, str]) -> Rows:
    table = read_table(path, label=target)
    if target is None:
        raise ValueError(
            f"target must name the column that is learned; got none for {str(path)!r}, use one of "
            f"{', '.join(table.columns.columns)}"
        )
    order, known = _order(len(table.columns), path)
    encoder = TableEncoder.fit(table.columns, roles, measured_on=known.tolist())
    inputs = encoder.encode(table.columns)
    targets, classes = _targets(table.labels, known, kind, f"column {target!r} of {str(path)!r}")
    return Rows(Examples.parted(inputs[order], targets[order]), classes)


def _of_arrays(path: Path, kind: str) -> Rows:
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in ("x", "y") if name in file}
            names = list(file)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"an npz file must hold arrays of numbers or text; got {str(path)!r}: {error}") from error
    if len(found) < 2:
        raise ValueError(f"an npz file must hold the arrays x and y; got {', '.join(names)} in {str(path)!r}, add them")
    x, y = found["x"], found["y"]
    if x.ndim < 2 or y.ndim not in (1, 2) or len(x) != len(y) or x.dtype.kind not in "biuf":
        raise ValueError(
            f"x must be numbers [rows, ...] and y [rows] or [rows, outputs]; got {x.dtype} {list(x.shape)} and "
            f"{y.dtype} {list(y.shape)} in {str(path)!r}"
        )
    order, known = _order(len(x), path)
    inputs = torch.from_numpy(x.reshape(len(x), -1).astype(np.float64))
    check_finite(x=inputs)
    targets, classes = _targets(y, known, kind, f"y of {str(path)!r}")
    return Rows(Examples.parted(_standardised(inputs, known)[order], targets[order]), classes)


def _order(count: int, path: Path) -> tuple[Tensor, Tensor]:
    """Rows in an order drawn once, and those of them that are for training."""
    if count < FEWEST_ROWS:
        raise ValueError(
            f"a table must have at least {FEWEST_ROWS} rows, of which a fifth is held out; got {count} in "
            f"{str(path)!r}, add more"
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return order, order[: count * 4 // 5]


def _targets(cells: np.ndarray, known: Tensor, kind: str, where: str) -> tuple[Tensor, tuple[str, ...]]:
    """Targets as they are learned, and the names of the classes."""
    numbers = _as_numbers(cells, must=kind == "numbers", where=where)
    if kind == "classes" or (kind == "auto" and (numbers is None or _are_classes(cells))):
        return _classes(cells, where)
    assert numbers is not None
    targets = torch.from_numpy(numbers.reshape(len(numbers), -1))
    check_finite(**{f"targets, {where},": targets})
    if (constant := targets[known].std(0) == 0).any():
        value = float(targets[known][0, int(constant.int().argmax())])
        raise ValueError(f"numbers to learn must differ from each other; got {value:g} alone in {where}, use others")
    return _standardised(targets, known), ()


def _are_classes(cells: np.ndarray) -> bool:
    if cells.dtype.kind not in "biu" or cells.ndim > 1:
        return False
    return len(np.unique(cells)) <= min(MOST_WHOLE_CLASSES, len(cells) // 3)


def _classes(cells: np.ndarray, where: str) -> tuple[Tensor, tuple[str, ...]]:
    if cells.ndim > 1:
        raise ValueError(f"classes must be one a row; got {list(cells.shape)} in {where}, use y [rows] or kind=numbers")
    names, places = np.unique(cells, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"there must be at least two classes to learn; got {names[0]!s} alone in {where}, add another")
    if len(names) > len(cells) // 2:
        raise ValueError(
            f"classes must occur again; got {len(names)} different ones in {len(cells)} rows, such as {names[0]!s}, in "
            f"{where}, learn another column, or kind=numbers"
        )
    return torch.from_numpy(places), tuple(map(str, names))


def _as_numbers(cells: np.ndarray, *, must: bool, where: str) -> np.ndarray | None:
    """The numbers that are written in cells; None where they are words."""
    if cells.dtype.kind in "biuf":
        return cells.astype(np.float64)
    words = [str(cell) for cell in cells.reshape(-1).tolist()]
    notation = notation_of(words)
    if notation is not None:
        return np.array([read_number(word, notation) for word in words]).reshape(cells.shape)
    if must:
        raise ValueError(f"numbers to learn must be numbers; got {unlike(words)!r} in {where}, mend it or kind=classes")
    return None


def _standardised(values: Tensor, known: Tensor) -> Tensor:
    own = values[known]
    deviation = own.std(0)
    return (values - own.mean(0)) / torch.where(deviation > 0, deviation, 1.0)
