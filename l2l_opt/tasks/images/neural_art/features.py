"""The small convolutional network by whose features content and style are measured; trained on pictures that ship."""

from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

CHANNELS = (16, 32, 64)
"""Of the three stages, each 3 x 3 convolution, ReLU and, before the next, a mean over 2 x 2."""
FILE = Path(__file__).parents[2] / "data" / "picture_features.safetensors"


class PictureFeatures(nn.Module):
    """Three stages of a small network for pictures of ``[3, height, width]``, colours in 0 to 1.

    It stands where the source has VGG, which does not ship: it has 24,000 weights, and was trained to tell the shipped
    garments of Fashion-MNIST apart, in random colours on pieces of photographs
    (``scripts/experiments/paper/train_picture_features.py``).
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (3, *CHANNELS)
        self.stages = nn.ModuleList(nn.Conv2d(below, above, 3, padding=1) for below, above in pairwise(widths))

    def forward(self, picture: Tensor) -> list[Tensor]:
        """Return features ``[channels, height / 2^stage, width / 2^stage]`` of every stage, after the ReLU."""
        found: list[Tensor] = []
        value = 2 * picture - 1
        for stage in self.stages:
            value = torch.relu(stage(nn.functional.avg_pool2d(value, 2) if found else value))
            found.append(value)
        return found


@lru_cache(4)
def trained_features(device: torch.device, dtype: torch.dtype) -> PictureFeatures:
    """The network as it ships; its weights are constants."""
    network = PictureFeatures()
    network.load_state_dict(load_file(FILE))
    return network.to(device=device, dtype=dtype).requires_grad_(False)
