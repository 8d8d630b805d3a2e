"""Small students and rules that tests share."""

import os

import pytest
import torch
from hypothesis import settings
from torch import nn

from l2l_opt.rules import make_rule
from l2l_opt.rules.base import UpdateRule
from l2l_opt.tasks import ModuleTask

# The same few examples everywhere; `--hypothesis-profile search` looks for new ones.
settings.register_profile("suite", derandomize=True, max_examples=30, deadline=None)
settings.register_profile("search", max_examples=3000, deadline=None)
settings.load_profile("suite")


@pytest.fixture(autouse=True, scope="module")
def _threads():
    """Before fixtures of a module too, since commands that run in this process leave other numbers of them."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


@pytest.fixture(autouse=True)
def _threads_and_one_seed():
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(0)


ODD_VALUES = ([1], {"a": 1}, object())
"""What no option takes, but one that a user's own parts are given in."""


def small_rule(name: str, **options) -> UpdateRule:
    """A fresh rule, small where its size is free."""
    parts = [{"rule": "lstm", "config": {"hidden_size": 3}, "min_dim": 2}, {"rule": "rnnprop:hidden_size=3"}]
    sizes = {
        "lstm": {"hidden_size": 4},
        "meta-lstm": {"hidden_size": 4},
        "rnnprop": {"hidden_size": 4},
        "composed": {"parts": parts},
        "tensor-lstm": {"hidden_size": 4},
    }
    # Tests run for some hundred steps, in which the larger steps of shorter runs would magnify rounding.
    sizes |= {"scale-free": {"usual_run": 100}}
    return make_rule(name, **{**sizes.get(name.partition(":")[0], {}), **options})


def small_family(dtype: torch.dtype = torch.float64, activation: type[nn.Module] = nn.Tanh) -> ModuleTask:
    """A 3-4-2 network on 40 random examples, with badly scaled inputs so that gradients are anisotropic."""
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(40, 3, generator=generator, dtype=dtype) * torch.tensor([0.01, 1.0, 30.0], dtype=dtype)
    targets = torch.randint(2, (40,), generator=generator)
    module = nn.Sequential(nn.Linear(3, 4), activation(), nn.Linear(4, 2))
    return ModuleTask(module, nn.functional.cross_entropy, (inputs, targets), batch_size=8, dtype=dtype)
