"""The policy gradient against the exact derivatives of an expected return, by enumeration of all that can happen."""

import itertools

import pytest
import torch
from torch.func import vmap

from l2l_opt.tasks.policies.control import ControlTask
from l2l_opt.tasks.policies.networks import CategoricalPolicy
from l2l_opt.tasks.policies.policy_gradient import advantages_over_others, returns_to_go, surrogate

STEPS, EPISODES = 3, 2


class Corridor(ControlTask):
    """Right adds one to the place and pays it, left pays a little; the third place ends the episode."""

    def __init__(self, **options):
        policy = CategoricalPolicy(1, 2, hidden=2, layers=1)
        super().__init__(policy, **{"episodes": EPISODES, "steps": STEPS, "discount": 1.0, "memory": 1.0, **options})

    def sample(self, generator):
        return {"little": torch.tensor(0.4, dtype=self.dtype)}

    def start(self, generator):
        return torch.zeros(self.episodes, 1)

    def step(self, data, states, actions):
        moved = states + actions.unsqueeze(-1)
        return moved, torch.where(actions > 0, moved[:, 0] ** 2, data["little"]), moved[:, 0] >= 2


def corridor(seed=0, **options):
    family = Corridor(dtype=torch.float64, **options)
    generator = torch.Generator().manual_seed(seed)
    data = family.sample(generator)
    params = {name: torch.randn(value.shape, generator=generator, dtype=torch.float64)
              for name, value in family.init_params(data, generator).items()}  # fmt: skip
    return family, data, params


def batch_of(family, sequences):
    """The noise that makes an episode take these actions, whatever the policy."""
    actions = torch.tensor(sequences, dtype=torch.float64).T
    return {"start": torch.zeros(len(sequences), 1, dtype=torch.float64), "noise": actions * (1 - 1e-15)}


def log_probabilities(family, params, data, batch):
    played = family.play(params, data, batch)
    logs = family.policy.log_probability(family.outputs(params, played.observations), played.actions)
    # Actions after the end count here: they are drawn, though they do nothing.
    return logs.sum(-1), played.rewards.sum(-1)


def expected_return(family, params, data):
    sequences = list(itertools.product([0, 1], repeat=STEPS))
    logs, returns = log_probabilities(family, params, data, batch_of(family, sequences))
    return (logs.exp() * returns).sum()


def mean_over_batches(family, params, data, function):
    """The expectation of a function of a batch's loss, over all pairs of episodes."""
    sequences = list(itertools.product([0, 1], repeat=STEPS))
    total, mass = None, 0.0
    for pair in itertools.product(sequences, repeat=EPISODES):
        batch = batch_of(family, pair)
        logs, _ = log_probabilities(family, params, data, batch)
        weight = logs.sum().exp().item()
        value = weight * function(batch)
        total, mass = value if total is None else total + value, mass + weight
    assert mass == pytest.approx(1)
    return total


def flat(params):
    return torch.cat([value.flatten() for value in params.values()])


def unflat(vector, params):
    sizes = [value.numel() for value in params.values()]
    parts = vector.split(sizes)
    return {name: part.reshape(value.shape) for (name, value), part in zip(params.items(), parts, strict=True)}


@pytest.mark.parametrize("memory", [0.0, 0.5, 1.0])
def test_value_and_gradient_have_the_expected_return_as_expectation(memory):
    family, data, params = corridor(memory=memory)
    point = flat(params)
    exact = torch.func.grad(lambda x: expected_return(family, unflat(x, params), data))(point)
    assert exact.abs().min() > 1e-4
    found = mean_over_batches(
        family,
        params,
        data,
        lambda batch: torch.func.grad(lambda x: family.loss(unflat(x, params), data, batch))(point),
    )
    torch.testing.assert_close(found, -exact, rtol=1e-10, atol=1e-12)
    value = mean_over_batches(family, params, data, lambda batch: family.loss(params, data, batch).detach())
    torch.testing.assert_close(value, -expected_return(family, params, data), rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_second_derivatives_are_unbiased_with_whole_memory_and_only_then():
    family, data, params = corridor()
    point = flat(params)

    def exact(x):
        return expected_return(family, unflat(x, params), data)

    def hessian(family):
        def of(batch):
            x = point.clone().requires_grad_()
            loss = family.loss(unflat(x, params), data, batch)
            (slope,) = torch.autograd.grad(loss, x, create_graph=True)
            return torch.stack([torch.autograd.grad(entry, x, retain_graph=True)[0] for entry in slope])

        return mean_over_batches(family, params, data, of)

    wanted = torch.autograd.functional.hessian(exact, point)
    assert wanted.abs().max() > 0.1
    torch.testing.assert_close(hessian(family), -wanted, rtol=1e-9, atol=1e-11)
    forgetful, _, _ = corridor(memory=0.0)
    assert (hessian(forgetful) + wanted).abs().max() > 1e-2


def test_many_drawn_episodes_agree_with_finite_differences():
    family, data, params = corridor(episodes=40_000)
    point = flat(params)
    batch = family.sample_batch(data, torch.Generator().manual_seed(3))
    found = torch.func.grad(lambda x: family.loss(unflat(x, params), data, batch))(point)
    eye = torch.eye(len(point), dtype=torch.float64)
    ahead, behind = (
        torch.stack([expected_return(family, unflat(point + sign * 1e-5 * way, params), data) for way in eye])
        for sign in (1, -1)
    )
    slopes = (ahead - behind) / 2e-5
    assert (found + slopes).norm() < 0.05 * slopes.norm()


def test_the_baseline_lowers_the_variance_of_the_gradient():
    """And a baseline that counts the episode itself would shrink the gradient by 1 / E."""
    rewards, alive = torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    returns = returns_to_go(rewards, discount=0.5)
    torch.testing.assert_close(returns, torch.tensor([[2.0, 2.0], [3.0, 0.0]]))
    advantages = advantages_over_others(returns, alive)
    # The second episode is over at the second step: nobody to compare the first with.
    torch.testing.assert_close(advantages, torch.tensor([[-1.0, 2.0], [1.0, 0.0]]))

    generator = torch.Generator().manual_seed(0)
    returns = 100 + torch.randn(500, 8, 4, generator=generator)
    logs = torch.randn(500, 8, 4, generator=generator)
    with_baseline = vmap(advantages_over_others)(returns, torch.ones_like(returns))
    assert (logs * with_baseline).mean((1, 2)).var() < 1e-2 * (logs * returns).mean((1, 2)).var()


def test_surrogate_is_zero_with_reinforces_gradient():
    generator = torch.Generator().manual_seed(0)
    logs = torch.randn(3, 5, generator=generator, requires_grad=True)
    advantages = torch.randn(3, 5, generator=generator)
    for memory in (0.0, 0.7, 1.0):
        value = surrogate(logs, advantages, memory=memory)
        assert value == 0
        torch.testing.assert_close(torch.autograd.grad(value, logs)[0], -advantages / 3)
