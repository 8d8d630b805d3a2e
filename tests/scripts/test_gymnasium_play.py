"""Playing in gymnasium's own environment."""

import sys

import pytest
import torch
from torch.utils._pytree import tree_map

from l2l_opt.tasks import make_task
from scripts.examples.reinforcement_learning.gymnasium_play import cartpole_returns


def policies(family, count):
    """Fresh policies, each in an environment of its own."""
    generator = torch.Generator().manual_seed(0)
    drawn = [family.sample(generator) for _ in range(count)]
    params = [family.init_params(data, generator) for data in drawn]
    return (tree_map(lambda *leaves: torch.stack(leaves), *trees) for trees in (params, drawn))


def test_returns_are_those_of_the_same_environment_in_torch():
    family = make_task("cartpole:steps=100,episodes=400,spread=2")
    params, data = policies(family, 3)
    real = cartpole_returns(family, params, data, episodes=400, generator=torch.Generator().manual_seed(1))
    assert real.shape == (3, 400)
    batch = family.sample_batch({}, torch.Generator().manual_seed(2))
    for index in range(3):
        ours = family.play(*({k: v[index] for k, v in tree.items()} for tree in (params, data)), batch).rewards.sum(-1)
        error = (ours.var() / 400 + real[index].var() / 400).sqrt()
        assert (ours.mean() - real[index].mean()).abs() < 4 * error
    means = real.mean(1)
    assert means.max() > 1.5 * means.min()


def test_the_same_generator_gives_the_same_returns_and_the_limit_is_kept():
    family = make_task("cartpole:steps=12,spread=1,swapped=False")
    params, data = policies(family, 2)
    first, second, third = (
        cartpole_returns(family, params, data, episodes=5, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert first.max() == 12
    assert first.min() >= 8


def test_without_gymnasium_the_error_names_what_to_install(monkeypatch):
    family = make_task("cartpole:steps=5")
    params, data = policies(family, 1)
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ModuleNotFoundError, match=r"use pip install 'l2l_opt\[rl\]'"):
        cartpole_returns(family, params, data, episodes=1, generator=torch.Generator())
