"""Policies: probabilities are those of the actions they take."""

import math

import pytest
import torch

from l2l_opt.tasks.policies.networks import CategoricalPolicy, GaussianPolicy


def test_gaussian_actions_have_the_density_they_say():
    policy = GaussianPolicy(2, 3, deviation=0.5, hidden=4)
    with torch.no_grad():
        policy.log_deviation.copy_(torch.tensor([-1.0, 0.0, 0.5]))
    observations = torch.randn(7, 2)
    noise = policy.draw_noise((7,), generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    outputs = policy(observations)
    actions = policy.act(outputs, noise)
    density = torch.distributions.Normal(outputs[0], policy.log_deviation.exp())
    torch.testing.assert_close(policy.log_probability(outputs, actions), density.log_prob(actions).sum(-1))
    torch.testing.assert_close(actions, outputs[0] + policy.log_deviation.exp() * noise)


def test_categorical_actions_are_as_frequent_as_their_probabilities_say():
    policy = CategoricalPolicy(1, 3, hidden=4)
    outputs = (torch.tensor([0.3, -0.5, 1.0]).expand(60_000, 3),)
    noise = policy.draw_noise((60_000,), generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    actions = policy.act(outputs, noise)
    frequencies = torch.bincount(actions, minlength=3) / 60_000
    torch.testing.assert_close(frequencies, outputs[0][0].softmax(-1), rtol=0.02, atol=0.005)
    every = policy.log_probability((outputs[0][:3],), torch.arange(3))
    torch.testing.assert_close(every, outputs[0][0].log_softmax(-1))


def test_edges_of_the_noise_are_actions_too():
    policy = CategoricalPolicy(1, 2, hidden=4)
    outputs = (torch.zeros(2, 2),)
    assert policy.act(outputs, torch.tensor([0.0, 1 - 1e-7])).tolist() == [0, 1]


def test_a_fresh_policy_prefers_no_action_much_and_has_its_first_deviation():
    policy = GaussianPolicy(2, 2, deviation=0.3, hidden=16)
    mean, log_deviation = policy(torch.randn(50, 2))
    assert 0 < mean.abs().max() < 0.05
    assert log_deviation.exp().tolist() == pytest.approx([0.3, 0.3])
    assert log_deviation[0].item() == pytest.approx(math.log(0.3))


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="hidden must be a positive integer; got 0"):
        CategoricalPolicy(1, 2, hidden=0)
    with pytest.raises(ValueError, match="deviation must be a positive number; got 0"):
        GaussianPolicy(1, 2, deviation=0, hidden=3)
