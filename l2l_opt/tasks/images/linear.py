"""Softmax regression on images: of meta-training on Fashion-MNIST, of validation on digits."""

from functools import partial

from torch import nn

from l2l_opt.tasks.base import register_module_task
from l2l_opt.tasks.images.examples import SHIPPED, image_examples
from l2l_opt.tasks.module_task import ModuleTask


@register_module_task("digits-linear", batch_size=32)
def digits_linear(*, side: int | None = None) -> partial[ModuleTask]:
    """Softmax regression on scikit-learn's 8 x 8 handwritten digits.

    Args:
        side: images are averaged down to side x side; left as they are where None.

    Raises:
        ValueError: a size that is not a positive integer.
    """
    return softmax_regression("digits", side)


@register_module_task("fashion-linear", batch_size=32)
def fashion_linear(*, side: int | None = 14) -> partial[ModuleTask]:
    """Softmax regression on the shipped Fashion-MNIST images.

    Args:
        side: images are averaged down to side x side; left as they are where None.

    Raises:
        ValueError: a size that is not a positive integer.
    """
    return softmax_regression("fashion", side)


def softmax_regression(dataset: str, side: int | None) -> partial[ModuleTask]:
    """One linear layer from pixels to classes, by cross-entropy."""
    examples, num_classes = image_examples(SHIPPED[dataset], None, side)
    layer = nn.Linear(examples.inputs[0].numel(), num_classes)
    return partial(ModuleTask, nn.Sequential(nn.Flatten(), layer), nn.functional.cross_entropy, examples)
