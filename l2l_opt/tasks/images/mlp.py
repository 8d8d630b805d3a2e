"""Multilayer perceptrons on real images: the original paper's second task and its shifts."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from l2l_opt.checks import check_choices, check_positive_integers
from l2l_opt.tasks.base import register_task
from l2l_opt.tasks.images.datasets import ImageData, load_idx
from l2l_opt.tasks.images.examples import SHIPPED, image_examples
from l2l_opt.tasks.layers.basic import ACTIVATIONS, CLASS_LOSSES, INITS, perceptron
from l2l_opt.tasks.module_task import ModuleTask


def image_mlp(
    load: Callable[[str | None], ImageData],
    *,
    hidden: int = 20,
    layers: int = 1,
    activation: str = "sigmoid",
    norm: str = "none",
    init: str = "default",
    loss: str = "cross-entropy",
    batch_size: int = 128,
    side: int | None = None,
    root: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ModuleTask:
    """Classification of images by a multilayer perceptron.

    Args:
        load: ``load(root)`` returns the images.
        hidden: units a hidden layer.
        layers: hidden layers.
        activation: sigmoid, relu, tanh, gelu, elu or silu.
        norm: before each activation: none, layer, batch (statistics of the batch at hand) or rms.
        init: how first weights are drawn: default (PyTorch's way), zero-bias, xavier, he or orthogonal.
        loss: cross-entropy, smoothed (a tenth spread over all classes) or squared (to one-hot classes).
        batch_size: examples a batch.
        side: images are averaged down to side x side; left as they are where None.
        root: a folder to look for the images in first.
        device: where tensors live.
        dtype: of weights and images.

    Raises:
        ValueError: a size that is not a positive integer, an unknown word, a root for data that ship.
        FileNotFoundError: the images are not on this machine.

    Source: arXiv 1606.04474, section 3.2 (the defaults on MNIST).
    """
    check_positive_integers(hidden=hidden, layers=layers)
    check_choices(ACTIVATIONS, activation=activation)
    check_choices(INITS, init=init)
    check_choices(CLASS_LOSSES, loss=loss)
    examples, num_classes = image_examples(load, root, side, torch.device(device), dtype)
    widths = [examples.inputs[0].numel(), *[hidden] * layers, num_classes]
    return ModuleTask(
        nn.Sequential(nn.Flatten(), *perceptron(widths, activation=activation, norm=norm)),
        CLASS_LOSSES[loss],
        examples,
        batch_size=batch_size,
        init_fn=INITS[init],
        device=device,
        dtype=dtype,
    )


def _register(name: str, load: Callable[[str | None], ImageData], summary: str) -> None:
    factory = partial(image_mlp, load)
    factory.__doc__ = summary
    register_task(name)(factory)


_register("digits-mlp", SHIPPED["digits"], "MLP (64-20-10 sigmoid) on scikit-learn's 8 x 8 handwritten digits.")
_register("fashion-mlp", SHIPPED["fashion"], "MLP (784-20-10 sigmoid) on the 4,000 shipped Fashion-MNIST images.")
_register(
    "fashion-full-mlp",
    lambda root: load_idx("fashion-mnist", root=root),
    "MLP (784-20-10 sigmoid) on the whole Fashion-MNIST, found on disk.",
)
_register("mnist-mlp", lambda root: load_idx("mnist", root=root), "MLP (784-20-10 sigmoid) on MNIST, found on disk.")
