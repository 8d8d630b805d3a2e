"""Multilayer perceptrons that copy images through a bottleneck."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from l2l_opt.checks import check_choices, check_positive_integers
from l2l_opt.tasks.base import register_task
from l2l_opt.tasks.images.datasets import ImageData
from l2l_opt.tasks.images.examples import SHIPPED, image_examples
from l2l_opt.tasks.layers.basic import INITS, perceptron
from l2l_opt.tasks.module_task import Examples, ModuleTask

LOSSES = {"mse": nn.functional.mse_loss, "bce": nn.functional.binary_cross_entropy_with_logits}


def image_autoencoder(
    load: Callable[[str | None], ImageData],
    *,
    hidden: int = 32,
    layers: int = 1,
    bottleneck: int = 8,
    activation: str = "relu",
    norm: str = "none",
    init: str = "default",
    loss: str = "mse",
    batch_size: int = 64,
    side: int = 8,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ModuleTask:
    """Images copied by a perceptron: side^2 - hidden - bottleneck - hidden - side^2.

    Args:
        load: ``load(None)`` returns the images.
        hidden: units of each hidden layer.
        layers: hidden layers before the bottleneck, and as many after it.
        bottleneck: units of the narrowest layer, which is linear.
        activation: sigmoid, relu, tanh, gelu, elu or silu.
        norm: before each activation: none, layer, batch (statistics of the batch at hand) or rms.
        init: how first weights are drawn: default (PyTorch's way), zero-bias, xavier, he or orthogonal.
        loss: mse, of grey values from 0 to 1; or bce, cross-entropy with the grey value as probability.
        batch_size: images a batch.
        side: images are averaged down to side x side.
        device: where tensors live.
        dtype: of weights and images.

    Raises:
        ValueError: a size that is not a positive integer, an unknown word.
    """
    check_positive_integers(hidden=hidden, layers=layers, bottleneck=bottleneck, side=side)
    check_choices(INITS, init=init)
    check_choices(LOSSES, loss=loss)
    images, _ = image_examples(load, None, side, torch.device(device), dtype)
    pixels = images.inputs.flatten(1)
    outer = [side**2, *[hidden] * layers, bottleneck]
    modules = [
        *perceptron(outer, activation=activation, norm=norm),
        *perceptron(outer[::-1], activation=activation, norm=norm),
    ]
    return ModuleTask(
        nn.Sequential(*modules),
        LOSSES[loss],
        Examples(pixels, pixels, images.ranges),
        batch_size=batch_size,
        init_fn=INITS[init],
        device=device,
        dtype=dtype,
    )


def _register(name: str, load: Callable[[str | None], ImageData], summary: str, **defaults: int) -> None:
    factory = partial(image_autoencoder, load, **defaults)
    factory.__doc__ = summary
    register_task(name)(factory)


_register("digits-autoencoder", SHIPPED["digits"], "MLP autoencoder on scikit-learn's 8 x 8 handwritten digits.")
_register("fashion-autoencoder", SHIPPED["fashion"], "MLP autoencoder on the shipped Fashion-MNIST images.", side=14)
