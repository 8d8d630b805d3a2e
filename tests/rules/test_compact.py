"""The compact rule: what it starts as, what it is blind to, and what it keeps."""

import math

import pytest
import torch

from l2l_opt.rules import make_rule


def fresh(**options):
    """A rule whose read-out is zero: the hand-made direction alone."""
    rule = make_rule("compact", **options).double()
    with torch.no_grad():
        rule.readout.weight.zero_()
        rule.readout_context.weight.zero_()
    return rule


def loud():
    rule = make_rule("compact").double()
    with torch.no_grad():
        for weight in rule.parameters():
            weight.normal_(std=0.5)
    return rule


def run(rule, gradients, param, num_steps=None):
    state = rule.init_state({"p": param})
    updates = []
    for gradient in gradients:
        update, state = rule({"p": gradient}, state, {"p": param}, num_steps=num_steps)
        updates.append(update["p"])
    return torch.stack(updates)


def test_it_has_few_weights_and_80_bytes_of_state_a_parameter():
    rule = make_rule("compact")
    # Evolution strategies want few.
    assert 0 < sum(weight.numel() for weight in rule.parameters()) < 2000
    state = rule.init_state({"p": torch.zeros(10)})["p"]
    assert sum(value.numel() * value.element_size() for value in state.values() if value.dim()) == 10 * 80


def test_a_silent_read_out_is_adam_with_a_mean_of_momenta_a_cosine_and_the_tensors_own_scale():
    torch.manual_seed(0)
    param = torch.randn(4, 3, dtype=torch.float64)
    gradients = torch.randn(6, 4, 3, dtype=torch.float64)
    ours = run(fresh(), gradients, param, torch.tensor(10.0))
    v = torch.zeros_like(param)
    momenta = dict.fromkeys((0.5, 0.9, 0.99), v)
    for t, gradient in enumerate(gradients):
        v = 0.99 * v + 0.01 * gradient**2
        momenta = {beta: beta * m + (1 - beta) * gradient for beta, m in momenta.items()}
        short, middle, long = (m / (1 - beta ** (t + 1)) for beta, m in momenta.items())
        direction = (short / 4 + middle / 2 + long / 4) / ((v / (1 - 0.99 ** (t + 1))).sqrt() + 1e-8)
        size = 0.05 * (1 + math.cos(math.pi * t / 10)) / 2 * param.square().mean().sqrt()
        torch.testing.assert_close(ours[t], -size * direction.clamp(-3, 3), rtol=1e-12, atol=1e-12)


def test_it_is_blind_to_the_scale_of_the_loss():
    torch.manual_seed(0)
    rule, param = loud(), torch.randn(20, dtype=torch.float64)
    gradients = torch.randn(5, 20, dtype=torch.float64)
    one, other = run(rule, gradients, param), run(rule, 1000 * gradients, param)
    assert one.abs().max() > 0
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-9)


def test_updates_end_with_the_planned_run_and_do_not_where_its_length_is_unknown():
    torch.manual_seed(0)
    param, gradients = torch.randn(8, dtype=torch.float64), torch.randn(6, 8, dtype=torch.float64)
    planned, unknown = run(loud(), gradients, param, torch.tensor(4.0)), run(loud(), gradients, param)
    assert planned[:4].abs().amin(dim=1).min() > 0
    assert planned[4:].abs().max() < 1e-15
    assert unknown[4:].abs().max() > 0


def test_a_tensor_of_zeros_moves_by_the_floor():
    param, gradients = torch.zeros(5, dtype=torch.float64), torch.ones(1, 5, dtype=torch.float64)
    for floor in (0.05, 0.5):
        torch.testing.assert_close(run(fresh(floor=floor), gradients, param)[0], torch.full_like(param, -0.05 * floor))


def test_updates_stop_growing_with_a_tensor_that_has_outgrown_its_beginning():
    torch.manual_seed(0)
    rule, gradient = fresh(growth=3.0), torch.randn(1, 8, dtype=torch.float64)
    param = torch.randn(8, dtype=torch.float64)
    state = rule.init_state({"p": param})

    def size(scale):
        with torch.no_grad():
            update, _ = rule({"p": gradient[0]}, state, {"p": scale * param})
        return float(update["p"].abs().max())

    assert size(2.0) == pytest.approx(2 * size(1.0))
    assert size(3.0) == pytest.approx(3 * size(1.0))
    assert size(100.0) == pytest.approx(3 * size(1.0))


def test_updates_of_runs_beyond_long_run_shrink_with_the_root_of_their_length():
    torch.manual_seed(0)
    rule, param = fresh(long_run=100), torch.randn(8, dtype=torch.float64)
    state = rule.init_state({"p": param})

    def size(num_steps, step=0):
        late = {"p": state["p"] | {"step": torch.full_like(state["p"]["step"], step)}}
        planned = None if num_steps is None else torch.tensor(num_steps)
        with torch.no_grad():
            updates, _ = rule({"p": param}, late, {"p": param}, num_steps=planned)
        return float(updates["p"].norm())

    assert size(10.0) == size(100.0) == size(None)
    assert size(400.0) == pytest.approx(size(100.0) / 2)
    assert size(None, 900) / size(None, 400) == pytest.approx(2 / 3, rel=1e-2)


@pytest.mark.parametrize(("output", "beta"), [(50.0, 0.5), (-50.0, 0.99)])
def test_the_network_chooses_how_long_gradients_are_averaged(output, beta):
    torch.manual_seed(0)
    rule, param, gradients = fresh(), torch.ones(5, dtype=torch.float64), torch.randn(40, 5, dtype=torch.float64)
    with torch.no_grad():
        rule.readout.bias[0] = output
    ours = run(rule, gradients, param)
    m = v = torch.zeros_like(param)
    for gradient in gradients:
        m, v = beta * m + (1 - beta) * gradient, 0.99 * v + 0.01 * gradient**2
    direction = m / (1 - beta**40) / (v / (1 - 0.99**40)).sqrt()
    torch.testing.assert_close(ours[-1], -0.05 * direction.clamp(-3, 3), rtol=1e-6, atol=1e-9)


def test_an_update_never_has_a_sign_that_no_average_of_gradients_has():
    torch.manual_seed(0)
    rule, param = loud(), torch.randn(50, dtype=torch.float64)
    with torch.no_grad():
        rule.readout.weight *= 100
    updates = run(rule, torch.randn(30, 50, dtype=torch.float64).abs(), param)
    assert (updates < 0).all()
    assert updates.abs().std(dim=1).min() > 0  # and yet it chooses coordinate by coordinate


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 0}, "hidden_size must be a positive integer; got 0"),
        ({"output_scale": -1.0}, "output_scale must be a positive number; got -1.0"),
        ({"floor": 0.0}, "floor must be a positive number; got 0.0"),
        ({"growth": -2.0}, "growth must be a positive number; got -2.0"),
        ({"long_run": 0}, "long_run must be a positive number; got 0"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make_rule("compact", **options)
