"""The images that ship, as examples that all families on them share."""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn

from l2l_opt.tasks.images.datasets import ImageData, load_digits, load_fashion_subset
from l2l_opt.tasks.module_task import Examples


def _shipped(load: Callable[[], ImageData]) -> Callable[[str | None], ImageData]:
    def load_without_root(root: str | None) -> ImageData:
        if root is not None:
            raise ValueError(
                f"root is for data found on disk, and these ship with the package; got {root!r}, leave it out"
            )
        return load()

    return load_without_root


SHIPPED = {"digits": _shipped(load_digits), "fashion": _shipped(load_fashion_subset)}
"""Name -> ``load(root)`` of images that need no root."""


@lru_cache(8)
def image_examples(
    load: Callable[[str | None], ImageData],
    root: str | None,
    side: int | None,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Examples, int]:
    """The images, once in memory for all families on them, and the number of classes.

    Args:
        load: ``load(root)`` returns them.
        root: a folder to look for them in first.
        side: they are averaged down to side x side; left as they are where None.
        device: where they live.
        dtype: of them.

    Raises:
        ValueError: a root for images that ship; a side that is not a positive integer.
    """
    if side is not None and (not isinstance(side, int) or side < 1):
        raise ValueError(f"side must be a positive integer; got {side!r}, use e.g. side=8")
    images = load(root)

    def place(tensor: Tensor) -> Tensor:
        if side is not None:
            tensor = nn.functional.adaptive_avg_pool2d(tensor.unsqueeze(1), side).squeeze(1)
        return tensor.to(device=device, dtype=dtype)

    train = place(images.train_images), images.train_labels.to(device)
    test = place(images.test_images), images.test_labels.to(device)
    return Examples.join(train, test), images.num_classes
