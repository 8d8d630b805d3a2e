"""Softmax regression on images; for validation."""

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
    examples, num_classes = image_examples(SHIPPED["digits"], None, side)
    return partial(
        ModuleTask,
        nn.Sequential(nn.Flatten(), nn.Linear(examples.inputs[0].numel(), num_classes)),
        nn.functional.cross_entropy,
        examples,
    )
