"""What every registered estimator must do; a new one is covered by being registered."""

import itertools

import pytest
import torch
from torch.utils._pytree import tree_leaves

from l2l_opt.meta_training.estimators import ESTIMATORS, MetaGradientEstimator
from tests.conftest import ODD_VALUES, small_family, small_rule

NAMES = ESTIMATORS.names()


def start(name, *, num_students=3, horizon=8, truncation_length=4, seed=0):
    estimator = ESTIMATORS.make(name, horizon=horizon, truncation_length=truncation_length)
    assert isinstance(estimator, MetaGradientEstimator)
    rule = small_rule("rnnprop").double()
    return estimator, rule, estimator.init(rule, small_family(), num_students=num_students, seed=seed)


@pytest.mark.parametrize("name", NAMES)
def test_gives_every_weight_a_finite_gradient_and_leaves_phi_alone(name):
    estimator, rule, students = start(name)
    before = [weight.clone() for weight in rule.parameters()]
    for _ in range(3):
        estimate, students = estimator.estimate(rule, students)
        assert set(estimate.gradients) == {key for key, _ in rule.named_parameters()}
        assert torch.isfinite(estimate.meta_loss)
        for key, gradient in estimate.gradients.items():
            assert torch.isfinite(gradient).all()
            assert gradient.abs().sum() > 0, key
    assert all(torch.equal(a, b) for a, b in zip(before, rule.parameters(), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_values_of_no_known_kind_are_refused_in_a_sentence(name):
    for option, value in itertools.product(ESTIMATORS.options(name).keys() - {"meta_loss"}, ODD_VALUES):
        with pytest.raises(ValueError, match=r"must .*; got .*, use"):
            ESTIMATORS.make(name, **{option: value})


@pytest.mark.parametrize("name", NAMES)
def test_goes_on_bit_for_bit_from_a_state_dict(name):
    estimator, rule, students = start(name)
    _, students = estimator.estimate(rule, students)
    saved = students.state_dict()
    _, _, again = start(name)
    again.load_state_dict(saved)
    for _ in range(3):
        one, students = estimator.estimate(rule, students)
        other, again = estimator.estimate(rule, again)
        assert torch.equal(one.meta_loss, other.meta_loss)
        for a, b in zip(tree_leaves(one.gradients), tree_leaves(other.gradients), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_meta_gradient_another_seed_another(name):
    first, second, third = (start(name, seed=seed) for seed in (0, 0, 1))
    second[1].load_state_dict(first[1].state_dict())
    third[1].load_state_dict(first[1].state_dict())
    losses = [estimator.estimate(rule, students)[0].meta_loss for estimator, rule, students in (first, second, third)]
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])
