"""Adam, with which the fallback goes on."""

import pytest
import torch
from torch import nn

from l2l_opt import LearnedOptimizer
from tests.conftest import small_rule

pytestmark = pytest.mark.slow


@pytest.mark.filterwarnings("ignore:training with the rule")
@pytest.mark.parametrize("on_device", [False, True], ids=["a rate on the host", "a rate beside the parameters"])
def test_it_takes_the_steps_of_adam(on_device, monkeypatch):
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 6).reshape(2, 3).clone()) for _ in range(2))
    lr = torch.tensor(2.0) if on_device else 2.0
    optimizer = LearnedOptimizer([ours], small_rule("sgd", lr=0.1), lr=lr, guard="fallback")
    ours.grad = torch.zeros(2, 3)
    optimizer.step(loss=torch.tensor(1.0))
    if on_device:
        monkeypatch.setattr("l2l_opt.kernels.triton.DEVICES", {"cpu"})
    optimizer.step(loss=torch.tensor(float("nan")))
    rate = 2.0 * optimizer.param_groups[0]["watch"]["rate"]
    adam = torch.optim.Adam([theirs], lr=rate)
    generator = torch.Generator().manual_seed(0)
    for step in range(20):
        if step == 10:
            optimizer.param_groups[0]["lr"] = lr.fill_(0.5) if on_device else 0.5
            adam.param_groups[0]["lr"] = rate / 4
        ours.grad = torch.randn(2, 3, generator=generator)
        theirs.grad = ours.grad.clone()
        optimizer.step(loss=torch.tensor(1.0))
        adam.step()
        torch.testing.assert_close(ours, theirs)
