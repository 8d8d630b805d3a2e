"""Gated perceptrons on rings; for validation."""

import math
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from l2l_opt.checks import NotNegative
from l2l_opt.tasks.base import register_module_task
from l2l_opt.tasks.generated import GeneratedTask


class Gated(nn.Module):
    """``(A x + a) sigmoid(B x + b)``.

    Source: arXiv 1612.08083, section 2.
    """

    def __init__(self, num_inputs: int, units: int):
        super().__init__()
        self.value, self.gate = nn.Linear(num_inputs, units), nn.Linear(num_inputs, units)

    def forward(self, x: Tensor) -> Tensor:
        return self.value(x) * torch.sigmoid(self.gate(x))


@register_module_task("rings-gated", batch_size=64)
def rings_gated(
    *, hidden: int = 24, layers: int = 2, rings: int = 4, noise: NotNegative = 0.1, examples: int = 1024
) -> partial[GeneratedTask]:
    """Gated perceptron that separates rings around a point; each student has ellipses of its own.

    Args:
        hidden: units of each gated layer.
        layers: gated layers.
        rings: classes.
        noise: standard deviation of a point's radius, where rings are 0.5 apart.
        examples: in the training split of each student.

    Raises:
        ValueError: a size that is not a positive integer, a negative noise.
    """

    def generate(generator: torch.Generator, number: int) -> tuple[Tensor, Tensor]:
        ring = torch.randint(rings, (number,), generator=generator)
        angle = 2 * math.pi * torch.rand(number, generator=generator, dtype=torch.float64)
        radius = 0.5 * (1 + ring) + noise * torch.randn(number, generator=generator, dtype=torch.float64)
        points = radius[:, None] * torch.stack([angle.cos(), angle.sin()], -1)
        skew = torch.eye(2, dtype=torch.float64) + 0.3 * torch.randn(2, 2, generator=generator, dtype=torch.float64)
        return points @ skew, ring

    widths = [2] + [hidden] * layers
    modules = [Gated(num_inputs, units) for num_inputs, units in pairwise(widths)]
    return partial(
        GeneratedTask,
        nn.Sequential(*modules, nn.Linear(hidden, rings)),
        nn.functional.cross_entropy,
        generate,
        examples=examples,
    )
