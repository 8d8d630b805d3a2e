"""Matrix factorisation; of the suite ``seen``."""

from functools import lru_cache, partial

import torch
from torch import Tensor, nn

from l2l_opt.tasks.base import register_module_task
from l2l_opt.tasks.examples import Examples
from l2l_opt.tasks.module_task import ModuleTask

PEOPLE, WORKS, TASTES, NUMBER = 200, 150, 4, 10_000


@lru_cache(1)
def rating_examples() -> Examples:
    """Who rated what, ``[ratings, 2]``, and how: four tastes, leanings of people and works, noise; deviation 1.

    Some works are rated far more often than others.
    """
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    popularity = torch.arange(1, WORKS + 1, dtype=torch.float64) ** -0.7
    person = torch.randint(PEOPLE, (NUMBER,), generator=generator)
    work = torch.multinomial(popularity, NUMBER, replacement=True, generator=generator)
    taste = (normal(PEOPLE, TASTES)[person] * normal(WORKS, TASTES)[work]).sum(-1) / TASTES**0.5
    ratings = taste + 0.5 * normal(PEOPLE)[person] + 0.5 * normal(WORKS)[work] + 0.3 * normal(NUMBER)
    ratings = (ratings - ratings.mean()) / ratings.std()
    pairs = torch.stack([person, work], -1)
    return Examples.parted(pairs, ratings)


class Table(nn.Embedding):
    """An embedding whose first weights have deviation 0.1."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.1)


class Factorisation(nn.Module):
    """``u_i v_j + a_i + b_j`` for pairs (i, j): ``[batch, 2] -> [batch]``.

    Args:
        rank: length of u and v.
        people: how many i there are.
        works: how many j.

    Source: Koren, Bell and Volinsky, "Matrix factorization techniques for recommender systems", 2009.
    """

    def __init__(self, rank: int, *, people: int = PEOPLE, works: int = WORKS):
        super().__init__()
        self.rank = rank
        self.people, self.works = Table(people, rank + 1), Table(works, rank + 1)

    def forward(self, pairs: Tensor) -> Tensor:
        person, work = self.people(pairs[:, 0]), self.works(pairs[:, 1])
        tastes = (person[:, : self.rank] * work[:, : self.rank]).sum(-1)
        return tastes + person[:, self.rank] + work[:, self.rank]


@register_module_task("ratings-factorisation", batch_size=128)
def ratings_factorisation(*, rank: int = 8) -> partial[ModuleTask]:
    """Matrix factorisation, by embeddings, of generated ratings by 200 people of 150 works; squared error.

    Args:
        rank: features of a person and of a work.

    Raises:
        ValueError: a size that is not a positive integer.
    """
    return partial(ModuleTask, Factorisation(rank), nn.functional.mse_loss, rating_examples())
