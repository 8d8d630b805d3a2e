"""A part of the training examples stands for the test split, which is out of reach."""

import pytest
import torch
from torch import nn

from l2l_opt.tasks import ModuleTask, make_task
from l2l_opt.tasks.examples import Examples
from l2l_opt.tasks.held_out import hold_out
from l2l_opt.tasks.mixture import make_tasks


def drawn(family, split, batches=40):
    generator = torch.Generator().manual_seed(3)
    data = family.sample(generator)
    return torch.cat([family.sample_batch(data, generator, split)["index"] for _ in range(batches)])


@pytest.mark.parametrize("spec", ["iris-mlp", "diabetes-mlp", "novel-rnn", "clusters-mlp", "picture-vae"])
def test_batches_of_neither_split_come_from_the_real_test_split(spec):
    family = make_task(spec)
    first, end = family.examples.ranges["train"]
    parted = hold_out(family)
    assert first <= drawn(parted, "train").min()
    assert drawn(parted, "train").max() < drawn(parted, "test").min()
    assert drawn(parted, "test").max() < end
    assert family.examples.ranges["train"] == (first, end)


def test_stretches_of_text_do_not_overlap():
    family = make_task("novel-rnn:length=12")
    gap = family.examples.ranges["test"][0] - family.examples.ranges["train"][1]
    parted = hold_out(family).examples.ranges
    assert gap == parted["test"][0] - parted["train"][1] == 12


def test_a_module_without_test_data_gets_a_test_split():
    examples = (torch.arange(10.0).unsqueeze(1), torch.zeros(10, 1))
    family = ModuleTask(nn.Linear(1, 1), nn.functional.mse_loss, examples, batch_size=4)
    assert hold_out(family, share=0.3).examples.ranges == {"train": (0, 7), "test": (7, 10)}


def test_a_mixture_is_parted_family_by_family():
    parted = hold_out(make_tasks("iris-mlp:hidden=4|8 + wine-mlp"))
    ends = {family.examples.ranges["test"][1] for family in parted.largest()}
    assert ends == {120, 142}


def test_rows_that_each_student_draws_are_parted_too():
    family = make_task("least-squares:dim=5")
    parted = hold_out(family)
    assert parted.ranges["test"][1] == family.ranges["train"][1]


def test_what_is_drawn_anew_for_each_batch_stays_as_it_is():
    family = make_task("quadratics:dim=3")
    assert hold_out(family) is family


def test_too_few_examples_are_refused():
    few = Examples.join((torch.zeros(2, 1), torch.zeros(2, 1)), None)
    family = ModuleTask(nn.Linear(1, 1), nn.functional.mse_loss, few, batch_size=2)
    with pytest.raises(ValueError, match="training examples enough .* got 2 examples"):
        hold_out(family)
