"""Softmax regression on images; for validation."""

import torch
from torch import nn

from l2l_opt.tasks.base import register_task
from l2l_opt.tasks.images.examples import SHIPPED, image_examples
from l2l_opt.tasks.module_task import ModuleTask


@register_task("digits-linear")
def digits_linear(
    *,
    batch_size: int = 32,
    side: int | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ModuleTask:
    """Softmax regression on scikit-learn's 8 x 8 handwritten digits.

    Args:
        batch_size: examples a batch.
        side: images are averaged down to side x side; left as they are where None.
        device: where tensors live.
        dtype: of weights and images.

    Raises:
        ValueError: a size that is not a positive integer.
    """
    examples, num_classes = image_examples(SHIPPED["digits"], None, side, torch.device(device), dtype)
    return ModuleTask(
        nn.Sequential(nn.Flatten(), nn.Linear(examples.inputs[0].numel(), num_classes)),
        nn.functional.cross_entropy,
        examples,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
    )
