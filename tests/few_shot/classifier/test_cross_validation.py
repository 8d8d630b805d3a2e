"""Metrics of a model of few examples, and what is refused."""

import math
import time

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from l2l_opt import load_rule
from l2l_opt.checks import DataNote
from l2l_opt.few_shot.classifier.cross_validation import (
    average_precisions,
    calibration_error,
    check_examples,
    cross_validate,
    folds_of,
    metrics,
    plan,
)
from l2l_opt.few_shot.classifier.ensemble import Settings
from tests.few_shot.classifier.test_ensemble import SMALL, two_clouds

pytestmark = pytest.mark.slow


def test_folds_are_stratified_and_hold_every_example_back_once():
    targets = torch.tensor([0] * 20 + [1] * 3)
    folds = folds_of(targets)
    assert len(folds) == 3
    assert torch.cat([held_back for _, held_back in folds]).sort().values.tolist() == list(range(23))
    assert all(int(targets[held_back].sum()) == 1 for _, held_back in folds)
    assert all(not set(known.tolist()) & set(held_back.tolist()) for known, held_back in folds)


def test_cross_validation_is_of_held_back_examples():
    """Labels that nothing predicts give the PR-AUC of guessing, whatever an ensemble memorises."""
    inputs, targets = two_clouds(60)
    shuffled = targets[torch.randperm(60, generator=torch.Generator().manual_seed(0))]
    own = {"num_classes": 2, "positive": 1, "settings": SMALL}
    rule = load_rule("default-2")
    learned, guessed = (cross_validate(rule, inputs, labels, **own)["adapted"] for labels in (targets, shuffled))
    assert learned["pr_auc"] > 0.95
    assert guessed["pr_auc"] < 0.65
    low, high = learned["pr_auc_interval"]
    assert 0.8 < low <= learned["pr_auc"] <= high <= 1 + 1e-9


def test_metrics_are_scikit_learns():
    targets = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.1, 0.9]])
    found = metrics(probabilities, targets, positive=1)
    assert found["pr_auc"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["roc_auc"] == pytest.approx(0.75)
    assert found["calibration_error"] == pytest.approx((0.1 + 0.8 + 0.4 + 0.1) / 4)
    three = np.eye(3)[[0, 1, 2, 0]]
    assert metrics(three, np.array([0, 1, 2, 0]), positive=None)["pr_auc"] == 1


def test_calibration_error_by_hand():
    assert calibration_error(np.array([0.5, 0.5, 0.5, 0.5]), np.array([1, 1, 0, 0])) == 0
    assert calibration_error(np.array([1.0, 1.0]), np.array([0, 1])) == pytest.approx(0.5)


def test_what_nothing_can_be_learned_from_is_refused():
    with pytest.raises(ValueError, match="at least two classes; got 'no' alone"):
        check_examples(torch.zeros(5, dtype=torch.long), ["no"])
    with pytest.raises(ValueError, match="at least two classes; got 'no' alone"):
        check_examples(torch.tensor(0), ["no"])  # a single image
    with pytest.raises(ValueError, match="at least 2 examples; got 1 of 'yes'"):
        check_examples(torch.tensor([0, 0, 1]), ["no", "yes"])


@pytest.mark.parametrize(
    "values",
    [
        [f"{row / 7:.3f}" for row in range(20)],
        [str(row * row) for row in range(9)],
        ["1,5", "2,25", "3", "4", "5", "6", "7"],
    ],
)
def test_measured_labels_are_refused_since_regression_is_not_offered(values):
    with pytest.raises(ValueError, match=f"got {len(values)} different numbers .* a regression, and none is offered"):
        check_examples(torch.arange(len(values)), values)


def test_numbered_classes_are_no_measured_labels():
    check_examples(torch.arange(40) % 20, [str(number) for number in range(20)])
    with pytest.raises(ValueError, match="at least 2 examples; got 1 of '8'"):
        check_examples(torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, *range(8)]), [str(number) for number in range(9)])


@pytest.mark.parametrize("seed", range(3))
def test_average_precisions_of_resamples_are_those_of_their_examples(seed):
    generator = np.random.default_rng(seed)
    scores, happened = generator.integers(0, 6, 30) / 6, generator.random(30) < 0.4
    rows = generator.integers(0, 30, (20, 30))
    times = np.stack([np.bincount(own, minlength=30) for own in rows])
    expected = [average_precision_score(happened[own], scores[own]) for own in rows]
    np.testing.assert_allclose(average_precisions(scores, happened, times), expected, rtol=1e-12)


def test_small_examples_have_all_of_cross_validation():
    for shape, classes in (((100, 30), 2), ((30, 784), 2), ((60, 20), 3)):
        assert plan(shape, classes, Settings()).less(shape[0], Settings()) == []


@pytest.mark.parametrize(
    ("shape", "classes", "words"),
    [
        ((100_000, 10), 2, ["2000 of 100000 examples"]),
        ((400, 10), 40, ["folds instead of 5"]),
        ((500, 2352), 40, ["no gradient boosting"]),
        ((1000, 20), 1000, ["no gradient boosting"]),
    ],
)
def test_large_examples_keep_to_the_budget_and_say_how(shape, classes, words):
    less = " ".join(plan(shape, classes, Settings()).less(shape[0], Settings()))
    assert all(word in less for word in words), less
    assert len(plan(shape, classes, Settings(), budget=math.inf).less(min(shape[0], 2000), Settings())) == 0


def test_a_small_budget_leaves_our_ensemble_and_logistic_regression():
    chosen = plan((100, 30), 2, Settings(), budget=0.01)
    assert chosen.methods == ("adapted", "logistic regression")
    assert (chosen.folds, chosen.members) == (2, 4)
    inputs, targets = two_clouds(60)
    seen = []
    with pytest.warns(
        DataNote, match="to take 0.01 seconds or so .*, cross-validation has 2 folds instead of 5, no grad"
    ):
        results = cross_validate(
            load_rule("default-2"), inputs, targets, num_classes=2, positive=1, settings=SMALL, budget=0.01,
            watch=lambda parts: (seen.append(name) or (fold, name) for fold, name in parts),
        )  # fmt: skip
    assert list(results) == ["adapted", "logistic regression"]
    assert seen == ["adapted", "logistic regression"] * 2


def test_resamples_of_many_classes_take_no_time():
    generator = np.random.default_rng(0)
    times = generator.poisson(1, (500, 2000))
    started = time.process_time()
    for c in range(10):
        average_precisions(generator.random(2000), np.arange(2000) % 40 == c, times)
    assert time.process_time() - started < 5


@pytest.mark.filterwarnings("ignore::l2l_opt.checks.DataNote")
def test_an_interval_holds_its_estimate_where_classes_are_small():
    """A percentile interval of resamples, in which examples find their doubles, would lie above it."""
    targets = torch.arange(120) % 20
    inputs = torch.randn(120, 6, generator=torch.Generator().manual_seed(0)) + 0.5 * (targets % 6).unsqueeze(1)
    results = cross_validate(
        load_rule("default-2"), inputs, targets, num_classes=20, positive=None, settings=SMALL, budget=0.01
    )
    for own in results.values():
        low, high = own["pr_auc_interval"]
        assert low < own["pr_auc"] < high
