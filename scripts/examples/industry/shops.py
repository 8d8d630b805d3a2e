"""Shops: product pictures among which some are placeholders, as tasks of the top-level learner."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from l2l_opt.few_shot.base_models.images import ImageModels, statistics
from l2l_opt.few_shot.stacking import Predictions, standardised
from scripts.examples.industry.placeholders import as_in_a_shop, render_placeholders

CAPTIONS = (
    *("a t-shirt top with short sleeves", "a pair of trousers", "a pullover with long sleeves", "a dress"),
    *("a coat with long sleeves", "an open sandal shoe", "a shirt with buttons", "a sneaker sport shoe"),
    *("a bag with a handle", "an ankle boot shoe"),
)
"""Of each class of Fashion-MNIST, whose pictures are the products."""


@dataclass(frozen=True)
class Shop:
    """Pictures of one shop.

    Attributes:
        images: ``[pictures, 28, 28]`` in 0 to 1.
        targets: ``[pictures]``, 1 for a placeholder.
        styles: of each placeholder its name, ``""`` for products.
    """

    images: Tensor
    targets: Tensor
    styles: list[str]


def generate_shop(products: Tensor, styles: Sequence[str], random: np.random.Generator, *, placeholders: int) -> Shop:
    """A shop that shows these products, and placeholders of these styles.

    Args:
        products: ``[products, 28, 28]``, the ground 0.
        styles: drawn evenly.
        random: of everything.
        placeholders: how many.
    """
    pictures, places = render_placeholders(styles, placeholders, random)
    targets = torch.cat([torch.zeros(len(products)), torch.ones(placeholders)]).long()
    names = [""] * len(products) + [styles[int(place)] for place in places]
    return Shop(torch.cat([as_in_a_shop(products, random), pictures]), targets, names)


def predictions_of_shop(
    models: ImageModels, shop: Shop, *, known: Sequence[str], unlabelled: Tensor | None = None
) -> Predictions:
    """What the top-level learner sees of a shop: the score of every model, and every statistic.

    Args:
        models: of other products and styles.
        shop: whose pictures.
        known: styles of which a placeholder may be among the labelled examples.
        unlabelled: indices of the pictures by which everything is standardised; all where None.
    """
    seen = torch.cat([models.scores(shop.images), statistics(shop.images)], dim=1)
    may_be_known = torch.tensor([style == "" or style in known for style in shop.styles])
    return Predictions(standardised(seen, seen if unlabelled is None else seen[unlabelled]), shop.targets, may_be_known)


def other_shops(
    models: ImageModels,
    products: Tensor,
    styles: Sequence[str],
    random: np.random.Generator,
    *,
    count: int = 12,
    size: int = 400,
) -> list[Predictions]:
    """Tasks to meta-learn on: shops with placeholders of four styles, of which two may be among the labelled examples.

    Args:
        models: made from other products and styles.
        products: ``[products, 28, 28]``, of which each shop shows some.
        styles: of which each shop has four.
        random: of everything.
        count: of shops.
        size: products of a shop; a quarter as many placeholders are added.
    """
    tasks = []
    for _ in range(count):
        own = random.permutation(styles).tolist()[:4]
        images = products[torch.from_numpy(random.permutation(len(products))[:size])]
        shop = generate_shop(images, own, random, placeholders=size // 4)
        tasks.append(predictions_of_shop(models, shop, known=own[:2]))
    return tasks
