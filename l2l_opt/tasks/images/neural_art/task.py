"""A picture that is moved, pixel by pixel, to the content of one picture and the style of another."""

from typing import Literal

import torch
from torch import Tensor, nn

from l2l_opt.checks import check_choices, check_numbers, check_positive_integers
from l2l_opt.tasks.base import Split, register_task
from l2l_opt.tasks.images.neural_art.features import trained_features
from l2l_opt.tasks.images.neural_art.styles import STYLES, style_picture
from l2l_opt.tasks.images.photographs import load_pictures
from l2l_opt.types import Batch, Params, TaskData

PHOTOS = ("temple", "flower")
LEAST_SIDE = 8
CONTENT_STAGE = 1
"""Whose features are the content: the second of three."""


@register_task("neural-art")
class NeuralArt:
    """A picture with the content of a photograph and the style of a pattern: every pixel is a parameter.

        f(theta) = ||F_2(theta) - F_2(c)||^2 / ||F_2(c)||^2
                   + style_weight sum_l ||G_l(theta) - G_l(s)||^2 / ||G_l(s)||^2 / 3
                   + smoothness mean (differences of neighbours)^2

    with features F_l of a small network, G_l = F_l F_l^T / pixels, c a random piece of a photograph, another for every
    student, and s the style's picture. theta starts as grey noise.

    Args:
        side: of the picture, in pixels.
        style: swirls or mosaic.
        photo: temple or flower; where contents are from.
        style_weight: of style beside content; dimensionless.
        smoothness: of differences beside content; dimensionless.
        device: of the tensors.
        dtype: of all tensors.

    Raises:
        ValueError: a side that is not a multiple of four from 8 to 424, an unknown word, a negative weight.

    Source: arXiv 1606.04474, section 3.3; losses of arXiv 1508.06576.
    Differs from source: features are of a small network trained on pictures that ship, not VGG's; losses are relative
    to their targets' size; styles are computed patterns.
    """

    def __init__(
        self,
        *,
        side: int = 64,
        style: Literal["swirls", "mosaic"] = "swirls",
        photo: Literal["temple", "flower"] = "temple",
        style_weight: float = 1.0,
        smoothness: float = 1.0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        check_positive_integers(64, side=side)
        check_choices(STYLES, style=style)
        check_choices(dict.fromkeys(PHOTOS), photo=photo)
        check_numbers(0, style_weight=style_weight, smoothness=smoothness)
        self.photograph = load_pictures()[PHOTOS.index(photo)]
        largest = self.photograph.shape[-2] // 4 * 4
        if side % 4 or not LEAST_SIDE <= side <= largest:
            raise ValueError(f"side must be a multiple of 4 from {LEAST_SIDE} to {largest}; got {side}, use e.g. 64")
        self.side, self.style, self.style_weight, self.smoothness = side, style, style_weight, smoothness
        self.device, self.dtype = torch.device(device), dtype
        self.features = trained_features(self.device, dtype)
        self.wanted_grams = [_gram(own) for own in self.features(self._placed(style_picture(style, side)))]

    def sample(self, generator: torch.Generator) -> TaskData:
        """``photo`` ``[3, side, side]``, a piece of the photograph, and ``content``, its features."""
        _, height, width = self.photograph.shape
        length = int(torch.randint(self.side, min(height, 4 * self.side) + 1, (), generator=generator))
        top = int(torch.randint(height - length + 1, (), generator=generator))
        left = int(torch.randint(width - length + 1, (), generator=generator))
        piece = self.photograph[:, top : top + length, left : left + length]
        photo = self._placed(nn.functional.adaptive_avg_pool2d(piece, self.side))
        return {"photo": photo, "content": self.features(photo)[CONTENT_STAGE]}

    def init_params(self, data: TaskData, generator: torch.Generator) -> Params:
        noise = torch.randn(3, self.side, self.side, generator=generator, dtype=self.dtype)
        return {"picture": 0.5 + 0.1 * noise.to(self.device)}

    def sample_batch(self, data: TaskData, generator: torch.Generator, split: Split = "train") -> Batch:
        """Nothing: a picture has no batches."""
        return {}

    def loss(self, params: Params, data: TaskData, batch: Batch) -> Tensor:
        picture = params["picture"]
        found = self.features(picture)
        content = _relative(found[CONTENT_STAGE], data["content"])
        styles = [_relative(_gram(own), wanted) for own, wanted in zip(found, self.wanted_grams, strict=True)]
        rough = (picture.diff(dim=-1).square().mean() + picture.diff(dim=-2).square().mean()) / 2
        return content + self.style_weight * torch.stack(styles).mean() + self.smoothness * rough

    def _placed(self, picture: Tensor) -> Tensor:
        return picture.to(device=self.device, dtype=self.dtype)


def _gram(features: Tensor) -> Tensor:
    """Which features occur together, ``[channels, channels]``, wherever they do."""
    rows = features.flatten(1)
    return rows @ rows.T / rows.shape[1]


def _relative(found: Tensor, wanted: Tensor) -> Tensor:
    return (found - wanted).square().sum() / wanted.square().sum()
