"""Compiled particles against the rule under vmap: groups of steps, weights shared or of their own, and purity."""

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from l2l_opt import NRES
from l2l_opt.inner_loop.unroll import InnerState, apply_rule, unroll
from l2l_opt.kernels import native, native_step, particles_step_, serves_particles
from l2l_opt.meta_training.estimators import MetaLoss
from l2l_opt.rules import make_rule
from l2l_opt.rules.base import UpdateRule
from tests.conftest import small_family
from tests.kernels.test_native import instructions

pytestmark = pytest.mark.skipif(native.library is None, reason=native.status)

__all__ = ["instructions"]

SHAPES = {"scalar": (), "vector": (5,), "weight": (33, 70), "kernel": (3, 2, 5, 1), "empty": (0,), "large": (130, 135)}
NUM_PARTICLES = 4


RULES = {
    "recurrent": ("scale-free", {"recurrent": True}),
    "feed-forward": ("scale-free", {"recurrent": False}),
    "mlp": ("mlp", {"hidden_size": 6, "output_scale": 0.1, "magnitude_scale": 0.1}),
    "celo2": ("celo2", {"output_scale": 0.1}),
    "lstm": ("lstm", {"output_scale": 0.1}),
    "rnnprop": ("rnnprop", {"hidden_size": 8}),
    "compact": ("compact", {"long_run": 50}),
}


def loud_rule(kind="recurrent"):
    torch.manual_seed(2)
    name, options = RULES[kind]
    rule = make_rule(name, **options)
    for weight in rule.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    return rule


def start(rule, dtype=torch.float32):
    """Params, state and planned steps of particles after steps 0, 1, 7 and 900, one tensor of which started at zero."""
    generator = torch.Generator().manual_seed(0)

    def draw(shape):
        return torch.randn(NUM_PARTICLES, *shape, generator=generator, dtype=dtype)

    params = {name: draw(shape) for name, shape in SHAPES.items()}
    params["vector"][1] = 0
    states = [rule.init_state({name: value[i] for name, value in params.items()}) for i in range(NUM_PARTICLES)]
    state = {name: {key: torch.stack([own[name][key] for own in states]) for key in states[0][name]} for name in params}
    steps = torch.tensor([0.0, 1.0, 7.0, 900.0])
    for own in state.values():
        own["step"] = steps.clone()
        moved = steps > 0
        for key in [key for key in ("average", "averages", "hidden", "cell") if key in own]:
            own[key][moved] = 0.5 * draw(own[key].shape[1:])[moved]
        for key in [key for key in ("square_average", "row_squares", "column_squares") if key in own]:
            own[key][moved] = draw(own[key].shape[1:])[moved].square()
        if "walk" not in own:
            continue
        for key in ("agreement_fast", "agreement_slow", "gradient"):
            own[key][moved] = 0.1 * draw(())[moved]
        own["first_gradient"][moved] = draw(())[moved].exp()
        own["seen"][moved] = draw(())[moved].sigmoid()
        own["walk"][moved] = 0.2 * draw(())[moved].sigmoid()
    return params, state


def gradients(step, dtype=torch.float32):
    """Of every other step half are zero, as those of rows that a batch does not reach."""
    generator = torch.Generator().manual_seed(100 + step)
    return {
        name: torch.randn(NUM_PARTICLES, *shape, generator=generator, dtype=dtype).clamp(min=0 if step % 2 else -9)
        * 10.0 ** (index - 2)
        for index, (name, shape) in enumerate(SHAPES.items())
    }


@pytest.mark.parametrize("planned", [True, False])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("kind", RULES)
def test_steps_equal_the_rule_under_vmap(instructions, kind, own, planned):
    rule = loud_rule(kind)
    # One minus a decay of .999 has an error of 5e-5 in single precision.
    tolerance = 5e-5 if kind in ("mlp", "celo2") else 1e-5
    phi = {name: weight.detach() for name, weight in rule.named_parameters()}
    if own:
        phi = {name: torch.stack([w + 0.1 * k * w.sign() for k in range(NUM_PARTICLES)]) for name, w in phi.items()}
    num_steps = torch.tensor([10.0, 100.0, 5.0, 5000.0]) if planned else None
    params, state = start(rule)
    assert serves_particles(params, state)
    compiled = rule.compiled_step_of(phi)
    double = tree_map(lambda leaf: leaf.double(), (params, state))
    inner = InnerState(*double, None if num_steps is None else num_steps.double())
    wide = {name: weight.double() for name, weight in phi.items()}
    with torch.no_grad():
        for step in range(4):
            grads = gradients(step)
            # Of other strides, as gradients of expanded students are.
            grads["weight"] = grads["weight"].mT.contiguous().mT
            particles_step_(compiled, params, grads, state, num_steps=num_steps)
            updates, next_state = apply_rule(
                rule.double(), wide, {name: grad.double() for name, grad in grads.items()}, inner
            )
            moved = {name: value + updates[name] for name, value in inner.params.items()}
            inner = InnerState(moved, next_state, inner.num_steps)
    for name, value in params.items():
        for index in range(NUM_PARTICLES):
            ours, exact = value[index].double(), inner.params[name][index]
            assert (ours - exact).norm() <= tolerance * max(float(exact.norm()), 1e-3), (name, index)
        for key, kept in inner.state[name].items():
            difference = (state[name][key].double() - kept).norm()
            assert difference <= 2 * tolerance * max(float(kept.norm()), 1e-3), (name, key)
    assert (params["weight"][0] - start(rule)[0]["weight"][0]).abs().max() > 1e-3


def unrolled(rule, *, phi, num_particles, compiled, family, monkeypatch, expand=False, planned=True):
    """Where particles stand after a window without a graph, and their losses."""
    if not compiled:
        monkeypatch.setattr(type(rule), "compiled_step_of", UpdateRule.compiled_step_of)
    generator = torch.Generator().manual_seed(3)
    one = family.init_params({}, generator)
    factors = torch.linspace(1, 2, num_particles)
    params = {
        name: value.expand(num_particles, *value.shape)
        if expand
        else torch.stack([factor * value for factor in factors])
        for name, value in one.items()
    }
    state = tree_map(
        lambda leaf: leaf.expand(num_particles, *leaf.shape),
        rule.init_state({name: p[0] for name, p in params.items()}),
    )
    batches = []
    for _ in range(6):
        own = [family.sample_batch({}, generator) for _ in range(num_particles)]
        batches.append(tree_map(lambda *leaves: torch.stack(leaves), *own))
    inner = InnerState(params, state, torch.full((num_particles,), 200.0) if planned else None)
    before = [leaf.clone() for leaf in tree_leaves((inner.params, inner.state, batches, phi))]
    with torch.no_grad():
        end, losses = unroll(rule, family, {}, inner, batches, phi=phi)
    after = tree_leaves((inner.params, inner.state, batches, phi))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    monkeypatch.undo()
    return end, losses


@pytest.mark.parametrize("planned", [True, False])
@pytest.mark.parametrize("expand", [True, False])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("kind", ["recurrent", "mlp", "celo2", "lstm", "rnnprop", "compact"])
def test_unrolls_equal_those_of_the_rule_and_change_nothing_they_were_given(monkeypatch, kind, own, expand, planned):
    rule, family = loud_rule(kind), small_family(torch.float32, nn.ReLU)
    phi = {name: weight.detach() for name, weight in rule.named_parameters()}
    if own:
        phi = {name: torch.stack([weight, 1.1 * weight, 0.9 * weight]) for name, weight in phi.items()}
    options = {"phi": phi, "num_particles": 3, "family": family, "monkeypatch": monkeypatch}
    options |= {"expand": expand, "planned": planned}
    (end, losses), (exact_end, exact) = (unrolled(rule, compiled=flag, **options) for flag in (True, False))
    assert losses.shape == (6, 3)
    torch.testing.assert_close(losses, exact, rtol=1e-4, atol=1e-5)
    for name, value in exact_end.params.items():
        torch.testing.assert_close(end.params[name], value, rtol=1e-4, atol=1e-5)
    assert torch.equal(end.state["0.weight"]["step"], torch.full((3,), 5.0))
    assert (losses[0] - losses[-1]).abs().max() > 1e-3


def test_the_compiled_path_is_taken_only_without_a_graph_and_in_single_precision(monkeypatch):
    count = []
    original = native_step.NativeStep.run
    monkeypatch.setattr(native_step.NativeStep, "run", lambda *a, **k: count.append(1) or original(*a, **k))
    for dtype, expected in ((torch.float32, 5), (torch.float64, 0)):
        rule, family = loud_rule().to(dtype), small_family(dtype)
        params = {name: value.unsqueeze(0) for name, value in family.init_params({}, torch.Generator()).items()}
        state = tree_map(lambda leaf: leaf.unsqueeze(0), rule.init_state({name: p[0] for name, p in params.items()}))
        batches = [tree_map(lambda leaf: leaf.unsqueeze(0), family.sample_batch({}, torch.Generator()))] * 6
        inner = InnerState(params, state, None)
        count.clear()
        with torch.no_grad():
            unroll(rule, family, {}, inner, batches)
        assert len(count) == expected
        _, losses = unroll(rule, family, {}, inner, batches)
        assert len(count) == expected
        assert losses.requires_grad


def test_noise_reuse_estimates_the_same_with_and_without_it(monkeypatch):
    """Students at different inner steps and horizons in one batch."""
    found = []
    for compiled in (True, False):
        rule, family = loud_rule(), small_family(torch.float32)
        if not compiled:
            monkeypatch.setattr(type(rule), "compiled_step_of", UpdateRule.compiled_step_of)
        estimator = NRES(
            horizon="120..240",
            truncation_length=4,
            sigma=0.1,
            meta_loss=MetaLoss("progress", "log", 1.0),
            staggered=True,
        )
        students = estimator.init(rule, family, num_students=6, seed=0)
        for _ in range(2):
            estimate, students = estimator.estimate(rule, students)
        found.append(estimate)
    torch.testing.assert_close(found[0].losses, found[1].losses, rtol=1e-4, atol=1e-5)
    for name, gradient in found[1].gradients.items():
        assert (found[0].gradients[name] - gradient).norm() <= 1e-2 * gradient.norm()
        assert gradient.norm() > 0
