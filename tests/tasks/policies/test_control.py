"""Environments in torch: gymnasium's CartPole step for step, navigation by hand, episodes that end."""

import gymnasium
import numpy as np
import pytest
import torch
from torch.func import vmap
from torch.utils._pytree import tree_map

from l2l_opt.inner_loop.training import training_losses
from l2l_opt.inner_loop.unroll import InnerState, unroll
from l2l_opt.randomness import Stream
from l2l_opt.rules import make_rule
from l2l_opt.tasks import make_task
from l2l_opt.tasks.policies.cartpole import STANDARD

pytestmark = pytest.mark.slow


def draw(family, seed=0):
    generator = torch.Generator().manual_seed(seed)
    data = family.sample(generator)
    return data, family.init_params(data, generator), family.sample_batch(data, generator)


def real_cartpole(data):
    """Gymnasium's own single environment with the physics of ``data``."""
    environment = gymnasium.make("CartPole-v1").unwrapped
    for name in STANDARD:
        setattr(environment, name, float(data[name]))
    environment.total_mass = environment.masspole + environment.masscart
    environment.polemass_length = environment.masspole * environment.length
    environment.reset(seed=0)
    return environment


@pytest.mark.parametrize("seed", range(4))
def test_cartpole_is_gymnasiums_step_for_step(seed):
    family = make_task("cartpole:episodes=3,steps=80,spread=2", dtype=torch.float64)
    data, params, batch = draw(family, seed)
    played = family.play(params, data, batch)
    lengths = []
    for episode in range(3):
        environment = real_cartpole(data)
        environment.state = batch["start"][episode].numpy()
        for step in range(80):
            np.testing.assert_allclose(
                family.observe(torch.as_tensor(environment.state)),
                played.observations[episode, step],
                rtol=1e-11,
                atol=1e-13,
            )
            _, reward, fallen, _, _ = environment.step(int(played.actions[episode, step]))
            assert reward == played.rewards[episode, step] == 1
            if fallen:
                break
        lengths.append(step + 1)
        assert played.rewards[episode].sum() == step + 1
        assert played.alive[episode].sum() == step + 1
    assert len(set(lengths)) > 1
    assert max(lengths) < 80


def test_cartpole_without_spread_is_gymnasiums_default():
    data = make_task("cartpole:spread=1,swapped=False").sample(torch.Generator().manual_seed(0))
    default = gymnasium.make("CartPole-v1").unwrapped
    assert {name: pytest.approx(float(value)) for name, value in data.items()} == {
        name: getattr(default, name) for name in STANDARD
    }


def test_environments_vary_within_their_spread_and_half_of_them_are_swapped():
    family, generator = make_task("cartpole:spread=1.5"), torch.Generator().manual_seed(0)
    drawn = [family.sample(generator) for _ in range(300)]
    for name in ("gravity", "masscart", "length"):
        ratios = torch.stack([data[name] for data in drawn]) / STANDARD[name]
        assert 1 / 1.5 <= ratios.min() < 0.7
        assert 1.4 < ratios.max() <= 1.5
    forces = torch.stack([data["force_mag"] for data in drawn])
    assert 0.4 < (forces < 0).float().mean() < 0.6
    assert all(float(data["masspole"]) == pytest.approx(0.1) for data in drawn)


def test_navigation_moves_at_most_its_speed_and_pays_squared_distance():
    family = make_task("navigation:episodes=2", dtype=torch.float64)
    data = {"goal": torch.tensor([0.3, -0.1], dtype=torch.float64)}
    states = torch.tensor([[0.0, 0.0], [0.25, -0.1]], dtype=torch.float64)
    actions = torch.tensor([[5.0, -0.5], [0.5, 0.0]], dtype=torch.float64)
    moved, rewards, arrived = family.step(data, states, actions)
    torch.testing.assert_close(moved, torch.tensor([[0.1, -0.05], [0.3, -0.1]], dtype=torch.float64))
    torch.testing.assert_close(rewards, torch.tensor([-0.0425, 0.0], dtype=torch.float64))
    assert arrived.tolist() == [False, True]
    goals = torch.stack([family.sample(torch.Generator().manual_seed(seed))["goal"] for seed in range(200)])
    assert goals.abs().max() <= 0.5
    assert goals.min() < -0.45
    assert goals.max() > 0.45


@pytest.mark.parametrize("task", ["navigation:steps=20", "cartpole:steps=30"])
def test_the_loss_is_what_the_return_misses_and_batches_are_drawn_anew(task):
    family = make_task(task, dtype=torch.float64)
    data, params, batch = draw(family)
    missed = family.best_return - family.episode_return(params, data, batch)
    torch.testing.assert_close(family.loss(params, data, batch), missed)
    assert missed > 0
    generator = torch.Generator().manual_seed(1)
    support, query = (family.sample_batch(data, generator, split) for split in ("train", "test"))
    assert not torch.equal(support["noise"], query["noise"])


@pytest.mark.parametrize("task", ["navigation:steps=8,episodes=3", "cartpole:steps=12,episodes=3"])
@pytest.mark.parametrize("memory", [0, 1])
def test_the_meta_gradient_goes_through_the_inner_step(task, memory):
    """The meta-gradient of one inner step, d L_query(theta - lr g(theta)) / d theta, against what it is made of."""
    family = make_task(f"{task},memory={memory}", dtype=torch.float64)
    students = [draw(family, seed) for seed in range(2)]
    data, _, support = (
        tree_map(lambda *leaves: torch.stack(leaves), *(s[part] for s in students)) for part in range(3)
    )
    query = tree_map(lambda *leaves: torch.stack(leaves), *(draw(family, seed)[2] for seed in (7, 8)))
    rule = make_rule("sgd", lr=0.02)
    theta = {name: value.clone().requires_grad_() for name, value in students[0][1].items()}
    start = {name: value.expand(2, *value.shape) for name, value in theta.items()}
    state = tree_map(lambda leaf: leaf.expand(2, *leaf.shape), rule.init_state(theta))
    end, losses = unroll(rule, family, data, InnerState(start, state, None), [support, query], second_derivatives=True)
    found = torch.autograd.grad(losses[-1].mean(), list(theta.values()), retain_graph=True)

    # By hand: (I - lr H_support)^T g_query with H from the surrogate, student by student.
    wanted = [torch.zeros_like(value) for value in theta.values()]
    for student in range(2):
        own = [{k: v[student] for k, v in tree.items()} for tree in (data, support, query)]
        ended = {name: value[student].detach().requires_grad_() for name, value in end.params.items()}
        slope = torch.autograd.grad(family.loss(ended, own[0], own[2]), list(ended.values()))
        points = {name: value.detach().requires_grad_() for name, value in theta.items()}
        first = torch.autograd.grad(family.loss(points, own[0], own[1]), list(points.values()), create_graph=True)
        curved = torch.autograd.grad(first, list(points.values()), slope)
        wanted = [w + (s - 0.02 * c) / 2 for w, s, c in zip(wanted, slope, curved, strict=True)]
    for name, a, b in zip(theta, found, wanted, strict=True):
        assert a.abs().max() > 0, name
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
    rate = torch.autograd.grad(losses[-1].mean(), rule.log_lr)[0]
    assert rate != 0


def test_other_students_do_not_matter():
    family = make_task("cartpole:steps=40,episodes=4", dtype=torch.float64)
    students = [draw(family, seed) for seed in range(3)]
    stacked = [tree_map(lambda *leaves: torch.stack(leaves), *(s[part] for s in students)) for part in range(3)]
    played = vmap(family.play)(stacked[1], stacked[0], stacked[2])
    for index, (data, params, batch) in enumerate(students):
        alone = family.play(params, data, batch)
        for both, one in zip(played, alone, strict=True):
            torch.testing.assert_close(both[index], one, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", ["sgd:lr=0.02", "adam:lr=0.03", "compact"])
def test_any_rule_trains_a_policy(rule):
    family = make_task("cartpole:spread=1,swapped=False,steps=60,episodes=10")
    curves = training_losses(make_rule(rule), family, numbers=range(2), horizon=60, seed=0, stream=Stream.TEST)
    returns = family.best_return - curves
    assert returns[-5:].mean() > 1.5 * returns[:5].mean()


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="discount must be at most 1; got 1.5, use e.g. discount=0.99"):
        make_task("navigation:discount=1.5")
    with pytest.raises(ValueError, match="memory must be a number of 0 or more; got -1"):
        make_task("cartpole:memory=-1")
    with pytest.raises(ValueError, match="spread must be a number of 1 or more; got 0.5"):
        make_task("cartpole:spread=0.5")
    with pytest.raises(ValueError, match="steps must be a positive integer; got 0"):
        make_task("navigation:steps=0")
