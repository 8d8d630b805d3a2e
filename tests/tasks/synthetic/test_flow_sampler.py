"""Flows as densities, importance weights, and what they are fitted to."""

import math

import numpy as np
import pytest
import torch

from l2l_opt.tasks import make_task
from l2l_opt.tasks.synthetic.flow_sampler import (
    LOSSES,
    CouplingFlow,
    FlowSampler,
    GaussianMixture,
    chi_square_loss,
    effective_sample_size,
    importance_weighted_loss,
    log_normaliser,
    reverse_kl_loss,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_flow(dim, couplings=5, hidden=8):
    """A flow well away from the identity."""
    flow = CouplingFlow(dim, couplings, hidden).double()
    for number, weight in enumerate(flow.parameters()):
        weight.data = normal(*weight.shape, seed=number)
    return flow


def grid(half_width, points):
    axis = torch.linspace(-half_width, half_width, points, dtype=torch.float64)
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).flatten(0, 1), (axis[1] - axis[0]) ** 2


class Normal:
    """``N(mean, I)`` times a constant."""

    def __init__(self, mean=0.0, log_constant=0.0, dim=2):
        self.dim, self.mean, self.log_constant = dim, mean, log_constant

    def sample(self, generator):
        return {}

    def log_density(self, points, data):
        apart = (points - self.mean).square().sum(-1) / 2
        return self.log_constant - apart - self.dim * math.log(2 * math.pi) / 2


@pytest.mark.parametrize("dim", [2, 3, 5])
def test_the_change_of_variables_is_the_jacobians(dim):
    flow, noise = make_flow(dim), normal(4, dim, seed=9)
    points, log_density = flow(noise)
    for z, x, value in zip(noise, points, log_density, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda own: flow(own)[0], z)
        base = -z @ z / 2 - dim / 2 * math.log(2 * math.pi)
        expected = base - torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(flow.log_density(x), expected)
    assert (points - noise).abs().min() > 0


def test_the_flows_density_integrates_to_one():
    points, area = grid(25, 1001)
    with torch.no_grad():
        density = make_flow(2, couplings=2).log_density(points).exp()
    assert float(density.sum() * area) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("modes", [1, 4])
def test_a_mixture_is_a_density_and_each_student_has_another(modes):
    target = GaussianMixture(2, modes)
    data, other = (target.sample(torch.Generator().manual_seed(seed)) for seed in range(2))
    points, area = grid(10, 401)
    densities = [target.log_density(points, own).exp() for own in (data, other)]
    for density in densities:
        assert float(density.sum() * area) == pytest.approx(1, abs=1e-5)
    assert (densities[0] - densities[1]).abs().max() > 0.01
    covariance = torch.linalg.inv(data["whitening"].mT @ data["whitening"])
    deviations = torch.linalg.eigvalsh(covariance).sqrt()
    assert 0.5 <= float(deviations.min()) <= float(deviations.max()) <= 1


def test_a_flow_that_is_its_target_has_equal_weights_and_knows_the_constant():
    family = FlowSampler(Normal(log_constant=7.0), couplings=2, hidden=3, dtype=torch.float64)
    params = family.init_params({}, torch.Generator().manual_seed(0))
    # Couplings that do nothing leave standard Gaussian noise as it is.
    params = {name: torch.zeros_like(value) for name, value in params.items()}
    weights = family.draw_log_weights(params, {}, torch.Generator().manual_seed(1), number=50)
    torch.testing.assert_close(weights, torch.full((50,), 7.0, dtype=torch.float64))
    assert float(effective_sample_size(weights)) == pytest.approx(1, abs=1e-12)
    assert float(log_normaliser(weights)) == pytest.approx(7)
    assert float(chi_square_loss(weights)) == pytest.approx(0, abs=1e-12)


def test_the_effective_sample_size_of_a_shifted_normal_is_known():
    """``1 / E_q[w^2] = exp(-|m|^2)`` for p = N(m, I) and q = N(0, I); here |m|^2 = 2 * 0.3^2."""
    family = FlowSampler(Normal(mean=0.3, log_constant=-5.0), couplings=2, dtype=torch.float64)
    params = family.init_params({}, torch.Generator().manual_seed(0))
    params = {name: torch.zeros_like(value) for name, value in params.items()}
    weights = family.draw_log_weights(params, {}, torch.Generator().manual_seed(1), number=200_000)
    assert float(effective_sample_size(weights)) == pytest.approx(math.exp(-2 * 0.3**2), rel=0.01)
    assert float(log_normaliser(weights)) == pytest.approx(-5, abs=0.01)
    assert float(reverse_kl_loss(weights)) == pytest.approx(5 + 0.3**2, abs=0.01)


def test_the_effective_sample_size_is_the_quotient_and_stays_within_its_bounds():
    log_weights = normal(9)
    weights = log_weights.exp()
    expected = weights.sum() ** 2 / (9 * weights.square().sum())
    torch.testing.assert_close(effective_sample_size(log_weights), expected)
    for shift in (1e3, -1e3):  # which no exponential survives
        torch.testing.assert_close(effective_sample_size(log_weights + shift), expected)
    one = torch.full((10,), -math.inf)
    one[3] = 0.0
    assert float(effective_sample_size(one)) == pytest.approx(0.1)
    for bad in (math.nan, math.inf):
        assert float(effective_sample_size(torch.tensor([0.0, bad]))) == 0
    assert float(effective_sample_size(torch.full((3,), -math.inf))) == 0
    assert float(effective_sample_size(torch.zeros(7))) == 1


def test_the_importance_weighted_loss_lies_between_reverse_kl_and_the_constant():
    log_weights = normal(40_000)  # mean of w: exp(1 / 2)
    values = [float(loss(log_weights)) for loss in (reverse_kl_loss, importance_weighted_loss)]
    assert values[0] > values[1] > -0.5
    groups = log_weights.exp().reshape(-1, 4).mean(1)
    assert values[1] == pytest.approx(-float(groups.log().mean()))


@pytest.mark.parametrize("loss", list(LOSSES))
@pytest.mark.parametrize("dim", [2, 3])
def test_gradients_are_those_of_finite_differences(loss, dim):
    family = make_task(f"flow-sampler:loss={loss},dim={dim},couplings=2,hidden=3,batch_size=8", dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    data = family.sample(generator)
    params = {name: value.requires_grad_() for name, value in family.init_params(data, generator).items()}
    batch = family.sample_batch(data, generator)
    names = list(params)
    assert torch.autograd.gradcheck(
        lambda *values: family.loss(dict(zip(names, values, strict=True)), data, batch), tuple(params.values())
    )


@pytest.mark.parametrize("loss", ["importance-weighted", "reverse-kl"])
def test_training_raises_the_effective_sample_size_without_missing_mass(loss):
    """By most of three seeds, since a run is chaotic and a few draws may hold most of the weight."""
    before, after, constants = np.array([trained(loss, seed) for seed in range(3)]).T
    assert np.median(after - before) > 0.3
    assert np.median(constants) == pytest.approx(0, abs=0.05)


def trained(loss, seed):
    """Effective sample sizes before and after 200 steps of Adam, and the log of the constant, truly 0."""
    family = make_task(f"flow-sampler:loss={loss},couplings=4,hidden=16")
    generator = torch.Generator().manual_seed(seed)
    data = family.sample(generator)
    params = {name: value.requires_grad_() for name, value in family.init_params(data, generator).items()}

    def weights():
        return family.draw_log_weights(params, data, torch.Generator().manual_seed(5))

    before = float(effective_sample_size(weights()))
    optimizer = torch.optim.Adam(params.values(), lr=0.01)
    for _ in range(200):
        optimizer.zero_grad()
        family.loss(params, data, family.sample_batch(data, generator)).backward()
        optimizer.step()
    return before, float(effective_sample_size(weights())), float(log_normaliser(weights()))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("flow-sampler:dim=1", "dim must be 2 or more, .* got 1, use dim=2"),
        ("flow-sampler:modes=0", "modes must be a positive integer; got 0"),
        ("flow-sampler:couplings=0", "couplings must be a positive integer; got 0"),
        ("flow-sampler:batch_size=30", "batch_size must be a multiple of 4; got 30, use e.g. batch_size=128"),
        ("flow-sampler:loss=kl", "loss must be one of importance-weighted, reverse-kl, chi-square; got 'kl'"),
    ],
)
def test_bad_options_are_named(spec, message):
    with pytest.raises(ValueError, match=message):
        make_task(spec)
