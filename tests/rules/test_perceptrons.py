"""The perceptrons ``mlp`` and ``celo2``: their published equations, their sizes, their schedules."""

import numpy as np
import pytest
import torch

from l2l_opt.rules import make_rule
from l2l_opt.rules.features import TIMESCALES, time_features
from l2l_opt.rules.moments import factored_axes, init_moments
from tests.rules.field_equations import Reference

SHAPES = [(), (1,), (7,), (3, 4), (4, 3), (1, 5), (5, 1), (4, 3, 2, 2), (2, 3, 5), (2, 1, 2, 3, 2)]


def weights_of(rule):
    return [
        (layer.weight.detach().numpy().T.astype(np.float64), layer.bias.detach().numpy().astype(np.float64))
        for layer in rule.network.linear()
    ]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["mlp", "celo2"])
def test_updates_are_those_of_the_equations(name, shape):
    """At every rank; features over all axes of a tensor."""
    rule = make_rule(name).double()
    offsets = [(0, 0, 0), (0,), (0, 0, 0)]
    if name == "mlp":
        parameters = (rule.average_offsets, rule.square_offsets, rule.factored_offsets)
        for weight in parameters:
            torch.nn.init.normal_(weight, std=0.1)
        offsets = [weight.detach().numpy() for weight in parameters]
    reference = Reference(name, weights_of(rule), offsets)
    generator = np.random.default_rng(0)
    p = generator.normal(size=shape)
    params = {"p": torch.tensor(p)}
    state = rule.init_state(params)
    for _ in range(4):
        g = generator.normal(size=shape) * 10.0 ** generator.normal(size=shape)
        updates, state = rule({"p": torch.tensor(g)}, state, params)
        wanted = reference.update(g, p)
        np.testing.assert_allclose(updates["p"].detach().numpy(), wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [("mlp", {}, 197), ("mlp", {"hidden_size": 32}, 2409), ("celo2", {}, 347 - 18)],
)
def test_numbers_of_weights_are_those_of_the_papers(name, options, count):
    assert sum(weight.numel() for weight in make_rule(name, **options).parameters()) == count


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((), None), ((5,), None), ((3, 4), (0, 1)), ((4, 3), (1, 0)), ((5, 5), (0, 1)), ((2, 9, 1, 3), (3, 1))],
)
def test_rows_and_columns_are_those_of_the_two_longest_axes(shape, axes):
    assert factored_axes(shape) == axes
    state = init_moments(torch.zeros(shape))
    assert state["averages"].shape == (3, *shape)
    if axes is None:
        assert "column_squares" not in state
        assert state["row_squares"].shape == (3, *shape)
    else:
        for key, axis in (("column_squares", axes[0]), ("row_squares", axes[1])):
            assert state[key].shape == (3, *shape[:axis], 1, *shape[axis + 1 :])


def test_a_matrix_takes_16_bytes_a_weight_and_its_rows_and_columns_a_little():
    state = make_rule("mlp").init_state({"p": torch.zeros(100, 200)})["p"]
    assert sum(4 * value.numel() for value in state.values() if value.dim()) == 16 * 100 * 200 + 12 * 300


def test_the_clocks_features_cross_zero_at_their_timescales():
    for index, scale in enumerate(TIMESCALES):
        features = time_features(torch.tensor(float(scale)), torch.tensor(TIMESCALES, dtype=torch.float64))
        assert features.shape == (11,)
        assert features[index].abs() < 1e-7
        assert (features[:index] > 0).all()
        assert (features[index + 1 :] < 0).all()


def celo2_sizes(num_steps, steps, **options):
    """Root mean squares of updates of one tensor."""
    rule = make_rule("celo2", **options).double()
    params = {"p": torch.randn(6, 5, dtype=torch.float64)}
    state, found = rule.init_state(params), []
    for _ in range(steps):
        grads = {"p": 1e3 * torch.randn(6, 5, dtype=torch.float64)}
        planned = None if num_steps is None else torch.tensor(float(num_steps))
        updates, state = rule(grads, state, params, num_steps=planned)
        found.append(float(updates["p"].detach().square().mean().sqrt()))
    return found


def test_celo2s_updates_are_of_the_size_of_the_schedule():
    """Four steps of warm-up of twenty, then a cosine that would be zero after the last; beyond it, nothing."""
    found = celo2_sizes(20, 22, output_scale=0.01, warm_up=0.2)
    rest = np.clip((np.arange(22) / 20 - 0.2) / 0.8, 0, 1)
    wanted = 0.01 * np.minimum((np.arange(22) + 1) / 4, 1) * (1 + np.cos(np.pi * rest)) / 2
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-9)
    np.testing.assert_allclose(celo2_sizes(None, 5), 0.001, rtol=1e-3)


def test_weight_decay_follows_celo2s_cosine():
    rule = make_rule("celo2", warm_up=0.2)
    assert [rule.decay_schedule(fraction) for fraction in (0.0, 0.2)] == [1, 1]
    assert rule.decay_schedule(0.6) == pytest.approx(0.5)
    assert rule.decay_schedule(1.0) == pytest.approx(0)
    assert make_rule("mlp").decay_schedule(0.7) == 1


def test_an_absurd_gradient_is_clipped_by_celo2():
    rule = make_rule("celo2").double()
    params = {"p": torch.randn(3, 4, dtype=torch.float64)}
    _, state = rule({"p": torch.full((3, 4), 1e30, dtype=torch.float64)}, rule.init_state(params), params)
    assert state["p"]["averages"].max() <= 1000


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mlp", {"hidden_size": 0}),
        ("mlp", {"output_scale": 0.0}),
        ("celo2", {"warm_up": 1.0}),
        ("celo2", {"num_layers": 0}),
    ],
)
def test_options_out_of_range_are_refused(name, options):
    with pytest.raises(ValueError, match=rf"{next(iter(options))} must .*; got"):
        make_rule(name, **options)
