"""Runs of MAML side by side know nothing of each other, and learn."""

import torch

from l2l_opt.tasks import make_task
from scripts.experiments.reinforcement_learning import side_by_side

TASK = "navigation:steps=10,episodes=4,hidden=8"


def test_a_run_is_the_same_alone_and_beside_another():
    family = make_task(TASK, dtype=torch.float64)
    thetas = []
    for runs in (1, 2):
        learner = side_by_side.fresh_learner("rnnprop:hidden_size=4", family, runs=runs)
        outer = side_by_side.meta_train(learner, family, outer_steps=3, inner_steps=2, environments=2)
        returns = list(outer)
        assert returns[0].shape == (3, runs)
        thetas.append(learner.theta)
        assert all(bool(weight.any()) for weight in learner.phi.values())
    for name, value in thetas[0].items():
        torch.testing.assert_close(thetas[1][name][:1], value, rtol=1e-5, atol=1e-8)
    assert (thetas[1]["network.0.weight"][0] != thetas[1]["network.0.weight"][1]).any()


def test_without_inner_steps_one_policy_is_trained_and_no_rule():
    family = make_task(TASK)
    learner = side_by_side.fresh_learner("sgd:lr=0.1", family, runs=2)
    first, rate = learner.theta["network.0.weight"].clone(), learner.phi["log_lr"].clone()
    for returns in side_by_side.meta_train(learner, family, outer_steps=2, inner_steps=0, environments=2):
        assert returns.shape == (1, 2)
    assert (learner.theta["network.0.weight"] != first).any()
    assert torch.equal(learner.phi["log_lr"], rate)
