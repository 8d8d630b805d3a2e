"""Multilayer perceptrons on real images: the original paper's second task and its shifts."""

from collections.abc import Callable
from functools import lru_cache, partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from l2l_opt.tasks.base import register_task
from l2l_opt.tasks.datasets import ImageData, load_digits, load_fashion_subset, load_idx
from l2l_opt.tasks.module_task import Examples, ModuleTask

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
}


def image_mlp(
    load: Callable[[str | None], ImageData],
    *,
    hidden: int = 20,
    layers: int = 1,
    activation: str = "sigmoid",
    batch_size: int = 128,
    side: int | None = None,
    root: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ModuleTask:
    """Classification of images by a multilayer perceptron, with cross-entropy.

    Args:
        load: ``load(root)`` returns the images.
        hidden: units a hidden layer.
        layers: hidden layers.
        activation: sigmoid, relu, tanh, gelu, elu or silu.
        batch_size: examples a batch.
        side: images are averaged down to side x side; left as they are where None.
        root: a folder to look for the images in first.
        device: where tensors live.
        dtype: of weights and images.

    Raises:
        ValueError: a size that is not a positive integer, an unknown activation, a root for data that ship.
        FileNotFoundError: the images are not on this machine.

    Source: arXiv 1606.04474, section 3.2 (the defaults on MNIST).
    """
    for key, value in {"hidden": hidden, "layers": layers}.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{key} must be a positive integer; got {value!r}, use e.g. {key}=2")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}; got {activation!r}, use e.g. sigmoid")
    if side is not None and (not isinstance(side, int) or side < 1):
        raise ValueError(f"side must be a positive integer; got {side!r}, use e.g. side=8")
    examples, num_classes = _examples(load, root, side, torch.device(device), dtype)
    widths = [examples.inputs[0].numel()] + [hidden] * layers
    modules: list[nn.Module] = [nn.Flatten()]
    for num_inputs, num_outputs in pairwise(widths):
        modules += [nn.Linear(num_inputs, num_outputs), ACTIVATIONS[activation]()]
    modules.append(nn.Linear(widths[-1], num_classes))
    return ModuleTask(
        nn.Sequential(*modules),
        nn.functional.cross_entropy,
        examples,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
    )


@lru_cache(8)
def _examples(
    load: Callable[[str | None], ImageData],
    root: str | None,
    side: int | None,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Examples, int]:
    """The images, once in memory for all families on them, and the number of classes."""
    images = load(root)

    def place(tensor: Tensor) -> Tensor:
        if side is not None:
            tensor = nn.functional.adaptive_avg_pool2d(tensor.unsqueeze(1), side).squeeze(1)
        return tensor.to(device=device, dtype=dtype)

    train = place(images.train_images), images.train_labels.to(device)
    test = place(images.test_images), images.test_labels.to(device)
    return Examples.join(train, test), images.num_classes


def _register(name: str, load: Callable[[str | None], ImageData], summary: str) -> None:
    factory = partial(image_mlp, load)
    factory.__doc__ = summary
    register_task(name)(factory)


def _shipped(load: Callable[[], ImageData]) -> Callable[[str | None], ImageData]:
    def load_without_root(root: str | None) -> ImageData:
        if root is not None:
            raise ValueError(
                f"root is for data found on disk, and these ship with the package; got {root!r}, leave it out"
            )
        return load()

    return load_without_root


_register("digits-mlp", _shipped(load_digits), "MLP (64-20-10 sigmoid) on scikit-learn's 8 x 8 handwritten digits.")
_register(
    "fashion-mlp", _shipped(load_fashion_subset), "MLP (784-20-10 sigmoid) on the 4,000 shipped Fashion-MNIST images."
)
_register(
    "fashion-full-mlp",
    lambda root: load_idx("fashion-mnist", root=root),
    "MLP (784-20-10 sigmoid) on the whole Fashion-MNIST, found on disk.",
)
_register("mnist-mlp", lambda root: load_idx("mnist", root=root), "MLP (784-20-10 sigmoid) on MNIST, found on disk.")
