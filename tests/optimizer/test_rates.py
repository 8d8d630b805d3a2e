"""Options of a group as a step takes them: the rate, and weight decay under the rule's schedule."""

import pytest
import torch
from torch import nn

from l2l_opt.optimizer.habits import Habits
from l2l_opt.optimizer.rates import ADAMW_LR, step_options
from l2l_opt.rules import make_rule


def options(rule="scale-free", guard="skip", **changes):
    group = {
        "params": [nn.Parameter(torch.ones(2))],
        "lr": 0.5,
        "weight_decay": 0.1,
        "num_steps": None,
        "maximize": False,
        "steps_taken": 30,
    }
    return step_options(group | changes, make_rule(rule), Habits(), guard=guard, loss=torch.tensor(2.0))


def test_weight_decay_goes_with_the_rate_and_the_rules_schedule():
    assert options().decay == pytest.approx(0.5 * ADAMW_LR * 0.1)
    annealed = make_rule("scale-free").decay_schedule(0.3)
    assert options(num_steps=100).decay == pytest.approx(0.5 * ADAMW_LR * 0.1 * annealed)
    assert options(num_steps=20).decay == pytest.approx(0.5 * ADAMW_LR * 0.1 * 0.01)
    assert options(weight_decay=0.0, num_steps=100).decay == 0


def test_a_rate_on_the_host_is_a_number():
    for rate in (0.5, torch.tensor(0.5), torch.tensor([0.5], dtype=torch.float64)):
        found = options(lr=rate)
        assert (found.lr, found.rate) == (0.5, None)


@pytest.mark.parametrize("guard", ["skip", None, "fallback"])
def test_a_rate_beside_its_parameters_stays_there(guard, monkeypatch):
    monkeypatch.setattr("l2l_opt.kernels.triton.DEVICES", {"cpu"})
    rate = torch.tensor([0.25])
    found = options(lr=rate, guard=guard)
    rate.fill_(0.125)
    assert found.guarded == (guard is not None)
    assert (found.lr, found.decay) == (1.0, pytest.approx(ADAMW_LR * 0.1))
    assert (found.rate, found.rate.shape) == (0.125, ())


def test_signs_and_losses():
    assert (options().sign, options(maximize=True).sign) == (1.0, -1.0)
    assert options().loss is None
    assert options("tensor-lstm:loss_features=True").loss == 2.0


def test_a_small_rate_beside_its_parameters_is_warned_of_at_the_first_step(monkeypatch):
    monkeypatch.setattr("l2l_opt.kernels.triton.DEVICES", {"cpu"})
    param = nn.Parameter(torch.ones(2))
    param.grad = torch.ones(2)
    with pytest.warns(UserWarning, match=r"1.0 as meta-trained; got 0.001"):
        options(params=[param], lr=torch.tensor(0.001), steps_taken=0)
    options(params=[param], lr=torch.tensor(0.001), steps_taken=1)
