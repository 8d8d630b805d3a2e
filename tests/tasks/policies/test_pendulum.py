"""The pendulum: where it stands still, and what is best."""

import math

import pytest
import torch

from l2l_opt.tasks import make_task


@pytest.fixture
def family():
    return make_task("pendulum:episodes=2,steps=5", dtype=torch.float64)


def test_at_the_top_it_stays_and_nothing_is_lost(family):
    states = torch.tensor([[0.0, 0.0], [2 * math.pi, 0.0]], dtype=torch.float64)
    moved, rewards, last = family.step({}, states, torch.zeros(2, 1, dtype=torch.float64))
    torch.testing.assert_close(moved, states, atol=1e-9, rtol=0)
    assert rewards.abs().max() < 1e-12
    assert not last.any()


def test_hanging_costs_one_a_step_and_no_steady_push_holds_it_up(family):
    states = torch.tensor([[math.pi, 0.0]], dtype=torch.float64)
    _, rewards, _ = family.step({}, states, torch.zeros(1, 1, dtype=torch.float64))
    assert float(rewards) == pytest.approx(-1)
    tops = []
    for _ in range(100):
        states, _, _ = family.step({}, states, torch.full((1, 1), 9.0, dtype=torch.float64))
        tops.append(float(family.observe(states)[0, 0]) > 0.9)
    assert any(tops)
    assert sum(tops) < 30


def test_a_fresh_policy_pushes_either_way(family):
    generator = torch.Generator().manual_seed(0)
    params = family.init_params({}, generator)
    played = family.play(params, {}, family.sample_batch({}, generator))
    assert played.actions.std() == pytest.approx(0.7, rel=0.5)
    assert family.loss(params, {}, family.sample_batch({}, generator)) > 0
