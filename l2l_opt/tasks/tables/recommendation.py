"""Recommendation: matrix factorisation of a user's own file of ratings, or of ratings generated for each student."""

import math
import os
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn

from l2l_opt.checks import NotNegative
from l2l_opt.tasks.base import Split, register_module_task
from l2l_opt.tasks.data_files import DataPath
from l2l_opt.tasks.examples import Examples
from l2l_opt.tasks.generated import GeneratedTask
from l2l_opt.tasks.module_task import ModuleTask
from l2l_opt.tasks.tables.columns import Notation, notation_of, read_number, texts
from l2l_opt.tasks.tables.csv_file import read_csv
from l2l_opt.tasks.tables.ratings import Factorisation
from l2l_opt.types import Params, TaskData

FEWEST_RATINGS = 10
USERS, ITEMS, TASTES = 300, 200, 4
"""Of generated ratings."""


@dataclass(frozen=True)
class Ratings:
    """A ratings file in an order drawn once, its last fifth for tests.

    Attributes:
        pairs: ``[ratings, 2]``, the rows of user and item.
        values: ``[ratings]``, of mean 0 and deviation 1 over the training rows.
        users: id -> row, in the order of the file.
        items: likewise.
        mean: of the training ratings, in the file's unit.
        deviation: of the training ratings, in the file's unit.
    """

    pairs: Tensor
    values: Tensor
    users: dict[str, int]
    items: dict[str, int]
    mean: float
    deviation: float


def read_ratings(
    file: str | os.PathLike[str], *, user: str = "user", item: str = "item", rating: str = "rating"
) -> Ratings:
    """Read a CSV file whose first line names its columns; others than the three are ignored.

    Users and items are any texts or numbers. A pair that is rated twice counts twice. A user or item that the test rows
    alone have keeps its first weights, so that little more than the mean is predicted.

    Args:
        file: the path, as ``read_csv`` takes it.
        user: name of the column of users.
        item: name of the column of items.
        rating: name of the column of ratings, finite numbers in one notation, a decimal comma included.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a missing column or value, a rating that is not a finite number, fewer than ten ratings, one user
            or item alone, ratings that are all the same.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(
            f"a ratings file must exist; got {str(file)!r}, use the path of a CSV file of {user},{item},{rating}"
        )
    return _read(path.resolve(), (user, item, rating), path.stat().st_mtime_ns)


@lru_cache(4)
def _read(path: Path, columns: tuple[str, str, str], stamp: int) -> Ratings:
    del stamp  # a file that has changed is read again
    rows = read_csv(path)
    for column in columns:
        if column not in rows.columns:
            raise ValueError(
                f"the first line of a ratings file must name the columns {', '.join(columns)}; got no "
                f"{column!r} among {', '.join(rows.columns[:10]) or 'none'} in {str(path)!r}, add the line or "
                "name your own columns with user=, item= and rating="
            )
    cells = {column: texts(rows[column]) for column in columns}
    for column, own in cells.items():
        if "" in own:
            raise ValueError(
                f"every line of a ratings file must have {', '.join(columns)}; got no {column} on line "
                f"{rows.index[own.index('')]} of {str(path)!r}, fill it in or remove the line"
            )
    users, items = ({name: row for row, name in enumerate(dict.fromkeys(cells[column]))} for column in columns[:2])
    pairs = [(users[user], items[item]) for user, item in zip(cells[columns[0]], cells[columns[1]], strict=True)]
    numbers = _numbers(cells[columns[2]], columns[2], rows.index.tolist(), path)
    if len(pairs) < FEWEST_RATINGS:
        raise ValueError(
            f"a ratings file must have at least {FEWEST_RATINGS} ratings; got {len(pairs)} in {str(path)!r}, add more"
        )
    for column, ids in zip(columns, (users, items), strict=False):
        if len(ids) < 2:
            raise ValueError(
                f"a ratings file must have at least two values of {column}; got only {next(iter(ids))!r} in "
                f"{str(path)!r}, add others"
            )
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))
    ratings = torch.tensor(numbers, dtype=torch.float64)[order]
    known = ratings[: len(ratings) * 4 // 5]
    mean, deviation = float(known.mean()), float(known.std())
    if not 0 < deviation < math.inf:
        raise ValueError(
            f"ratings must differ from each other, within the range of float64; got a standard deviation of "
            f"{deviation:g} around {mean:g} in the training rows of {str(path)!r}, use ratings of several values"
        )
    return Ratings(torch.tensor(pairs)[order], (ratings - mean) / deviation, users, items, mean, deviation)


def _numbers(cells: list[str], column: str, lines: list[int], path: Path) -> list[float]:
    notation = notation_of(cells) or Notation()
    numbers = [read_number(cell, notation) for cell in cells]
    for cell, number, line in zip(cells, numbers, lines, strict=True):
        if not math.isfinite(number):
            raise ValueError(
                f"a rating must be a finite number; got {cell!r} in column {column} on line {line} of {str(path)!r}, "
                "mend it or remove the line"
            )
    return numbers


def write_ratings(file: str | os.PathLike[str], pairs: Tensor, ratings: Tensor) -> None:
    """Write the CSV file that ``read_ratings`` reads.

    Args:
        file: its path.
        pairs: ``[ratings, 2]``, numbers of user and item.
        ratings: ``[ratings]``.
    """
    import pandas

    columns = {"user": pairs[:, 0].numpy(), "item": pairs[:, 1].numpy(), "rating": ratings.numpy()}
    pandas.DataFrame(columns).to_csv(file, index=False)


def generate_ratings(
    generator: torch.Generator, number: int, *, users: int = USERS, items: int = ITEMS
) -> tuple[Tensor, Tensor]:
    """Who rated what, ``[number, 2]``, and with how many stars, 1 to 5.

    Four tastes, leanings of users and items, noise; some users and items are in far more ratings than others.
    """

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def frequent(size: int) -> Tensor:
        frequency = torch.arange(1, size + 1, dtype=torch.float64) ** -0.5
        return torch.multinomial(frequency, number, replacement=True, generator=generator)

    user, item = frequent(users), frequent(items)
    taste = (normal(users, TASTES)[user] * normal(items, TASTES)[item]).sum(-1) / TASTES**0.5
    stars = 3.5 + 0.8 * taste + 0.4 * normal(users)[user] + 0.4 * normal(items)[item] + 0.4 * normal(number)
    return torch.stack([user, item], -1), stars.round().clamp(1, 5)


class Recommender(nn.Module):
    """Ratings ``u_i v_j + a_i + b_j`` of pairs (i, j), and ``|u_i|^2 + |v_j|^2 + a_i^2 + b_j^2``: ``[batch]`` each.

    Args:
        rank: length of u and v.
        users: how many i there are.
        items: how many j.
    """

    def __init__(self, rank: int, users: int, items: int):
        super().__init__()
        self.factorisation = Factorisation(rank, people=users, works=items)

    def forward(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        user, item = self.factorisation.people(pairs[:, 0]), self.factorisation.works(pairs[:, 1])
        return self.factorisation(pairs), user.square().sum(-1) + item.square().sum(-1)


@register_module_task("recommendation", batch_size=128)
def recommendation(
    *,
    file: DataPath | None = None,
    user: str = "user",
    item: str = "item",
    rating: str = "rating",
    rank: int = 8,
    penalty: NotNegative = 0.03,
    examples: int = 6000,
) -> partial[ModuleTask]:
    """Matrix factorisation of a CSV file of user,item,rating, or of ratings generated for each student.

    The loss is ``mean (r_ij - u_i v_j - a_i - b_j)^2 + penalty (|u_i|^2 + |v_j|^2 + a_i^2 + b_j^2)`` over a batch of
    ratings of mean 0 and deviation 1; a fifth of them, the same every time, is the test split.

    Args:
        file: as ``read_ratings`` takes it; None: 300 users give 200 items 1 to 5 stars.
        user: name of the file's column of users.
        item: name of its column of items.
        rating: name of its column of ratings.
        rank: features of a user and of an item.
        penalty: on squared weights, a rating.
        examples: generated ratings in the training split of each student.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a size that is not a positive integer, a negative penalty, a file that ``read_ratings`` refuses.

    Source: Koren, Bell and Volinsky, "Matrix factorization techniques for recommender systems", 2009, equation 5.
    """

    def penalised_error(outputs: tuple[Tensor, Tensor], ratings: Tensor) -> Tensor:
        predictions, size = outputs
        return (predictions - ratings).square().mean() + penalty * size.mean()

    def generate(generator: torch.Generator, number: int) -> tuple[Tensor, Tensor]:
        pairs, stars = generate_ratings(generator, number)
        known = stars[:examples]
        return pairs, (stars - known.mean()) / known.std().clamp(min=1e-6)

    if file is None:
        return partial(
            GeneratedTask,
            Recommender(rank, USERS, ITEMS),
            penalised_error,
            generate,
            examples=examples,
        )
    ratings = read_ratings(str(file), user=str(user), item=str(item), rating=str(rating))
    return partial(
        ModuleTask,
        Recommender(rank, len(ratings.users), len(ratings.items)),
        penalised_error,
        Examples.parted(ratings.pairs, ratings.values),
    )


def rating_error(family: ModuleTask, params: Params, data: TaskData, *, split: Split = "test") -> Tensor:
    """The root mean square error of all predictions of a split, without the penalty: 0-dim.

    Args:
        family: a ``recommendation`` task.
        params: of a student.
        data: of the same student.
        split: train or test.

    Returns:
        In standard deviations of the training ratings.
    """
    rows = slice(*family.examples.ranges[split])
    pairs = data["inputs"] if data else family.examples.inputs
    ratings = data["targets"] if data else family.examples.targets
    with torch.no_grad():
        predictions, _ = torch.func.functional_call(family.module, params, (pairs[rows],))
    return (predictions - ratings[rows]).square().mean().sqrt()
