"""The suites: what is on them can be run, and what is evaluated on is nowhere else."""

from importlib import resources

import pytest
import torch

from l2l_opt.registry import parse_spec
from l2l_opt.tasks import TASKS, make_task

META_TRAINING = {
    "quadratics",
    "least-squares",
    "digits-mlp",
    "fashion-mlp",
    "clusters-mlp",
    "teacher-mlp",
    "digits-conv",
    "fashion-conv",
    "digits-autoencoder",
    "fashion-autoencoder",
    "novel-rnn",
    "novel-attention",
}
ON_DISK = {"mnist-mlp", "fashion-full-mlp", "cifar10-conv"}


def suite(name):
    text = resources.files("l2l_opt.evaluation").joinpath(f"suites/{name}.txt").read_text()
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def names(specs):
    return [parse_spec(spec)[0] for spec in specs]


def test_there_are_enough_tasks_and_none_twice():
    assert 8 <= len(suite("validation")) <= 10
    assert len(suite("seen")) >= 14
    assert len(set(names(suite("seen")))) == len(suite("seen"))


def test_what_is_evaluated_on_is_nowhere_else():
    validation, seen = set(names(suite("validation"))), set(names(suite("seen")))
    assert not seen & (validation | META_TRAINING)
    assert validation - META_TRAINING == {"iris-mlp", "rings-gated", "digits-linear"}
    # Every family is on one list.
    assert set(TASKS.names()) >= seen | validation | META_TRAINING | ON_DISK


@pytest.mark.parametrize("spec", suite("validation") + suite("seen"))
def test_every_task_runs_with_batches_of_16_to_128_and_is_small(spec):
    family = make_task(spec)
    generator = torch.Generator().manual_seed(0)
    data = family.sample(generator)
    params = family.init_params(data, generator)
    batch = family.sample_batch(data, generator)
    assert 16 <= len(batch["index"]) <= 128
    assert torch.isfinite(family.loss(params, data, batch))
    assert sum(value.numel() for value in params.values()) < 50_000
