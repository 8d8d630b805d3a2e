"""Small convolutional networks on the images that ship."""

from collections.abc import Callable
from functools import partial
from typing import Annotated

from torch import nn

from l2l_opt.checks import check_choices
from l2l_opt.tasks.base import register_module_task
from l2l_opt.tasks.images.datasets import ImageData
from l2l_opt.tasks.images.examples import SHIPPED, image_examples
from l2l_opt.tasks.layers.basic import ACTIVATIONS, CLASS_LOSSES, INITS, Activation, ClassLoss, Init
from l2l_opt.tasks.module_task import ModuleTask

NORMS: dict[str, Callable[[int], nn.Module] | None] = {
    "none": None,
    "batch": lambda channels: nn.BatchNorm2d(channels, track_running_stats=False),
    "group": lambda channels: nn.GroupNorm(2 if channels % 2 == 0 else 1, channels),
}


def image_conv(
    load: Callable[[str | None], ImageData],
    *,
    channels: int = 8,
    layers: int = 2,
    dense: int = 16,
    activation: Activation = "relu",
    norm: Annotated[str, partial(check_choices, NORMS)] = "none",
    init: Init = "default",
    loss: ClassLoss = "cross-entropy",
    side: int = 8,
) -> partial[ModuleTask]:
    """Classification of images by 3 x 3 convolutions of stride 2, each with norm and activation, and a dense head.

    Args:
        load: ``load(None)`` returns the images.
        channels: of each convolution.
        layers: convolutions; each halves the side.
        dense: units of the dense layer before the outputs.
        activation: sigmoid, relu, tanh, gelu, elu or silu.
        norm: none, batch (statistics of the batch at hand) or group (two groups).
        init: how first weights are drawn: default (PyTorch's way), zero-bias, xavier, he or orthogonal.
        loss: cross-entropy, smoothed (a tenth spread over all classes) or squared (to one-hot classes).
        side: images are averaged down to side x side.

    Raises:
        ValueError: a size that is not a positive integer, an unknown word.
    """
    examples, num_classes = image_examples(load, None, side)
    normalise, activate = NORMS[norm], ACTIVATIONS[activation]
    modules: list[nn.Module] = [nn.Unflatten(1, (1, side))]
    for layer in range(layers):
        modules.append(nn.Conv2d(channels if layer else 1, channels, 3, stride=2, padding=1))
        modules += ([] if normalise is None else [normalise(channels)]) + [activate()]
        side = (side + 1) // 2
    modules += [nn.Flatten(), nn.Linear(channels * side**2, dense), activate(), nn.Linear(dense, num_classes)]
    return partial(ModuleTask, nn.Sequential(*modules), CLASS_LOSSES[loss], examples, init_fn=INITS[init])


for _name, _summary, _side in (
    ("digits", "Small convolutional network on scikit-learn's 8 x 8 handwritten digits.", 8),
    ("fashion", "Small convolutional network on the shipped Fashion-MNIST images.", 14),
):
    register_module_task(f"{_name}-conv", SHIPPED[_name], batch_size=32, summary=_summary, side=_side)(image_conv)
