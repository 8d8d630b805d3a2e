"""An MLP-Mixer on pieces of pictures; of the suite ``seen``."""

from functools import lru_cache, partial

from torch import Tensor, nn

from l2l_opt.tasks.base import register_module_task
from l2l_opt.tasks.examples import Examples
from l2l_opt.tasks.images.photographs import load_pictures, tiles
from l2l_opt.tasks.layers.basic import Averaged, Residual
from l2l_opt.tasks.module_task import ModuleTask

SIDE, PART = 12, 3
TOKENS, FEATURES, CLASSES = (SIDE // PART) ** 2, 3 * PART**2, 8


class Transposed(nn.Module):
    """A module over the axis before the last."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x.transpose(-1, -2)).transpose(-1, -2)


@lru_cache(1)
def parts_of_tiles() -> Examples:
    """Pieces of 12 x 12 as 16 parts of 3 x 3 in colour, ``[pieces, 16, 27]``, and which quarter they are from."""
    pieces, quarter = tiles(load_pictures(), SIDE)
    parts = pieces.unfold(2, PART, PART).unfold(3, PART, PART).permute(0, 2, 3, 1, 4, 5)
    inputs = parts.reshape(len(pieces), TOKENS, FEATURES) * 2 - 1
    return Examples.parted(inputs, quarter)


@register_module_task("picture-mixer", batch_size=32)
def picture_mixer(*, width: int = 24, blocks: int = 2) -> partial[ModuleTask]:
    """MLP-Mixer that classifies which of two photographs, and which quarter of it, a piece of 12 x 12 pixels is from.

    Args:
        width: features of each of the 16 parts of a piece.
        blocks: a perceptron over parts and one over features, each.

    Raises:
        ValueError: a size that is not a positive integer.

    Source: arXiv 2105.01601.
    """

    def mixing(units: int) -> nn.Module:
        return nn.Sequential(nn.Linear(units, 2 * units), nn.GELU(), nn.Linear(2 * units, units))

    modules: list[nn.Module] = [nn.Linear(FEATURES, width)]
    for _ in range(blocks):
        modules += [
            Residual(nn.LayerNorm(width), Transposed(mixing(TOKENS))),
            Residual(nn.LayerNorm(width), mixing(width)),
        ]
    modules += [nn.LayerNorm(width), Averaged(), nn.Linear(width, CLASSES)]
    return partial(ModuleTask, nn.Sequential(*modules), nn.functional.cross_entropy, parts_of_tiles())
