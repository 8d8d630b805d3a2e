"""A picture as a function of its coordinates; held out."""

from functools import lru_cache

import torch
from torch import Tensor, nn

from l2l_opt.checks import check_numbers, check_positive_integers
from l2l_opt.tasks.base import register_task
from l2l_opt.tasks.images.photographs import load_pictures
from l2l_opt.tasks.module_task import Examples, ModuleTask

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


@lru_cache(4)
def pixels(device: torch.device, dtype: torch.dtype) -> Examples:
    """Coordinates ``[64 * 96, 2]`` from -1 to 1 and colours ``[64 * 96, 3]`` from -1 to 1 of the temple, made small."""
    small = nn.functional.adaptive_avg_pool2d(load_pictures()[:1], (HEIGHT, WIDTH))[0]
    axes = (torch.linspace(-1, 1, length, dtype=torch.float64) for length in (HEIGHT, WIDTH))
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 1)
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))
    colours = 2 * small.flatten(1).T - 1
    return Examples.parted(places[order].to(device, dtype), colours[order].to(device, dtype))


@register_task("picture-siren")
def picture_siren(
    *,
    hidden: int = 32,
    layers: int = 3,
    frequency: float = 30.0,
    batch_size: int = 128,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ModuleTask:
    """Coordinate network with sine activations that fits a photograph, 64 x 96 pixels, with squared error.

    Args:
        hidden: units of each layer.
        layers: of sines.
        frequency: of the sines, in radians by unit.
        batch_size: pixels a batch.
        device: where tensors live.
        dtype: of weights, coordinates and colours.

    Raises:
        ValueError: a size that is not a positive integer, a frequency that is not positive.

    Source: arXiv 2006.09661.
    """
    check_positive_integers(hidden=hidden, layers=layers)
    check_numbers(0, exclusive=True, frequency=frequency)
    sines = [Sine(hidden if layer else 2, hidden, frequency=frequency, first=layer == 0) for layer in range(layers)]
    return ModuleTask(
        nn.Sequential(*sines, nn.Linear(hidden, 3)),
        nn.functional.mse_loss,
        pixels(torch.device(device), dtype),
        batch_size=batch_size,
        device=device,
        dtype=dtype,
    )
