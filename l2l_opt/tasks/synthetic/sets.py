"""Attention over sets; of the suite ``seen``."""

from functools import lru_cache, partial

import torch
from torch import nn

from l2l_opt.tasks.base import register_module_task
from l2l_opt.tasks.examples import Examples
from l2l_opt.tasks.layers.attention import attention_blocks
from l2l_opt.tasks.layers.basic import Averaged
from l2l_opt.tasks.module_task import ModuleTask

POINTS, MOST, NUMBER = 16, 4, 4000


@lru_cache(1)
def set_examples() -> Examples:
    """Sets of 16 points of the plane, ``[sets, 16, 2]``, and of how many clouds they are, one to four, less one."""
    generator = torch.Generator().manual_seed(0)
    clouds = torch.randint(MOST, (NUMBER,), generator=generator)
    centres = torch.randn(NUMBER, MOST, 2, generator=generator, dtype=torch.float64)
    # Every cloud has a point at least.
    of_point = torch.arange(POINTS) % (clouds[:, None] + 1)
    spread = torch.randn(NUMBER, POINTS, 2, generator=generator, dtype=torch.float64)
    points = centres.gather(1, of_point.unsqueeze(-1).expand(-1, -1, 2)) + 0.15 * spread
    return Examples.parted(points, clouds)


@register_module_task("sets-attention", batch_size=32)
def sets_attention(*, width: int = 24, blocks: int = 1, heads: int = 2) -> partial[ModuleTask]:
    """Attention network over sets of 16 points that counts the clouds they form, one to four.

    Args:
        width: features of a point.
        blocks: attention and perceptron, each.
        heads: of attention.

    Raises:
        ValueError: a size that is not a positive integer; heads that do not divide the width.

    Source: arXiv 1810.00825, for the kind of network.
    """
    return partial(
        ModuleTask,
        nn.Sequential(
            nn.Linear(2, width),
            *attention_blocks(blocks, width, heads=heads, causal=False),
            Averaged(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, MOST),
        ),
        nn.functional.cross_entropy,
        set_examples(),
    )
