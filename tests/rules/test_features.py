"""Features against closed forms."""

import math

import pytest
import torch

from l2l_opt.rules.features import bias_correction, log_sign, progress, safe_sqrt
from l2l_opt.rules.sharded_sums import summed_by, tensor_rms, tensor_sum


def test_log_sign_of_large_gradients_is_log_and_sign():
    gradients = torch.tensor([1.0, -1.0, math.e, -1e4], dtype=torch.float64)
    features = log_sign(gradients, p=10.0)
    expected = torch.stack([gradients.abs().log() / 10, gradients.sign()])
    torch.testing.assert_close(features, expected)


def test_log_sign_of_small_gradients_is_linear():
    gradients = torch.tensor([0.0, 1e-6, -2e-5], dtype=torch.float64)
    features = log_sign(gradients, p=10.0)
    torch.testing.assert_close(features[0], torch.full((3,), -1.0, dtype=torch.float64))
    torch.testing.assert_close(features[1], gradients * math.exp(10))


def test_log_sign_is_continuous_where_the_branches_meet():
    threshold = math.exp(-5)
    below, above = (log_sign(torch.tensor([threshold * f], dtype=torch.float64), p=5.0) for f in (1 - 1e-9, 1 + 1e-9))
    torch.testing.assert_close(below, above, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (1, 2, 3, 4)])
def test_log_sign_puts_features_first(shape):
    assert log_sign(torch.randn(shape)).shape == (2, *shape)


def test_log_sign_keeps_inputs_of_any_magnitude_in_range():
    gradients = torch.tensor([1e-38, 1e-20, 1e20, 3e38])
    features = log_sign(gradients)
    assert torch.isfinite(features).all()
    assert features.abs().max() < 10


@pytest.mark.parametrize("beta", [0.5, 0.9, 0.999])
def test_bias_correction_is_one_minus_a_power(beta):
    for steps in (1, 2, 50):
        ours = bias_correction(torch.tensor(float(steps)), beta=beta, dtype=torch.float64)
        torch.testing.assert_close(float(ours), 1 - beta**steps, rtol=1e-12, atol=0)


def test_safe_sqrt_has_a_finite_derivative_at_zero():
    value = torch.tensor([0.0, 4.0], requires_grad=True)
    root = safe_sqrt(value)
    (derivative,) = torch.autograd.grad(root.sum(), value)
    assert root.tolist() == [0.0, 2.0]
    assert derivative.tolist() == [0.0, 0.25]


def test_progress_is_the_fraction_done_and_stops_at_one():
    assert progress(torch.tensor(3.0), None, dtype=torch.float32) is None
    assert float(progress(torch.tensor(3.0), torch.tensor(12.0), dtype=torch.float64)) == 0.25
    assert float(progress(torch.tensor(30.0), torch.tensor(12.0), dtype=torch.float64)) == 1.0


def test_sums_over_shards_are_those_of_the_whole_tensor():
    """Two shards, each with a reduce that adds what the other holds."""
    whole = torch.randn(7, 3, dtype=torch.float64)
    shards = whole[:4], whole[4:]
    elsewhere = {
        float(shards[0].numel()): float(shards[1].numel()),
        float(shards[0].square().sum()): float(shards[1].square().sum()),
    }

    def reduce(total):
        return total + elsewhere[float(total)]

    torch.testing.assert_close(tensor_rms(shards[0], reduce), whole.square().mean().sqrt())
    with summed_by(reduce):
        torch.testing.assert_close(tensor_rms(shards[0]), whole.square().mean().sqrt())
        with summed_by(None):
            assert float(tensor_sum(shards[0])) == pytest.approx(float(shards[0].sum()))
    torch.testing.assert_close(tensor_rms(whole), whole.square().mean().sqrt())
    assert float(tensor_sum(whole)) == pytest.approx(float(whole.sum()))


def test_the_root_mean_square_of_nothing_is_zero_and_differentiable_at_zero():
    assert float(tensor_rms(torch.zeros(0, 3))) == 0
    zeros = torch.zeros(4, requires_grad=True)
    (gradient,) = torch.autograd.grad(tensor_rms(zeros), zeros)
    assert torch.isfinite(gradient).all()
