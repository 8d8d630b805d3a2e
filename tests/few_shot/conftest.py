"""A small family of episodes in float64."""

import pytest
import torch
from torch import nn

from l2l_opt.few_shot.sources import make_episodes
from l2l_opt.few_shot.task import EpisodeTask


def small_task(*, phase="meta-train", norm=False, **options):
    """Two classes in eight dimensions, a tanh network of four units."""
    episodes = make_episodes("clusters:ways=2,shots=2,queries=3,dim=8", phase=phase, dtype=torch.float64)
    middle = [nn.BatchNorm1d(4)] if norm else []
    model = nn.Sequential(nn.Linear(8, 4), *middle, nn.Tanh(), nn.Linear(4, 2))
    return EpisodeTask(model, episodes, dtype=torch.float64, **options)


@pytest.fixture
def task():
    return small_task()


@pytest.fixture
def params(task):
    return task.init_params({}, torch.Generator().manual_seed(0))
