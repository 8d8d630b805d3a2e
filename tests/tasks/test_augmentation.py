"""Augmentations leave the task what it is: the same function of rescaled params."""

import math

import pytest
import torch

from l2l_opt.meta_training.estimators import MetaLoss, TruncatedBackprop
from l2l_opt.rules import make_rule
from l2l_opt.tasks import TaskFamily
from l2l_opt.tasks.augmentation import SCALE, AugmentedFamily, Scales, augment
from l2l_opt.tasks.mixture import TaskMixture, make_tasks
from tests.conftest import small_family

WIDE = Scales(1e-3, 1e3)


def start(family, seed=0):
    generator = torch.Generator().manual_seed(seed)
    data = family.sample(generator)
    return data, family.init_params(data, generator), family.sample_batch(data, generator)


def test_a_reparametrised_student_starts_as_the_same_function_and_its_gradients_are_scaled():
    family = AugmentedFamily(small_family(), reparametrise=WIDE)
    assert isinstance(family, TaskFamily)
    data, params, batch = start(family)
    scales = {name: data[SCALE + name] for name in params}
    assert len({float(scale) for scale in scales.values()}) == len(params)
    plain = {name: param * scales[name] for name, param in params.items()}
    points = [{name: p.detach().requires_grad_() for name, p in tree.items()} for tree in (params, plain)]
    losses = [family.loss(points[0], data, batch), family.family.loss(points[1], {}, batch)]
    torch.testing.assert_close(losses[0], losses[1])
    grads, plain_grads = (
        torch.autograd.grad(loss, list(tree.values())) for loss, tree in zip(losses, points, strict=True)
    )
    for name, own, other in zip(params, grads, plain_grads, strict=True):
        assert own.abs().max() > 0
        torch.testing.assert_close(own, scales[name] * other)


def test_scales_are_log_uniform_over_their_range_and_differ_between_students():
    family = AugmentedFamily(small_family(), reparametrise=WIDE, loss_scale=Scales(0.1, 10.0))
    logs = torch.tensor(
        [
            math.log10(float(value))
            for seed in range(200)
            for key, value in start(family, seed)[0].items()
            if key.startswith(SCALE)
        ]
    )
    assert logs.min() < -2.8
    assert logs.max() > 2.8
    assert abs(float(logs.mean())) < 0.3
    losses = {float(family.loss(params, data, batch)) for data, params, batch in (start(family, s) for s in range(3))}
    assert len(losses) == 3


def test_the_loss_scale_multiplies_the_loss():
    family = AugmentedFamily(small_family(), loss_scale=Scales(7.0, 7.0))
    data, params, batch = start(family)
    torch.testing.assert_close(family.loss(params, data, batch), 7 * family.family.loss(params, {}, batch))


def test_a_loss_normalised_by_log_does_not_see_the_loss_scale():
    values = []
    for scale in (1.0, 1000.0):
        family = AugmentedFamily(small_family(), loss_scale=Scales(scale, scale))
        estimator = TruncatedBackprop(horizon=8, truncation_length=8, meta_loss=MetaLoss("sum", "log"))
        rule = make_rule("adam", lr=0.01).double()
        values.append(
            float(estimator.estimate(rule, estimator.init(rule, family, num_students=2, seed=0))[0].meta_loss)
        )
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    assert values[0] != 0


def test_mixtures_are_augmented_family_by_family():
    tasks = augment(make_tasks("quadratics:dim=2..3 + digits-mlp:hidden=2"), reparametrise=WIDE)
    assert isinstance(tasks, TaskMixture)
    generator = torch.Generator().manual_seed(0)
    assert all(isinstance(tasks.draw(generator), AugmentedFamily) for _ in range(8))
    plain = small_family()
    assert augment(plain) is plain


@pytest.mark.parametrize("text", ["1e-3", "a..b", "0..1", "10..1", "-1..1", "1..inf", "nan..1"])
def test_scales_that_cannot_be_read_are_named(text):
    with pytest.raises(ValueError, match="scales must read LOW..HIGH"):
        Scales.parse(text)
