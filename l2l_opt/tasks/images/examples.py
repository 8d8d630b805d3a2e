"""The images that ship, as examples that all families on them share."""

from collections.abc import Callable
from functools import lru_cache

from torch import Tensor, nn

from l2l_opt.tasks.examples import Examples
from l2l_opt.tasks.images.datasets import ImageData, load_digits, load_fashion_subset


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
def image_examples(load: Callable[[str | None], ImageData], root: str | None, side: int | None) -> tuple[Examples, int]:
    """The images, once in memory for all families on them, and the number of classes.

    Args:
        load: ``load(root)`` returns them.
        root: the folder to look for them in.
        side: they are averaged down to side x side; left as they are where None.

    Raises:
        ValueError: a root for images that ship.
    """
    images = load(root)

    def small(tensor: Tensor) -> Tensor:
        return tensor if side is None else nn.functional.adaptive_avg_pool2d(tensor.unsqueeze(1), side).squeeze(1)

    train, test = (small(images.train_images), images.train_labels), (small(images.test_images), images.test_labels)
    return Examples.join(train, test), images.num_classes
