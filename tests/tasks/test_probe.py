"""What cannot be a student is found at construction, in one sentence that names the layer."""

import pytest
import torch
from torch import nn

from l2l_opt import MetaTrainer, ModuleTask, RNNProp, TruncatedBackprop
from l2l_opt.tasks.augmentation import Scales, augment

INPUTS = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(30) % 2


class Layer(nn.Module):
    """A module of a forward given as a function of its linear layer and the inputs."""

    def __init__(self, forward):
        super().__init__()
        self.linear, self.function = nn.Linear(4, 2), forward

    def forward(self, x):
        return self.function(self.linear, x)


def in_place(linear, x):
    outputs = torch.zeros(len(x), 2)
    outputs[:] = linear(x)
    return outputs


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda linear, x: linear(x) if x.sum().item() > 0 else -linear(x), "must not read the values .* torch.where"),
        (lambda linear, x: linear(x) if linear(x).sum() > 0 else -linear(x), "must not branch on the values"),
        (in_place, "must not write into a tensor in place; got .*, use torch.stack"),
        (
            lambda linear, x: linear(x) * (linear(x) > 0).nonzero().shape[0],
            "must not have shapes that depend",
        ),
        (lambda linear, x: linear(x) + 0 * torch.rand(len(x), 2), "must draw no random numbers but by nn.Dropout"),
        (lambda linear, x: linear(x).detach(), "must depend on its weights"),
    ],
)
def test_the_layer_and_what_to_use_instead_are_named(forward, message):
    module = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Tanh(), Layer(forward)))
    if "depend on its weights" in message:
        module = nn.Sequential(nn.Identity(), nn.Sequential(nn.Identity(), Layer(forward)))
    with pytest.raises(ValueError, match=message) as caught:
        ModuleTask(module, nn.functional.cross_entropy, (INPUTS, CLASSES))
    text = str(caught.value)
    assert "1.1" in text or "depend on its weights" in text
    assert "Layer" in text or "depend on its weights" in text
    assert "vmap" not in text.lower()
    assert "batching" not in text
    assert "\n" not in text


def test_sparse_gradients_and_weights_that_are_written_are_refused():
    places = torch.randint(5, (30, 3), generator=torch.Generator().manual_seed(0))

    def task(**options):
        module = nn.Sequential(nn.Embedding(5, 4, **options), nn.Flatten(), nn.Linear(12, 2))
        return ModuleTask(module, nn.functional.cross_entropy, (places, CLASSES))

    task()
    with pytest.raises(ValueError, match="must have dense gradients; .* use sparse=False"):
        task(sparse=True)
    with pytest.raises(ValueError, match="must leave its buffers and weights unchanged; got '0.weight'"):
        task(max_norm=0.1)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_gradients_that_have_no_derivatives_are_found_where_they_are_asked_for():
    places = torch.randint(5, (30, 3), generator=torch.Generator().manual_seed(0))
    module = nn.Sequential(nn.EmbeddingBag(5, 4), nn.Linear(4, 2))
    family = ModuleTask(module, nn.functional.cross_entropy, (places, CLASSES))
    with pytest.raises(ValueError, match=r"must have second derivatives .*; got '0' \(EmbeddingBag\)"):
        family.check_second_derivatives()
    numbers = {"horizon": 4, "truncation_length": 2}
    MetaTrainer(RNNProp(), family, TruncatedBackprop(**numbers), outer_steps=1, num_students=2).run()
    for tasks in (family, augment(family, loss_scale=Scales(1, 2))):
        estimator = TruncatedBackprop(**numbers, second_derivatives=True)
        with pytest.raises(ValueError, match="must have second derivatives"):
            MetaTrainer(RNNProp(), tasks, estimator, outer_steps=1, num_students=2).run()


def test_a_mistake_of_shapes_keeps_its_own_words():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        ModuleTask(nn.Linear(5, 2), nn.functional.cross_entropy, (INPUTS, CLASSES))
