"""Rendered placeholders, models made from them, and shops as tasks."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from l2l_opt.few_shot.base_models.images import (
    NAMES,
    STATISTICS,
    fit_image_models,
)
from l2l_opt.tasks.images.datasets import load_fashion_subset
from scripts.examples.industry.placeholders import STYLES, as_in_a_shop, render_placeholder, render_placeholders
from scripts.examples.industry.shops import CAPTIONS, generate_shop, other_shops, predictions_of_shop

pytestmark = pytest.mark.slow

OLD = list(STYLES)[:6]


@pytest.mark.parametrize("style", STYLES)
def test_a_style_is_drawn_anew_each_time(style):
    random = np.random.default_rng(0)
    one, other = render_placeholder(style, random), render_placeholder(style, random)
    assert one.shape == (28, 28)
    assert 0 <= one.min() <= one.max() <= 1
    assert not torch.equal(one, other)
    assert torch.equal(one, render_placeholder(style, np.random.default_rng(0)))


def test_styles_come_evenly():
    _, places = render_placeholders(OLD, 12, np.random.default_rng(0))
    assert torch.bincount(places).tolist() == [2] * 6


def test_an_unknown_style_is_refused():
    with pytest.raises(ValueError, match="a style must be one of words, .*got 'cubist'"):
        render_placeholder("cubist", np.random.default_rng(0))


@pytest.fixture(scope="module")
def models():
    random = np.random.default_rng(0)
    data = load_fashion_subset()
    pictures, _ = render_placeholders(OLD, 120, random)
    products = as_in_a_shop(data.train_images[:400], random)
    return fit_image_models(products, data.train_labels[:400], pictures, captions=CAPTIONS, steps=60)


def test_models_know_new_pictures_of_styles_they_met(models):
    random = np.random.default_rng(1)
    shop = generate_shop(load_fashion_subset().test_images[:200], OLD, random, placeholders=60)
    scores = models.scores(shop.images)
    assert scores.shape == (260, len(NAMES))
    for name in ("classifier", "image statistics"):
        assert roc_auc_score(shop.targets, scores[:, NAMES.index(name)]) > 0.85


def test_a_shop_is_a_task_whose_labelled_examples_are_of_known_styles(models):
    random = np.random.default_rng(2)
    shop = generate_shop(load_fashion_subset().test_images[:100], OLD, random, placeholders=30)
    task = predictions_of_shop(models, shop, known=OLD[:3])
    assert task.inputs.shape == (130, len(NAMES) + len(STATISTICS))
    assert int(task.known.sum()) == 100 + 15
    (other,) = other_shops(models, load_fashion_subset().train_images[400:600], OLD, random, count=1, size=80)
    assert len(other.targets) == 100
