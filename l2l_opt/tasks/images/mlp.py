"""Multilayer perceptrons on real images: the original paper's second task and its shifts."""

from collections.abc import Callable
from functools import partial

from torch import nn

from l2l_opt.tasks.base import register_module_task
from l2l_opt.tasks.images.datasets import ImageData, Root, load_fashion, load_mnist
from l2l_opt.tasks.images.examples import SHIPPED, image_examples
from l2l_opt.tasks.layers.basic import CLASS_LOSSES, INITS, Activation, ClassLoss, Init, perceptron
from l2l_opt.tasks.module_task import ModuleTask


def image_mlp(
    load: Callable[[str | None], ImageData],
    *,
    hidden: int = 20,
    layers: int = 1,
    activation: Activation = "sigmoid",
    norm: str = "none",
    init: Init = "default",
    loss: ClassLoss = "cross-entropy",
    side: int | None = None,
    root: Root | None = None,
) -> partial[ModuleTask]:
    """Classification of images by a multilayer perceptron.

    Args:
        load: ``load(root)`` returns the images.
        hidden: units a hidden layer.
        layers: hidden layers.
        activation: sigmoid, relu, tanh, gelu, elu or silu.
        norm: before each activation: none, layer, batch (statistics of the batch at hand) or rms.
        init: how first weights are drawn: default (PyTorch's way), zero-bias, xavier, he or orthogonal.
        loss: cross-entropy, smoothed (a tenth spread over all classes) or squared (to one-hot classes).
        side: images are averaged down to side x side; left as they are where None.
        root: the folder to look for the images in.

    Raises:
        ValueError: a size that is not a positive integer, an unknown word, a root for data that ship.
        FileNotFoundError: the images are not on this machine.

    Source: arXiv 1606.04474, section 3.2 (the defaults on MNIST).
    """
    examples, num_classes = image_examples(load, root, side)
    widths = [examples.inputs[0].numel(), *[hidden] * layers, num_classes]
    return partial(
        ModuleTask,
        nn.Sequential(nn.Flatten(), *perceptron(widths, activation=activation, norm=norm)),
        CLASS_LOSSES[loss],
        examples,
        init_fn=INITS[init],
    )


for _name, _load, _summary in (
    ("digits-mlp", SHIPPED["digits"], "MLP (64-20-10 sigmoid) on scikit-learn's 8 x 8 handwritten digits."),
    ("fashion-mlp", SHIPPED["fashion"], "MLP (784-20-10 sigmoid) on the 4,000 shipped Fashion-MNIST images."),
    ("fashion-full-mlp", load_fashion, "MLP (784-20-10 sigmoid) on the whole Fashion-MNIST, found on disk."),
    ("mnist-mlp", load_mnist, "MLP (784-20-10 sigmoid) on MNIST, found on disk."),
):
    register_module_task(_name, _load, batch_size=128, summary=_summary)(image_mlp)
