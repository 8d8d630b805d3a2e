"""The two photographs that scikit-learn ships, and pieces of them; of the suite ``seen``."""

from functools import lru_cache

import torch
from torch import Tensor

from l2l_opt.tasks.examples import Examples


@lru_cache(1)
def load_pictures() -> Tensor:
    """A temple and a flower, ``[2, 3, 427, 640]``, colours in 0 to 1.

    Source: china.jpg and flower.jpg as scikit-learn ships them (CC-BY 2.0, danielbuechele and vultilion on Flickr).
    """
    from sklearn.datasets import load_sample_image

    pictures = [torch.tensor(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    return torch.stack(pictures).permute(0, 3, 1, 2).double() / 255


def tiles(pictures: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Pieces of side x side that do not overlap, in an order drawn once, and where they are from.

    Args:
        pictures: ``[2, colours, height, width]``.
        side: of a piece.

    Returns:
        ``[pieces, colours, side, side]``, and the number of the picture's quarter, from 0 to 7.
    """
    rows, columns = pictures.shape[2] // side, pictures.shape[3] // side
    cut = pictures[:, :, : rows * side, : columns * side].unfold(2, side, side).unfold(3, side, side)
    pieces = cut.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    picture, row, column = torch.meshgrid(torch.arange(2), torch.arange(rows), torch.arange(columns), indexing="ij")
    quarter = 4 * picture + 2 * (2 * row >= rows) + (2 * column >= columns)
    order = torch.randperm(len(pieces), generator=torch.Generator().manual_seed(0))
    return pieces[order], quarter.flatten()[order]


@lru_cache(4)
def grey_tiles(side: int) -> Examples:
    """Grey pieces of both pictures, ``[pieces, side, side]``, as inputs and as targets."""
    pieces = tiles(load_pictures().mean(1, keepdim=True), side)[0].squeeze(1)
    return Examples.parted(pieces, pieces)
