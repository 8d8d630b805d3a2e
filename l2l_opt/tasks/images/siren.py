"""A picture as a function of its coordinates; of the suite ``seen``."""

from functools import lru_cache, partial

import torch
from torch import Tensor, nn

from l2l_opt.checks import Positive
from l2l_opt.tasks.base import register_module_task
from l2l_opt.tasks.examples import Examples
from l2l_opt.tasks.images.photographs import load_pictures
from l2l_opt.tasks.module_task import ModuleTask

HEIGHT, WIDTH = 64, 96


class Sine(nn.Linear):
    """``sin(frequency (W x + b))``, its first weights such that the outputs are spread alike in every layer.

    Source: arXiv 2006.09661, sections 3.2 and 3.3.
    """

    def __init__(self, num_inputs: int, units: int, *, frequency: float, first: bool):
        self.frequency, self.first = frequency, first
        super().__init__(num_inputs, units)

    def reset_parameters(self) -> None:
        bound = 1 / self.in_features if self.first else (6 / self.in_features) ** 0.5 / self.frequency
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -(self.in_features**-0.5), self.in_features**-0.5)

    def forward(self, input: Tensor) -> Tensor:
        return torch.sin(self.frequency * super().forward(input))


@lru_cache(1)
def pixels() -> Examples:
    """Coordinates ``[64 * 96, 2]`` from -1 to 1 and colours ``[64 * 96, 3]`` from -1 to 1 of the temple, made small."""
    small = nn.functional.adaptive_avg_pool2d(load_pictures()[:1], (HEIGHT, WIDTH))[0]
    axes = (torch.linspace(-1, 1, length, dtype=torch.float64) for length in (HEIGHT, WIDTH))
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 1)
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))
    colours = 2 * small.flatten(1).T - 1
    return Examples.parted(places[order], colours[order])


@register_module_task("picture-siren", batch_size=128)
def picture_siren(*, hidden: int = 32, layers: int = 3, frequency: Positive = 30.0) -> partial[ModuleTask]:
    """Coordinate network with sine activations that fits a photograph, 64 x 96 pixels, with squared error.

    Args:
        hidden: units of each layer.
        layers: of sines.
        frequency: of the sines, in radians by unit.

    Raises:
        ValueError: a size that is not a positive integer, a frequency that is not positive.

    Source: arXiv 2006.09661.
    """
    sines = [Sine(hidden if layer else 2, hidden, frequency=frequency, first=layer == 0) for layer in range(layers)]
    return partial(ModuleTask, nn.Sequential(*sines, nn.Linear(hidden, 3)), nn.functional.mse_loss, pixels())
