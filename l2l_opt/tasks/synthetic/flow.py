"""A normalising flow; of the suite ``seen``."""

import math
from functools import lru_cache, partial

import torch
from torch import Tensor, nn

from l2l_opt.tasks.base import register_module_task
from l2l_opt.tasks.examples import Examples
from l2l_opt.tasks.layers.basic import perceptron
from l2l_opt.tasks.module_task import ModuleTask

NUMBER = 4000


@lru_cache(1)
def spiral_points() -> Examples:
    """Points of two spirals in the plane, ``[points, 2]``."""
    generator = torch.Generator().manual_seed(0)
    turn = 3 * math.pi * torch.rand(NUMBER, generator=generator, dtype=torch.float64).sqrt()
    side = torch.randint(2, (NUMBER,), generator=generator) * 2 - 1
    points = (side * turn / 5)[:, None] * torch.stack([turn.cos(), turn.sin()], -1)
    points = points + 0.08 * torch.randn(NUMBER, 2, generator=generator, dtype=torch.float64)
    points = points
    return Examples.parted(points, points)


class Flow(nn.Module):
    """Couplings ``y = exp(s(x)) y + t(x)`` of the two coordinates in turn; the log-density of points: ``[batch]``.

    Args:
        couplings: how many.
        hidden: units of the hidden layer of each s and t.

    Source: arXiv 1605.08803, section 3.
    """

    def __init__(self, couplings: int, hidden: int):
        super().__init__()
        self.couplings = nn.ModuleList(
            nn.Sequential(*perceptron([1, hidden, 2], activation="tanh")) for _ in range(couplings)
        )

    def forward(self, points: Tensor) -> Tensor:
        x, y = points[:, :1], points[:, 1:]
        log_volume = torch.zeros_like(x)
        for coupling in self.couplings:
            log_scale, shift = coupling(x).chunk(2, -1)
            log_scale = torch.tanh(log_scale)
            x, y = y * log_scale.exp() + shift, x
            log_volume = log_volume + log_scale
        return (log_volume - (x.square() + y.square()) / 2).squeeze(-1) - math.log(2 * math.pi)


def negative_mean(log_density: Tensor, _: Tensor) -> Tensor:
    """The negative log-likelihood, mean over points, in nats."""
    return -log_density.mean()


@register_module_task("spirals-flow", batch_size=128)
def spirals_flow(*, couplings: int = 8, hidden: int = 24) -> partial[ModuleTask]:
    """Normalising flow, affine couplings, that learns the density of two spirals by maximum likelihood.

    Args:
        couplings: how many.
        hidden: units of the hidden layer of each.

    Raises:
        ValueError: a size that is not a positive integer.

    Source: arXiv 1605.08803.
    """
    return partial(ModuleTask, Flow(couplings, hidden), negative_mean, spiral_points())
