"""Rendered placeholders, the models of them, and shops as tasks."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from l2l_opt.few_shot.placeholder_models import (
    CAPTIONS,
    NAMES,
    STATISTICS,
    CaptionMatcher,
    fit_placeholder_models,
    statistics,
)
from l2l_opt.few_shot.placeholder_shops import generate_shop, other_shops, predictions_of_shop
from l2l_opt.few_shot.placeholders import STYLES, as_in_a_shop, render_placeholder, render_placeholders
from l2l_opt.tasks.images.datasets import load_fashion_subset

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


def test_statistics_by_hand():
    plain, halves = torch.full((28, 28), 0.5), torch.zeros(28, 28)
    halves[:, 14:] = 1
    entropy, levels, edges, mirror, upright, deviation, largest = range(len(STATISTICS))
    found = statistics(torch.stack([plain, halves]))
    assert found[0].tolist() == pytest.approx([0, 1, 0, 0, 0, 0, 1], abs=1e-6)
    assert found[1, entropy].item() == pytest.approx(np.log(2))
    assert found[1, levels] == 2
    assert found[1, edges].item() == pytest.approx(1 / 27 / 2)
    assert found[1, mirror] > 1.9
    assert found[1, upright] == 0
    assert found[1, deviation].item() == pytest.approx(0.5, abs=1e-3)
    assert found[1, largest] == 0.5


@pytest.fixture(scope="module")
def models():
    random = np.random.default_rng(0)
    data = load_fashion_subset()
    pictures, _ = render_placeholders(OLD, 120, random)
    products = as_in_a_shop(data.train_images[:400], random)
    return fit_placeholder_models(products, data.train_labels[:400], pictures, steps=60)


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


def test_a_caption_is_told_by_its_words():
    matcher = CaptionMatcher()
    assert matcher.bags.shape[0] == len(CAPTIONS)
    assert matcher(torch.rand(3, 28, 28)).shape == (3, 10)
    same = CaptionMatcher(["a red shoe", "shoe red a"])
    scores = same(torch.rand(3, 28, 28))
    torch.testing.assert_close(scores[:, 0], scores[:, 1])
