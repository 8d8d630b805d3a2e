"""A U-shaped convolutional network that takes noise out of pictures; of the suite ``seen``."""

from functools import partial

import torch
from torch import Tensor, nn

from l2l_opt.checks import Positive
from l2l_opt.tasks.base import register_module_task
from l2l_opt.tasks.images.photographs import grey_tiles
from l2l_opt.tasks.noisy import NoisyTask

SIDE = 16


class Denoiser(nn.Module):
    """Noise is added to grey images, and a convolutional network estimates it.

    Half as many places and twice the channels within, and a way around it for the detail.

    Args:
        channels: at full resolution.
        deviation: of the noise.

    Source: arXiv 1505.04597, for the shape.
    """

    def __init__(self, channels: int, deviation: float):
        super().__init__()
        self.deviation = deviation
        self.enter = nn.Conv2d(1, channels, 3, padding=1)
        self.down = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)
        self.within = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1)
        self.up = nn.Conv2d(2 * channels, 4 * channels, 1)
        self.leave = nn.Conv2d(2 * channels, 1, 3, padding=1)

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        seen = (images + self.deviation * noise).unsqueeze(1)
        fine = torch.relu(self.enter(seen))
        coarse = torch.relu(self.within(torch.relu(self.down(fine))))
        back = torch.relu(nn.functional.pixel_shuffle(self.up(coarse), 2))
        return (seen - self.leave(torch.cat([fine, back], 1))).squeeze(1)


@register_module_task("picture-denoising", batch_size=16)
def picture_denoising(*, channels: int = 8, deviation: Positive = 0.2) -> partial[NoisyTask]:
    """U-shaped convolutional network that takes noise out of 16 x 16 grey pieces of two photographs; squared error.

    Args:
        channels: at full resolution; twice as many at half of it.
        deviation: of the noise, where grey values are from 0 to 1.

    Raises:
        ValueError: a size that is not a positive integer, a deviation that is not positive.
    """
    return partial(NoisyTask, Denoiser(channels, deviation), squared_error, grey_tiles(SIDE), noise_shape=(SIDE, SIDE))


def squared_error(outputs: Tensor, images: Tensor) -> Tensor:
    """100 times the mean squared error, so that it is near one."""
    return 100 * nn.functional.mse_loss(outputs, images)
