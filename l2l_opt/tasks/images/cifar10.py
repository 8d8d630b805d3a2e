"""Convolutional networks on colour images: the original paper's third task."""

from functools import lru_cache

import torch
from torch import Tensor, nn

from l2l_opt.tasks.base import register_task
from l2l_opt.tasks.images.datasets import load_cifar10
from l2l_opt.tasks.module_task import Examples, ModuleTask

LAYERS, KERNEL = 3, 5


class Scaled(nn.Module):
    """Bytes as numbers from -1 to 1."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, images: Tensor) -> Tensor:
        return images.to(self.dtype) / 127.5 - 1


@register_task("cifar10-conv")
def cifar10_conv(
    *,
    channels: int = 16,
    dense: int = 32,
    batch_size: int = 128,
    root: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ModuleTask:
    """A small convolutional network on CIFAR-10, found on disk: three 5 x 5 convolutions with batch norm, and a layer.

    Each convolution is followed by batch norm (statistics of the batch at hand, of each student and step), ReLU and
    max-pooling by 2; then a dense layer with ReLU, and ten outputs.

    Args:
        channels: of each convolution.
        dense: units of the dense layer.
        batch_size: examples a batch.
        root: a folder to look for the images in first.
        device: where tensors live.
        dtype: of weights and activations.

    Raises:
        ValueError: a size that is not a positive integer.
        FileNotFoundError: the images are not on this machine.

    Source: arXiv 1606.04474, section 3.3.
    """
    for key, value in {"channels": channels, "dense": dense}.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{key} must be a positive integer; got {value!r}, use e.g. {key}=16")
    modules: list[nn.Module] = [Scaled(dtype)]
    for layer in range(LAYERS):
        modules += [
            nn.Conv2d(channels if layer else 3, channels, KERNEL, padding=KERNEL // 2),
            nn.BatchNorm2d(channels, track_running_stats=False),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    flat = channels * (32 // 2**LAYERS) ** 2
    modules += [nn.Flatten(), nn.Linear(flat, dense), nn.ReLU(), nn.Linear(dense, 10)]
    examples = _examples(root, torch.device(device))
    return ModuleTask(
        nn.Sequential(*modules),
        nn.functional.cross_entropy,
        examples,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
    )


@lru_cache(2)
def _examples(root: str | None, device: torch.device) -> Examples:
    """The images as bytes, once in memory for all families on them."""
    images = load_cifar10(root=root)
    return Examples.join(
        (images.train_images.to(device), images.train_labels.to(device)),
        (images.test_images.to(device), images.test_labels.to(device)),
    )
