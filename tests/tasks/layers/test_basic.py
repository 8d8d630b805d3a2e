"""Norms, first weights, losses of classes."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, log_softmax

from l2l_opt.tasks.layers.basic import CLASS_LOSSES, INITS, Averaged, Residual, perceptron


def kinds(modules):
    return [type(module).__name__ for module in modules]


def test_a_norm_stands_between_each_hidden_layer_and_its_activation():
    assert kinds(perceptron([4, 3, 3, 2], activation="tanh")) == ["Linear", "Tanh", "Linear", "Tanh", "Linear"]
    assert kinds(perceptron([4, 3, 2], norm="rms")) == ["Linear", "RMSNorm", "ReLU", "Linear"]
    assert kinds(perceptron([4, 3], norm="layer", activate_last=True)) == ["Linear", "LayerNorm", "ReLU"]


@pytest.mark.parametrize("norm", ["layer", "batch", "rms"])
def test_norms_take_the_scale_away_and_keep_no_statistics(norm):
    torch.manual_seed(0)
    module = nn.Sequential(*perceptron([6, 8, 2], norm=norm))
    nn.init.zeros_(module[0].bias)
    x = torch.randn(16, 6)
    torch.testing.assert_close(module(x), module(100 * x), rtol=1e-2, atol=1e-3)
    assert not dict(module.named_buffers())


@pytest.mark.parametrize("name", INITS)
def test_first_weights_are_drawn_with_their_deviation(name):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(400, 300), nn.Linear(300, 20))
    with torch.no_grad():
        module[0].weight.zero_()
    INITS[name](module)
    weight, bias = module[0].weight, module[0].bias
    expected = {"default": 1 / 1200, "zero-bias": 1 / 1200, "xavier": 2 / 700, "he": 2 / 400, "orthogonal": 2 / 400}
    expected["small"] = 0.774e-4  # a normal of deviation .01, cut at two deviations
    assert float(weight.detach().var()) == pytest.approx(expected[name], rel=0.05)
    assert bool(bias.any()) == (name == "default")
    if name == "orthogonal":
        torch.testing.assert_close(weight @ weight.T, 2 * torch.eye(300), rtol=1e-4, atol=1e-4)


def test_losses_of_classes():
    generator = torch.Generator().manual_seed(0)
    outputs, classes = torch.randn(6, 4, generator=generator), torch.tensor([0, 1, 2, 3, 0, 1])
    logs = log_softmax(outputs, -1)
    own = logs[torch.arange(6), classes].mean()
    wanted = torch.eye(4)[classes]
    torch.testing.assert_close(CLASS_LOSSES["cross-entropy"](outputs, classes), -own)
    torch.testing.assert_close(CLASS_LOSSES["smoothed"](outputs, classes), -0.9 * own - 0.1 * logs.mean())
    torch.testing.assert_close(CLASS_LOSSES["squared"](outputs, classes), ((outputs - wanted) ** 2).sum(-1).mean())
    assert CLASS_LOSSES["cross-entropy"] is cross_entropy


def test_residual_and_mean():
    x = torch.arange(12.0).reshape(2, 3, 2)
    assert torch.equal(Residual(nn.Identity(), nn.Identity())(x), 2 * x)
    assert torch.equal(Averaged()(x), x.mean(1))
