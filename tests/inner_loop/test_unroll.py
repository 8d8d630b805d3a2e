"""The unroll: meta-gradients against finite differences, purity, students against a loop, and the plain loop."""

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from l2l_opt.inner_loop import losses as losses_module
from l2l_opt.inner_loop.horizon import Horizon
from l2l_opt.inner_loop.students import Students
from l2l_opt.inner_loop.unroll import InnerState, unroll
from l2l_opt.meta_training.estimators import MetaLoss
from l2l_opt.optimizer.learned_optimizer import LearnedOptimizer
from l2l_opt.randomness import Stream
from tests.conftest import small_family, small_rule

RULES = [
    "scale-free",
    "scale-free:recurrent=True",
    "compact",
    "mlp",
    "celo2",
    "lstm",
    "rnnprop",
    "composed",
    "tensor-lstm:loss_features=True,config={'output_scale':0.1}",
    "sgd",
    "momentum",
    "rmsprop",
    "adam",
]
UNUSED = {"scale-free": {"layer.weight_hidden"}}
"""Weights that wait for a state of the network's own."""


def start(rule, family, *, num_students: int = 3, length: int = 4):
    students = Students(
        rule, family, numbers=range(num_students), horizon=Horizon(length, length), seed=0, stream=Stream.META_TRAINING
    )
    (window,) = students.windows(length)
    return window, window.batches


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_meta_gradient_equals_central_finite_differences(name, monkeypatch):
    rule, family = small_rule(name).double(), small_family()
    if name.startswith(("mlp", "celo2", "tensor-lstm")):
        # Rectifiers have corners, which differences step over.
        monkeypatch.setattr(torch, "relu", torch.nn.functional.softplus)
    if name.startswith(("compact", "scale-free")):
        # Their read-outs start so near zero that the differences drown in rounding.
        torch.nn.init.normal_(rule.readout.weight)
    if name.startswith("tensor-lstm"):
        torch.nn.init.normal_(rule.body.readout.weight)
    if name.startswith("scale-free"):
        for linear in (rule.gates, rule.choices):
            torch.nn.init.normal_(linear.weight, std=0.3)
    students, batches = start(rule, family)
    phi = dict(rule.named_parameters())

    def meta_loss(values):
        _, losses = unroll(rule, family, students.data, students.inner, batches, phi=values, second_derivatives=True)
        return MetaLoss()(losses, losses[0].detach())

    gradients = torch.autograd.grad(meta_loss(phi), list(phi.values()))
    generator = torch.Generator().manual_seed(3)
    for weight_name, gradient in zip(phi, gradients, strict=True):
        assert (gradient.abs().max() > 0) == (weight_name not in UNUSED.get(name, ())), weight_name
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


@pytest.mark.parametrize("second_derivatives", [False, True])
@pytest.mark.parametrize("name", ["compact", "scale-free", "scale-free:recurrent=True"])
def test_meta_gradients_through_dead_units_and_zero_tensors_are_finite(name, second_derivatives):
    """Their coordinates have gradients of exactly zero, where roots and norms have no derivative."""
    rule, family = small_rule(name).double(), small_family(activation=nn.ReLU)
    students, batches = start(rule, family)
    with torch.no_grad():
        students.inner.params["0.bias"][0, :2] = -1e6
        students.inner.params["0.bias"][1] = -1e6  # All of them: the first layer has no gradient at all.
        students.inner.params["2.weight"][2] = 0  # Nor has it here, at the first step.
        students.inner.params["2.bias"].zero_()
    params = {key: value.clone() for key, value in students.inner.params.items()}
    states = [rule.init_state({key: value[index] for key, value in params.items()}) for index in range(3)]
    state = {key: {f: torch.stack([own[key][f] for own in states]) for f in states[0][key]} for key in params}
    phi = dict(rule.named_parameters())
    _, losses = unroll(
        rule,
        family,
        students.data,
        InnerState(params, state, students.inner.num_steps),
        batches,
        phi=phi,
        second_derivatives=second_derivatives,
    )
    gradients = torch.autograd.grad(losses[1:].sum(), list(phi.values()))
    for weight_name, gradient in zip(phi, gradients, strict=True):
        assert torch.isfinite(gradient).all(), weight_name
        assert (gradient.abs().max() > 0) == (weight_name not in UNUSED.get(name, ())), weight_name


def loss_after(rule, family, students, batches, values, *, second_derivatives):
    _, losses = unroll(
        rule, family, students.data, students.inner, batches, phi=values, second_derivatives=second_derivatives
    )
    return MetaLoss()(losses, losses[0].detach())


def test_second_derivatives_change_the_meta_gradient_but_not_the_losses():
    rule, family = small_rule("lstm").double(), small_family()
    students, batches = start(rule, family)
    phi = dict(rule.named_parameters())
    losses = [loss_after(rule, family, students, batches, phi, second_derivatives=on) for on in (False, True)]
    assert torch.equal(losses[0], losses[1])
    first, second = (torch.autograd.grad(loss, list(phi.values())) for loss in losses)
    assert any((a - b).abs().max() > 1e-6 * b.abs().max() for a, b in zip(first, second, strict=True))


def test_without_second_derivatives_it_is_the_gradient_with_detached_gradients():
    """Against a plain loop that writes the paper's rule out: gradients enter the rule as constants."""
    rule, family = small_rule("rnnprop").double(), small_family()
    students, batches = start(rule, family, num_students=1)
    phi = dict(rule.named_parameters())
    ours = torch.autograd.grad(
        loss_after(rule, family, students, batches, phi, second_derivatives=False), list(phi.values())
    )
    params = {key: value[0] for key, value in students.inner.params.items()}
    state = rule.init_state(params)
    total = torch.zeros((), dtype=torch.float64)
    for number, batch in enumerate(batches):
        own_batch = tree_map(lambda leaf: leaf[0], batch)
        total = total + (family.loss(params, {}, own_batch) if number else 0)
        point = {key: value.detach().requires_grad_() for key, value in params.items()}
        gradients = torch.autograd.grad(family.loss(point, {}, own_batch), list(point.values()))
        updates, state = rule(
            dict(zip(point, gradients, strict=True)), state, params, num_steps=students.inner.num_steps[0]
        )
        params = {key: params[key] + updates[key] for key in params}
    expected = torch.autograd.grad(total, list(phi.values()))
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_students_in_a_batch_equal_students_alone(name):
    rule, family = small_rule(name).double(), small_family()
    students, batches = start(rule, family, num_students=3)
    inner, losses = unroll(rule, family, students.data, students.inner, batches)
    for index in range(3):
        one = slice(index, index + 1)
        alone = InnerState(
            *tree_map(
                lambda leaf, one=one: leaf[one], (students.inner.params, students.inner.state, students.inner.num_steps)
            )
        )
        own_batches = [tree_map(lambda leaf, one=one: leaf[one], batch) for batch in batches]
        own_inner, own_losses = unroll(rule, family, students.data, alone, own_batches)
        torch.testing.assert_close(losses[:, one], own_losses, rtol=1e-12, atol=1e-12)
        for a, b in zip(tree_leaves(inner.params), tree_leaves(own_inner.params), strict=True):
            torch.testing.assert_close(a[one], b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("second_derivatives", [False, True])
def test_students_one_by_one_equal_students_under_vmap(monkeypatch, second_derivatives):
    """Few students are looped over; losses and the meta-gradient are those of the batch."""
    rule, family = small_rule("lstm").double(), small_family()
    window, batches = start(rule, family, num_students=2)
    found = []
    for most in (2, 0):
        monkeypatch.setattr(losses_module, "MOST_ONE_BY_ONE", most)
        options = {"second_derivatives": second_derivatives}
        _, losses = unroll(rule, family, window.data, window.inner, batches, **options)
        found.append([losses, *torch.autograd.grad(losses.sum(), list(rule.parameters()))])
    assert found[0][1].abs().max() > 0
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_phi_of_ones_own():
    """One phi a student gives what each phi gives alone."""
    rule, family = small_rule("lstm").double(), small_family()
    students, batches = start(rule, family, num_students=2)
    phi = dict(rule.named_parameters())
    stacked = {key: torch.stack([value, 1.5 * value]) for key, value in phi.items()}
    with torch.no_grad():
        _, losses = unroll(rule, family, students.data, students.inner, batches, phi=stacked)
        for index, factor in enumerate((1.0, 1.5)):
            own = {key: factor * value for key, value in phi.items()}
            _, alone = unroll(rule, family, students.data, students.inner, batches, phi=own)
            torch.testing.assert_close(losses[:, index], alone[:, index], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(losses[-1, 0], losses[-1, 1])


def test_is_pure():
    rule, family = small_rule("rnnprop").double(), small_family()
    students, batches = start(rule, family)
    places = (students.inner.params, students.inner.state, batches, dict(rule.named_parameters()))
    before = [leaf.clone() for leaf in tree_leaves(places)]
    first = unroll(rule, family, students.data, students.inner, batches)
    second = unroll(rule, family, students.data, students.inner, batches)
    assert all(torch.equal(a, b) for a, b in zip(before, tree_leaves(places), strict=True))
    assert torch.equal(first[1], second[1])


def test_losses_have_one_row_more_than_steps_and_the_first_is_before_any():
    rule, family = small_rule("sgd"), small_family()
    students, batches = start(rule, family, num_students=2, length=5)
    _, losses = unroll(rule, family, students.data, students.inner, batches)
    assert losses.shape == (6, 2)
    for index in range(2):
        own = {key: value[index] for key, value in students.inner.params.items()}
        batch = tree_map(lambda leaf, i=index: leaf[i], batches[0])
        torch.testing.assert_close(losses[0, index], family.loss(own, {}, batch))


def test_a_diverged_student_does_not_touch_the_others():
    rule, family = small_rule("sgd"), small_family()
    students, batches = start(rule, family, num_students=3)
    _, healthy = unroll(rule, family, students.data, students.inner, batches)
    params = {key: value.clone() for key, value in students.inner.params.items()}
    params["0.weight"][1] = float("nan")
    sick = InnerState(params, students.inner.state, students.inner.num_steps)
    _, losses = unroll(rule, family, students.data, sick, batches)
    assert torch.isnan(losses[:, 1]).all()
    assert torch.equal(losses[:, [0, 2]], healthy[:, [0, 2]])


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_a_whole_run_equals_the_drop_in_in_a_plain_loop(name):
    """100 steps, float64: 1e-9."""
    rule, family = small_rule(name).double(), small_family()
    students, batches = start(rule, family, num_students=1, length=100)
    with torch.no_grad():
        _, losses = unroll(rule, family, students.data, students.inner, batches)
    params = {key: torch.nn.Parameter(value[0].clone()) for key, value in students.inner.params.items()}
    optimizer = LearnedOptimizer(params.items(), rule, num_steps=100)
    plain = []
    for batch in batches[:-1]:
        optimizer.zero_grad()
        loss = family.loss(dict(params), {}, tree_map(lambda leaf: leaf[0], batch))
        loss.backward()
        optimizer.step(loss=loss)
        plain.append(loss.detach())
    assert abs(float(plain[-1] - plain[0])) > 1e-4
    torch.testing.assert_close(torch.stack(plain), losses[:-1, 0], rtol=1e-9, atol=1e-9)
