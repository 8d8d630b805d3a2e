"""A convolutional network on signals; of the suite ``seen``."""

import math
from functools import lru_cache, partial

import torch
from torch import Tensor, nn

from l2l_opt.tasks.base import register_module_task
from l2l_opt.tasks.examples import Examples
from l2l_opt.tasks.module_task import ModuleTask

CLASSES, KNOTS, LENGTH = 10, 12, 40
NUM_TRAIN, NUM_TEST = 3200, 800


@lru_cache(1)
def signal_examples() -> Examples:
    """Ten patterns, each seen stretched, shifted, sheared and in noise: ``[examples, 40]``.

    Source: arXiv 2011.14439, section 2, for the kind of data.
    Differs from source: the patterns are random curves, not drawings of digits; nothing is taken from its code.
    """
    generator = torch.Generator().manual_seed(0)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(number, 1, generator=generator, dtype=torch.float64)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    number = NUM_TRAIN + NUM_TEST
    classes = torch.arange(number) % CLASSES
    patterns = normal(CLASSES, KNOTS)
    patterns[:, 0] = patterns[:, -1] = 0
    times = torch.linspace(0, 1, LENGTH, dtype=torch.float64)
    width, height = uniform(0.4, 0.8), uniform(0.6, 1.4)
    start = uniform(0, 1) * (1 - width)
    # Where in its pattern each instant lies, in knots; outside of it the pattern is 0, as at its ends.
    place = ((times - start) / width).clamp(0, 1) * (KNOTS - 1)
    left = place.floor().long().clamp(max=KNOTS - 2)
    of_class = patterns[classes]
    low, high = of_class.gather(1, left), of_class.gather(1, left + 1)
    signals = height * (low + (high - low) * (1 - torch.cos(math.pi * (place - left))) / 2)
    signals += uniform(-1, 1) * (times - 0.5)
    wander = normal(number, LENGTH + 6).unfold(1, 7, 1).mean(-1)
    signals += wander + 0.2 * normal(number, LENGTH)
    signals = signals / signals[:NUM_TRAIN].std()
    return Examples(signals, classes, {"train": (0, NUM_TRAIN), "test": (NUM_TRAIN, number)})


@register_module_task("signals-conv", batch_size=32)
def signals_conv(*, channels: int = 16, layers: int = 3) -> partial[ModuleTask]:
    """Convolutional network over time on generated signals: ten patterns, stretched, shifted and in noise.

    Convolutions of length 5 and stride 2 with ReLU; then a linear layer.

    Args:
        channels: of each convolution.
        layers: convolutions; each halves the length of 40.

    Raises:
        ValueError: a size that is not a positive integer.
    """
    modules: list[nn.Module] = [nn.Unflatten(1, (1, LENGTH))]
    length = LENGTH
    for layer in range(layers):
        modules += [nn.Conv1d(channels if layer else 1, channels, 5, stride=2, padding=2), nn.ReLU()]
        length = (length + 1) // 2
    modules += [nn.Flatten(), nn.Linear(channels * length, CLASSES)]
    return partial(ModuleTask, nn.Sequential(*modules), nn.functional.cross_entropy, signal_examples())
