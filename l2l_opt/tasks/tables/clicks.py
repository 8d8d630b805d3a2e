"""A recommender from small weights, on generated clicks; held out."""

from functools import lru_cache, partial

import torch
from torch import Tensor, nn

from l2l_opt.checks import Positive
from l2l_opt.tasks.base import register_module_task
from l2l_opt.tasks.examples import Examples
from l2l_opt.tasks.module_task import ModuleTask

PEOPLE, FILMS, GENRES, NUMBER = 1200, 800, 6, 60_000


@lru_cache(1)
def clicks() -> Examples:
    """Who was shown what, ``[number, 2]``, and whether it was clicked, 0 or 1; films and people of a few genres each.

    Some people see far more than others, some films are shown far more often.
    """
    generator = torch.Generator().manual_seed(21)

    def skewed(count: int) -> Tensor:
        uniform = torch.rand(NUMBER, generator=generator, dtype=torch.float64)
        return (count * uniform**1.8).long()

    def genres(count: int) -> Tensor:
        return torch.rand(count, GENRES, generator=generator, dtype=torch.float64) ** 4

    person, film = skewed(PEOPLE), skewed(FILMS)
    liking = (genres(PEOPLE)[person] * genres(FILMS)[film]).sum(-1)
    appeal = torch.randn(FILMS, generator=generator, dtype=torch.float64)[film]
    chance = torch.sigmoid(6 * (liking - liking.mean()) + 1.5 * appeal - 1.2)
    clicked = torch.rand(NUMBER, generator=generator, dtype=torch.float64) < chance
    return Examples.parted(torch.stack([person, film], -1), clicked.long())


class Small(nn.Embedding):
    """An embedding with first weights of a small deviation."""

    def __init__(self, count: int, width: int, deviation: float):
        self.deviation = deviation
        super().__init__(count, width)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.deviation)


class NeuralRecommender(nn.Module):
    """Two logits from products of two embeddings beside a perceptron on two others: ``[batch, 2] -> [batch, 2]``.

    Args:
        width: features of each embedding.
        deviation: of their first weights.

    Source: arXiv 1708.05031, section 3.4.
    """

    def __init__(self, width: int, deviation: float):
        super().__init__()
        self.width = width
        self.people, self.films = Small(PEOPLE, 2 * width, deviation), Small(FILMS, 2 * width, deviation)
        self.tower = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.head = nn.Linear(2 * width, 2)

    def forward(self, pairs: Tensor) -> Tensor:
        person, film = self.people(pairs[:, 0]), self.films(pairs[:, 1])
        product = person[:, : self.width] * film[:, : self.width]
        tower = self.tower(torch.cat([person[:, self.width :], film[:, self.width :]], -1))
        return self.head(torch.cat([product, tower], -1))


@register_module_task("clicks-recommender", batch_size=64)
def clicks_recommender(*, width: int = 8, deviation: Positive = 0.01) -> partial[ModuleTask]:
    """Recommender of embeddings and a perceptron, from small first weights, on generated clicks.

    Args:
        width: features of each embedding.
        deviation: of the embeddings' first weights.

    Raises:
        ValueError: a size that is not a positive integer, a deviation that is not positive.
    """
    return partial(ModuleTask, NeuralRecommender(width, deviation), nn.functional.cross_entropy, clicks())
