"""What cannot be a student is found at construction, in one sentence that names the layer."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from l2l_opt import MetaTrainer, ModuleTask, RNNProp, TruncatedBackprop
from l2l_opt.checks import DataNote
from l2l_opt.tasks import student_module
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


class Wrapped(nn.Module):
    """A layer within another."""

    def __init__(self, *layers):
        super().__init__()
        self.inner = nn.Sequential(*layers)

    def forward(self, x):
        return self.inner(x)


def refusal(module, inputs=INPUTS, targets=CLASSES, *, loss_fn=nn.functional.cross_entropy, **options):
    """The sentence by which a module is refused."""
    with pytest.raises(ValueError, match=r"; got .*, ") as caught:
        ModuleTask(module, loss_fn, (inputs, targets), **options)
    text = str(caught.value)
    assert "\n" not in text
    assert "vmap" not in text
    return text


PLACES = torch.randint(5, (30, 3), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("module", "inputs", "layer", "fix"),
    [
        (Wrapped(nn.Embedding(5, 4, sparse=True), nn.Flatten(), nn.Linear(12, 2)), PLACES, "'inner.0'", "sparse=False"),
        (nn.Sequential(nn.EmbeddingBag(5, 4, sparse=True), nn.Linear(4, 2)), PLACES, "'0'", "sparse=False"),
        (Wrapped(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), INPUTS[:, :4], "'inner.1'", "nn.LayerNorm"),
        (nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2)), INPUTS, "'0'", "nn.GroupNorm"),
        (Wrapped(nn.Embedding(3, 4), nn.Flatten(), nn.Linear(12, 2)), PLACES, "'inner.0'", "larger num_embeddings"),
        (nn.Sequential(nn.Linear(50, 2)), torch.randn(30, 60), "'0' (Linear)", "use in_features=60 instead of 50"),
        (Wrapped(nn.Linear(4, 8), nn.Tanh(), nn.Linear(9, 2)), INPUTS, "'inner.2'", "use in_features=8 instead of 9"),
        (nn.Sequential(nn.Conv2d(3, 2, 3)), torch.randn(30, 1, 5, 5), "'0' (Conv2d)", "use in_channels=1 instead of 3"),
        (nn.Linear(3, 2), PLACES, "Linear with shape (1, 3) of int64", ".float()"),
        (Wrapped(nn.LSTM(4, 8), nn.Linear(8, 2)), INPUTS, "a tuple of 3 from 'inner.0' (LSTM)", "one of its elements"),
    ],
)
def test_a_layer_that_cannot_run_is_named_with_what_to_use(module, inputs, layer, fix):
    text = refusal(module, inputs, batch_size=1)
    assert layer in text
    assert fix in text


@pytest.mark.filterwarnings("ignore:torch.utils.checkpoint")
@pytest.mark.parametrize(("reentrant", "layer"), [(True, "'1' (Layer)"), (False, "'1.linear' (Linear)")])
def test_checkpointed_layers_are_named(reentrant, layer):
    module = nn.Sequential(nn.Linear(4, 4), Layer(lambda own, x: checkpoint(own, x, use_reentrant=reentrant)))
    text = refusal(module)
    assert layer in text
    assert "torch.utils.checkpoint" in text


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_named():
    part = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    for script in (torch.jit.script(part), torch.jit.trace(part, INPUTS)):
        assert "TorchScript in '0.1'" in refusal(nn.Sequential(nn.Sequential(nn.Tanh(), script), nn.Linear(4, 2)))
        assert "TorchScript in its root" in refusal(script)


def test_complex_numbers_are_named():
    by_layer = nn.Sequential(nn.Tanh(), Layer(lambda linear, x: torch.fft.fft(linear(x))))
    assert "from '1' (Layer), use its .abs()" in refusal(by_layer, loss_fn=lambda outputs, _: outputs.mean())
    by_loss = refusal(nn.Linear(4, 2), loss_fn=lambda outputs, _: torch.complex(outputs, outputs).mean())
    assert "from loss_fn itself" in by_loss
    assert "'0.weight' of torch.complex64" in refusal(nn.Sequential(nn.Linear(4, 2, dtype=torch.complex64)))


@pytest.mark.parametrize(
    ("forward", "found"),
    [
        (lambda linear, x: None, "None"),
        (lambda linear, x: (linear(x), x), "a tuple of 2"),
        (lambda linear, x: {"logits": linear(x)}, "a dict of 1"),
    ],
)
def test_outputs_that_are_no_tensor_are_named_with_the_layer_that_returned_them(forward, found):
    assert f"must return what loss_fn takes; got {found} from '1' (Layer)" in refusal(
        nn.Sequential(nn.Identity(), Layer(forward))
    )
    # A loss that takes it apart is welcome.
    if found == "a tuple of 2":
        ModuleTask(Layer(forward), lambda outputs, labels: outputs[0].square().mean(), (INPUTS, CLASSES))


@pytest.mark.parametrize(("labels", "found"), [(torch.arange(30) // 29 * 2, "got 2"), (CLASSES - 1, "got -1")])
def test_a_label_out_of_range_is_found_in_whichever_row(labels, found):
    for size in (1, 3, 128):
        text = refusal(nn.Sequential(nn.Linear(4, 2)), targets=labels, batch_size=size)
        assert "labels must be classes from 0 to 1, since '0' (Linear) has 2 outputs" in text
        assert found in text


@pytest.mark.parametrize("loss_fn", [nn.functional.mse_loss, nn.functional.binary_cross_entropy_with_logits])
def test_targets_of_another_shape_are_named_with_that_of_the_outputs(loss_fn):
    text = refusal(nn.Linear(4, 2), targets=torch.rand(30), loss_fn=loss_fn, batch_size=3)
    assert "loss_fn must take the outputs and targets of a batch; got outputs of shape (3, 2) from Linear" in text


@pytest.mark.parametrize(("name", "make"), [("weight", nn.Linear), ("0.inner.1.weight", None)])
def test_weights_without_values_are_named(name, make):
    with torch.device("meta"):
        module = make(4, 2) if make else nn.Sequential(Wrapped(nn.Tanh(), nn.Linear(4, 2)))
    assert f"got '{name}', one on the meta device" in refusal(module)
    assert "got '1.weight', a lazy one" in refusal(nn.Sequential(nn.Tanh(), nn.LazyLinear(2)))


@pytest.mark.parametrize(("shapes", "count"), [([(4, 1000), (1000, 2)], "7,002"), ([(4, 2)], "10")])
def test_a_module_beyond_the_memory_is_refused_before_it_is_copied(shapes, count, monkeypatch):
    module = nn.Sequential(*(nn.Linear(*shape) for shape in shapes))
    number = sum(p.numel() for p in module.parameters())
    free = [student_module.COPIES * 4 * number - 1]
    monkeypatch.setattr(student_module, "resident_bytes", lambda device: 5)
    monkeypatch.setattr(student_module, "available_bytes", lambda device: 5 + free[0])
    assert f"got {count} weights, which need" in refusal(module)
    free[0] += 1
    ModuleTask(module, nn.functional.cross_entropy, (INPUTS, CLASSES))


@pytest.mark.parametrize("width", [10, 20])
def test_a_large_module_is_announced(width, monkeypatch):
    monkeypatch.setattr(student_module, "MANY_WEIGHTS", 4 * width + width)
    with pytest.warns(DataNote, match=f"a module of {5 * width} weights is tried out with two students first"):
        ModuleTask(nn.Linear(4, width), nn.functional.cross_entropy, (INPUTS, CLASSES))
    ModuleTask(nn.Linear(4, width - 1), nn.functional.cross_entropy, (INPUTS, CLASSES))
