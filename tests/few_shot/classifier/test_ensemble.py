"""Ensembles of a user's own examples."""

import pytest
import torch

from l2l_opt import load_rule
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


def test_of_many_examples_each_step_sees_some(monkeypatch):
    inputs, targets = two_clouds(300)
    monkeypatch.setattr("l2l_opt.few_shot.classifier.ensemble.LARGEST_BATCH", 50)
    ensemble = adapt_ensemble(load_rule("default-2"), inputs, targets, num_classes=2, settings=SMALL)
    new, expected = two_clouds(seed=1)
    assert (ensemble.probabilities(new).argmax(1) == expected).double().mean() > 0.9
