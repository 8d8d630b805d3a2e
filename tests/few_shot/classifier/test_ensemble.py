"""Ensembles of a user's own examples, and what is said of them."""

import numpy as np
import pytest
import torch

from l2l_opt import load_rule
from l2l_opt.few_shot.classifier.cross_validation import (
    calibration_error,
    check_examples,
    cross_validate,
    figures,
    folds_of,
)
from l2l_opt.few_shot.classifier.ensemble import Settings, adapt_ensemble

pytestmark = pytest.mark.slow

SMALL = Settings(model="mlp:hidden=8", members=4, steps=30)


def two_clouds(count=30, seed=0):
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.arange(count) % 3 == 0).long()
    return torch.randn(count, 5, generator=generator) + 2.5 * targets.unsqueeze(1), targets


def test_an_ensemble_learns_and_its_probabilities_sum_to_1():
    inputs, targets = two_clouds()
    ensemble = adapt_ensemble(load_rule("default-2"), inputs, targets, num_classes=2, settings=SMALL)
    new, expected = two_clouds(seed=1)
    probabilities = ensemble.probabilities(new)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(30, dtype=torch.float64))
    assert (probabilities.argmax(1) == expected).double().mean() > 0.9


def test_students_differ_and_do_not_see_what_is_hidden_from_them():
    inputs, targets = two_clouds()
    ensemble = adapt_ensemble(load_rule("default-2"), inputs, targets, num_classes=2, settings=SMALL)
    assert 0 < ensemble.seen.mean() < 1
    weights = ensemble.params["1.weight"]
    assert not torch.equal(weights[0], weights[1])


def test_the_same_seed_gives_the_same_ensemble():
    inputs, targets = two_clouds()
    both = [
        adapt_ensemble(load_rule("default-2"), inputs, targets, num_classes=2, settings=SMALL).probabilities(inputs)
        for _ in range(2)
    ]
    assert torch.equal(*both)


def test_folds_are_stratified_and_hold_every_example_back_once():
    targets = torch.tensor([0] * 20 + [1] * 3)
    folds = folds_of(targets)
    assert len(folds) == 3
    assert torch.cat([held_back for _, held_back in folds]).sort().values.tolist() == list(range(23))
    assert all(int(targets[held_back].sum()) == 1 for _, held_back in folds)
    assert all(not set(known.tolist()) & set(held_back.tolist()) for known, held_back in folds)


def test_cross_validation_is_of_held_back_examples():
    """Labels that nothing tells give the PR-AUC of guessing, whatever an ensemble learns by heart."""
    inputs, targets = two_clouds(60)
    shuffled = targets[torch.randperm(60, generator=torch.Generator().manual_seed(0))]
    own = {"num_classes": 2, "positive": 1, "settings": SMALL}
    rule = load_rule("default-2")
    learned, guessed = (cross_validate(rule, inputs, labels, **own)["adapted"] for labels in (targets, shuffled))
    assert learned["pr_auc"] > 0.95
    assert guessed["pr_auc"] < 0.65
    low, high = learned["pr_auc_interval"]
    assert 0.8 < low <= learned["pr_auc"] <= high <= 1 + 1e-9


def test_figures_are_scikit_learns():
    targets = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.1, 0.9]])
    found = figures(probabilities, targets, positive=1)
    assert found["pr_auc"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["roc_auc"] == pytest.approx(0.75)
    assert found["calibration_error"] == pytest.approx((0.1 + 0.8 + 0.4 + 0.1) / 4)
    three = np.eye(3)[[0, 1, 2, 0]]
    assert figures(three, np.array([0, 1, 2, 0]), positive=None)["pr_auc"] == 1


def test_calibration_error_by_hand():
    assert calibration_error(np.array([0.5, 0.5, 0.5, 0.5]), np.array([1, 1, 0, 0])) == 0
    assert calibration_error(np.array([1.0, 1.0]), np.array([0, 1])) == pytest.approx(0.5)


def test_what_nothing_can_be_learned_from_is_refused():
    with pytest.raises(ValueError, match="at least two classes; got 'no' alone"):
        check_examples(torch.zeros(5, dtype=torch.long), ["no"])
    with pytest.raises(ValueError, match="at least 2 examples; got 1 of 'yes'"):
        check_examples(torch.tensor([0, 0, 1]), ["no", "yes"])
