"""The unroll: meta-gradients against finite differences, purity, students against a loop, and the plain loop."""

import pytest
import torch

from l2l_opt.estimators import MetaLoss
from l2l_opt.randomness import Stream
from l2l_opt.schedules import Horizon
from l2l_opt.students import Students
from l2l_opt.unroll import unroll
from tests.conftest import small_family, small_rule

RULES = ["lstm", "rnnprop", "composed", "sgd", "momentum", "rmsprop", "adam"]


def start(rule, family, *, num_students: int = 3, length: int = 4):
    students = Students(
        rule, family, numbers=range(num_students), horizon=Horizon(length, length), seed=0, stream=Stream.META_TRAINING
    )
    return students, students.window(length)


@pytest.mark.parametrize("name", RULES)
def test_meta_gradient_equals_central_finite_differences(name):
    rule, family = small_rule(name).double(), small_family()
    students, batches = start(rule, family)
    phi = dict(rule.named_parameters())

    def meta_loss(values):
        _, losses = unroll(rule, family, students.data, students.inner, batches, phi=values, second_derivatives=True)
        return MetaLoss()(losses, losses[0].detach())

    gradients = torch.autograd.grad(meta_loss(phi), list(phi.values()))
    generator = torch.Generator().manual_seed(3)
    for weight_name, gradient in zip(phi, gradients, strict=True):
        assert gradient.abs().max() > 0, weight_name
        direction = torch.randn(gradient.shape, generator=generator, dtype=gradient.dtype)
        direction /= direction.norm().clamp(min=1e-12)
        estimates = []
        for h in (1e-4, 5e-5):
            with torch.no_grad():
                moved = [meta_loss(phi | {weight_name: phi[weight_name] + sign * h * direction}) for sign in (1, -1)]
            estimates.append(float(moved[0] - moved[1]) / (2 * h))
        # Richardson: the errors of order h^2 cancel.
        exact = (4 * estimates[1] - estimates[0]) / 3
        ours = float((gradient * direction).sum())
        assert abs(ours - exact) <= 1e-6 * max(abs(exact), float(gradient.norm()) * 1e-1), weight_name
