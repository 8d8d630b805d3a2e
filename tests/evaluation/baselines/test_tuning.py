"""Tuning for training loss, and for the loss on examples that were kept from training."""

import pytest
import torch
from torch import nn

from l2l_opt.evaluation.baselines.entries import ENTRIES
from l2l_opt.evaluation.baselines.tuning import tune
from l2l_opt.tasks import ModuleTask

HOW = {"horizon": 30, "num_seeds": 2, "seed": 0}


def noisy(test=None):
    """Many inputs and few examples, the targets mostly noise: who learns them all does worst on others."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(60, 40, generator=generator)
    targets = inputs[:, :1] + 2 * torch.randn(60, 1, generator=generator)
    return ModuleTask(nn.Linear(40, 1), nn.functional.mse_loss, (inputs, targets), test_dataset=test, batch_size=16)


@pytest.fixture(scope="module")
def tunings():
    constant = ENTRIES["sgd-validated"].variants[0]
    return [tune(constant, noisy(), validated=validated, **HOW) for validated in (False, True)]


def test_validation_loss_prefers_to_learn_less(tunings):
    training, validation = tunings
    assert validation.lr < training.lr
    assert min(training.losses.values()) < min(validation.losses.values())


def test_neither_touches_the_test_split(tunings):
    other = noisy((torch.full((9, 40), 5.0), torch.full((9, 1), -100.0)))
    constant = ENTRIES["sgd-validated"].variants[0]
    assert [tune(constant, other, validated=validated, **HOW).losses for validated in (False, True)] == [
        own.losses for own in tunings
    ]
