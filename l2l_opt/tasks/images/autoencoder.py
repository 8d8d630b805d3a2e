"""Multilayer perceptrons that copy images through a bottleneck."""

from collections.abc import Callable
from functools import partial
from typing import Annotated

from torch import nn

from l2l_opt.checks import check_choices
from l2l_opt.tasks.base import register_module_task
from l2l_opt.tasks.examples import Examples
from l2l_opt.tasks.images.datasets import ImageData
from l2l_opt.tasks.images.examples import SHIPPED, image_examples
from l2l_opt.tasks.layers.basic import INITS, Activation, Init, perceptron
from l2l_opt.tasks.module_task import ModuleTask

LOSSES = {"mse": nn.functional.mse_loss, "bce": nn.functional.binary_cross_entropy_with_logits}


def image_autoencoder(
    load: Callable[[str | None], ImageData],
    *,
    hidden: int = 32,
    layers: int = 1,
    bottleneck: int = 8,
    activation: Activation = "relu",
    norm: str = "none",
    init: Init = "default",
    loss: Annotated[str, partial(check_choices, LOSSES)] = "mse",
    side: int = 8,
) -> partial[ModuleTask]:
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
        side: images are averaged down to side x side.

    Raises:
        ValueError: a size that is not a positive integer, an unknown word.
    """
    images, _ = image_examples(load, None, side)
    pixels = images.inputs.flatten(1)
    outer = [side**2, *[hidden] * layers, bottleneck]
    modules = [
        *perceptron(outer, activation=activation, norm=norm),
        *perceptron(outer[::-1], activation=activation, norm=norm),
    ]
    return partial(
        ModuleTask, nn.Sequential(*modules), LOSSES[loss], Examples(pixels, pixels, images.ranges), init_fn=INITS[init]
    )


for _name, _summary, _side in (
    ("digits", "MLP autoencoder on scikit-learn's 8 x 8 handwritten digits.", 8),
    ("fashion", "MLP autoencoder on the shipped Fashion-MNIST images.", 14),
):
    register_module_task(f"{_name}-autoencoder", SHIPPED[_name], batch_size=64, summary=_summary, side=_side)(
        image_autoencoder
    )
