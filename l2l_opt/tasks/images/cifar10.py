"""Convolutional networks on colour images: the original paper's third task."""

from functools import lru_cache, partial

import torch
from torch import Tensor, nn

from l2l_opt.tasks.base import register_module_task
from l2l_opt.tasks.examples import Examples
from l2l_opt.tasks.images.datasets import Root, load_cifar10
from l2l_opt.tasks.module_task import ModuleTask

LAYERS, KERNEL = 3, 5


class Scaled(nn.Module):
    """Bytes as numbers from -1 to 1, in the dtype that the module is in."""

    middle: Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("middle", torch.tensor(127.5))

    def forward(self, images: Tensor) -> Tensor:
        return images / self.middle - 1


@register_module_task("cifar10-conv", batch_size=128)
def cifar10_conv(*, channels: int = 16, dense: int = 32, root: Root | None = None) -> partial[ModuleTask]:
    """A small convolutional network on CIFAR-10, found on disk: three 5 x 5 convolutions with batch norm, and a layer.

    Each convolution is followed by batch norm (statistics of the batch at hand, of each student and step), ReLU and
    max-pooling by 2; then a dense layer with ReLU, and ten outputs.

    Args:
        channels: of each convolution.
        dense: units of the dense layer.
        root: the folder to look for the images in.

    Raises:
        ValueError: a size that is not a positive integer.
        FileNotFoundError: the images are not on this machine.

    Source: arXiv 1606.04474, section 3.3.
    """
    modules: list[nn.Module] = [Scaled()]
    for layer in range(LAYERS):
        modules += [
            nn.Conv2d(channels if layer else 3, channels, KERNEL, padding=KERNEL // 2),
            nn.BatchNorm2d(channels, track_running_stats=False),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    flat = channels * (32 // 2**LAYERS) ** 2
    modules += [nn.Flatten(), nn.Linear(flat, dense), nn.ReLU(), nn.Linear(dense, 10)]
    return partial(ModuleTask, nn.Sequential(*modules), nn.functional.cross_entropy, _examples(root))


@lru_cache(2)
def _examples(root: str | None) -> Examples:
    """The images as bytes, once in memory for all families on them."""
    images = load_cifar10(root=root)
    return Examples.join((images.train_images, images.train_labels), (images.test_images, images.test_labels))
