"""ModuleTask: any module, and what it refuses."""

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from l2l_opt import ModuleTask
from l2l_opt.inner_loop.training import training_losses
from l2l_opt.randomness import Stream
from l2l_opt.rules import make_rule

INPUTS, CLASSES = torch.randn(20, 6, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 3
cross_entropy = nn.functional.cross_entropy


def draw(family, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return family.init_params({}, generator), family.sample_batch({}, generator)


def test_loss_is_the_modules_own():
    module = nn.Linear(6, 3)
    family = ModuleTask(module, cross_entropy, (INPUTS, CLASSES), batch_size=5)
    params, batch = draw(family)
    with torch.no_grad():
        for name, value in module.named_parameters():
            value.copy_(params[name])
    expected = cross_entropy(module(INPUTS[batch["index"]]), CLASSES[batch["index"]])
    torch.testing.assert_close(family.loss(params, {}, batch), expected.detach())


def test_the_module_passed_in_is_not_touched():
    module = nn.Linear(6, 3)
    before = module.weight.clone()
    family = ModuleTask(module, cross_entropy, (INPUTS, CLASSES))
    draw(family)
    assert torch.equal(module.weight, before)


def test_fresh_weights_are_the_modules_own_initialisation():
    family = ModuleTask(nn.Linear(6, 3), cross_entropy, (INPUTS, CLASSES))
    weights = torch.stack([draw(family, seed)[0]["weight"] for seed in range(200)])
    bound = 6**-0.5
    assert weights.abs().max() <= bound
    assert weights.std() == pytest.approx(bound / 3**0.5, rel=0.05)


class PairDataset(Dataset):
    def __len__(self):
        return 20

    def __getitem__(self, index):
        return INPUTS[index], int(CLASSES[index])


@pytest.mark.parametrize("dataset", [(INPUTS, CLASSES), TensorDataset(INPUTS, CLASSES), PairDataset()])
def test_takes_tensors_and_datasets(dataset):
    family = ModuleTask(nn.Linear(6, 3), cross_entropy, dataset, batch_size=4)
    params, batch = draw(family)
    reference = ModuleTask(nn.Linear(6, 3), cross_entropy, (INPUTS, CLASSES), batch_size=4)
    assert torch.equal(family.loss(params, {}, batch), reference.loss(params, {}, batch))


def test_test_batches_come_from_the_test_set():
    family = ModuleTask(nn.Linear(6, 3), cross_entropy, (INPUTS, CLASSES), test_dataset=(INPUTS + 100, CLASSES))
    generator = torch.Generator().manual_seed(0)
    train = family.sample_batch({}, generator)["index"]
    test = family.sample_batch({}, generator, "test")["index"]
    assert int(train.max()) < 20 <= int(test.min())
    assert family.examples.inputs[test].min() > 50 > family.examples.inputs[train].max()


def test_buffers_that_are_only_read_take_part():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 3)
            self.register_buffer("scale", torch.tensor(7.0))

        def forward(self, x):
            return self.scale * self.linear(x)

    family = ModuleTask(Scaled(), cross_entropy, (INPUTS, CLASSES), batch_size=4)
    params, batch = draw(family)
    index = batch["index"]
    logits = 7 * (INPUTS[index] @ params["linear.weight"].T + params["linear.bias"])
    torch.testing.assert_close(family.loss(params, {}, batch), cross_entropy(logits, CLASSES[index]))


def test_batch_norm_without_running_statistics_trains_in_the_unroll():
    module = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.ReLU(), nn.Linear(8, 3))
    family = ModuleTask(module, cross_entropy, (INPUTS, CLASSES), batch_size=10)
    curves = training_losses(
        make_rule("adam", lr=0.05), family, numbers=range(2), horizon=80, seed=0, stream=Stream.TUNING
    )
    assert curves[-10:].mean() < 0.7 * curves[0].mean()


def test_a_convolution_trains_in_the_unroll():
    images = torch.randn(12, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3))
    family = ModuleTask(module, cross_entropy, (images, torch.arange(12) % 3), batch_size=12)
    curves = training_losses(
        make_rule("adam", lr=0.05), family, numbers=range(2), horizon=40, seed=0, stream=Stream.TUNING
    )
    assert curves[-1].mean() < 0.7 * curves[0].mean()


def test_tied_weights_are_one_parameter():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(6, 6, bias=False)
            self.second = nn.Linear(6, 6, bias=False)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(torch.tanh(self.first(x)))

    family = ModuleTask(Tied(), cross_entropy, (INPUTS, CLASSES), batch_size=4)
    params, batch = draw(family)
    assert list(params) == ["first.weight"]
    index, weight = batch["index"], params["first.weight"]
    expected = cross_entropy(torch.tanh(INPUTS[index] @ weight.T) @ weight.T, CLASSES[index])
    torch.testing.assert_close(family.loss(params, {}, batch), expected)


class Loose(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6, 3))

    def forward(self, x):
        return x @ self.weight


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x


def test_init_fn_draws_what_reset_parameters_cannot():
    family = ModuleTask(
        Loose(), cross_entropy, (INPUTS, CLASSES), init_fn=lambda module: nn.init.normal_(module.weight)
    )
    assert not torch.equal(draw(family, 0)[0]["weight"], draw(family, 1)[0]["weight"])
    assert torch.equal(draw(family, 0)[0]["weight"], draw(family, 0)[0]["weight"])


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(nn.Linear(6, 3), Counting()), "leave its buffers and weights unchanged; got '1.calls'"),
        (nn.Sequential(nn.Linear(6, 3), nn.AlphaDropout(0.5)), "a student's loss must be deterministic; got"),
        (Loose(), r"must have reset_parameters\(\); got the module \(Loose\)|must have reset_parameters"),
    ],
)
def test_modules_the_unroll_cannot_run_are_refused(module, message):
    with pytest.raises(ValueError, match=message):
        ModuleTask(module, cross_entropy, (INPUTS, CLASSES))


def test_an_evaluating_batch_norm_and_dropout_are_taken():
    module = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)).eval()
    family = ModuleTask(module, cross_entropy, (INPUTS, CLASSES))
    params, batch = draw(family)
    assert torch.isfinite(family.loss(params, {}, batch))


@pytest.mark.parametrize(
    ("dataset", "error", "message"),
    [
        ((INPUTS, CLASSES[:5]), ValueError, "same number of examples, at least one; got 20 and 5"),
        ((INPUTS[:0], CLASSES[:0]), ValueError, "at least one; got 0 and 0"),
        ("digits", TypeError, "dataset must be .* got str"),
        ((INPUTS,), TypeError, "dataset must be .* got tuple"),
    ],
)
def test_bad_datasets_are_named(dataset, error, message):
    with pytest.raises(error, match=message):
        ModuleTask(nn.Linear(6, 3), cross_entropy, dataset)


def test_other_bad_arguments_are_named():
    with pytest.raises(TypeError, match="module must be an nn.Module; got function"):
        ModuleTask(cross_entropy, cross_entropy, (INPUTS, CLASSES))
    with pytest.raises(ValueError, match="batch_size must be a positive integer; got 0"):
        ModuleTask(nn.Linear(6, 3), cross_entropy, (INPUTS, CLASSES), batch_size=0)
    with pytest.raises(ValueError, match="loss_fn must return a scalar; got shape"):
        ModuleTask(nn.Linear(6, 3), lambda a, b: cross_entropy(a, b, reduction="none"), (INPUTS, CLASSES))


class Mixed(nn.Module):
    """Frozen in part: a whole layer, one tensor of a layer, a loose weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.scale = nn.Linear(6, 5), nn.Linear(5, 3), nn.Parameter(torch.full((5,), 2.0))
        nn.init.constant_(self.first.weight, 0.25)
        nn.init.constant_(self.second.bias, 7.0)
        for frozen in (*self.first.parameters(), self.second.bias, self.scale):
            frozen.requires_grad_(False)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)) * self.scale)


def tied():
    module = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3))
    module[1].weight = module[0].weight
    module[0].weight.requires_grad_(False)
    return module


@pytest.mark.parametrize(
    ("module", "trained"),
    [
        (Mixed(), ["second.weight"]),
        (tied(), ["0.bias", "1.bias", "2.weight", "2.bias"]),
        (nn.Sequential(nn.BatchNorm1d(6).eval().requires_grad_(False), nn.Linear(6, 3)), ["1.weight", "1.bias"]),
    ],
)
@pytest.mark.parametrize("init", ["fresh", "module"])
def test_frozen_weights_are_constants(module, trained, init):
    family = ModuleTask(module, cross_entropy, (INPUTS, CLASSES), batch_size=4, init=init)
    params, batch = draw(family)
    assert list(params) == trained
    own = dict(module.named_parameters())
    assert all(torch.equal(params[name], own[name]) == (init == "module") for name in trained)
    outputs = torch.func.functional_call(module, params, INPUTS[batch["index"]])
    torch.testing.assert_close(family.loss(params, {}, batch), cross_entropy(outputs, CLASSES[batch["index"]]).detach())
    curves = training_losses(
        make_rule("adam", lr=0.05), family, numbers=range(2), horizon=40, seed=0, stream=Stream.TUNING
    )
    assert torch.isfinite(curves).all()
    points = {name: p.requires_grad_() for name, p in params.items()}
    for gradient in torch.autograd.grad(family.loss(points, {}, batch), list(points.values())):
        assert gradient.abs().sum() > 0


def test_students_may_start_from_the_modules_own_weights():
    module = nn.Linear(6, 3)
    family = ModuleTask(module, cross_entropy, (INPUTS, CLASSES), init="module")
    params, _ = draw(family)
    assert torch.equal(params["weight"], module.weight)
    params["weight"].zero_()
    assert torch.equal(draw(family, 1)[0]["weight"], module.weight)
    loose = ModuleTask(Loose(), cross_entropy, (INPUTS, CLASSES), init="module")
    assert torch.equal(draw(loose)[0]["weight"], torch.ones(6, 3))
    with pytest.raises(ValueError, match="init must be one of fresh, module; got 'own'"):
        ModuleTask(module, cross_entropy, (INPUTS, CLASSES), init="own")
    with pytest.raises(ValueError, match="init_fn must be None where students start from the module's weights"):
        ModuleTask(module, cross_entropy, (INPUTS, CLASSES), init="module", init_fn=lambda module: None)


def test_a_module_that_is_frozen_throughout_is_refused():
    with pytest.raises(ValueError, match="a student must have weights to train; got 2 tensors, all frozen"):
        ModuleTask(nn.Linear(6, 3).requires_grad_(False), cross_entropy, (INPUTS, CLASSES))
    with pytest.raises(ValueError, match="a student must have weights to train; got none, use"):
        ModuleTask(nn.Identity(), cross_entropy, (INPUTS, CLASSES))


GAPPY = INPUTS.index_fill(0, torch.tensor([2, 5]), torch.nan)


class Pairs(Dataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        return INPUTS[index], torch.tensor(float("inf") if index == 3 else 0.0)


@pytest.mark.parametrize(
    ("dataset", "test_dataset", "message"),
    [
        ((GAPPY, CLASSES), None, "inputs must be finite; got NaN or infinity in 2 of 20 rows, the first being row 2"),
        (Pairs(), None, "targets must be finite; got NaN or infinity in 1 of 5 rows, the first being row 3"),
        ((INPUTS, CLASSES), (INPUTS * torch.inf, CLASSES), "inputs must be finite; .* in 20 of 40 rows, .* row 20"),
        ((INPUTS.double() * 1e300, CLASSES), None, "inputs must be finite"),
    ],
)
def test_data_with_gaps_are_refused(dataset, test_dataset, message):
    with pytest.raises(ValueError, match=message) as caught:
        ModuleTask(nn.Linear(6, 3), cross_entropy, dataset, test_dataset=test_dataset)
    assert "\n" not in str(caught.value)
