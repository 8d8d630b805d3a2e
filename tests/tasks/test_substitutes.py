"""Layers that run for many students at once in place of torch's own: the same numbers, random ones by seed."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_leaves, tree_map

from l2l_opt import PES, MetaTrainer, ModuleTask, RNNProp, TruncatedBackprop
from l2l_opt.evaluation.baselines.torch_optimizers import run_torch_optimizer
from l2l_opt.evaluation.runs import run_rule
from l2l_opt.inner_loop.horizon import Horizon
from l2l_opt.inner_loop.students import Students
from l2l_opt.inner_loop.training import train, training_losses
from l2l_opt.meta_training.estimators.meta_loss import MetaLoss
from l2l_opt.randomness import Stream, make_generator
from l2l_opt.rules import make_rule
from l2l_opt.tasks.augmentation import Scales, augment
from l2l_opt.tasks.base import updated_data
from l2l_opt.tasks.substitutes import Pass, substitute

CLASSES = torch.arange(40) % 3
ROWS = torch.randn(40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SEQUENCES = torch.randn(40, 5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def draw(family, seed=0, split="train"):
    generator = torch.Generator().manual_seed(seed)
    data = family.sample(generator)
    return family.init_params(data, generator), data, family.sample_batch(data, generator, split)


def task(module, inputs, **options):
    return ModuleTask(
        module, nn.functional.cross_entropy, (inputs, CLASSES), batch_size=12, dtype=inputs.dtype, **options
    )


@pytest.mark.parametrize("given", [False, True], ids=["zero", "given"])
@pytest.mark.parametrize("shape", ["batch_first", "length_first", "single"])
@pytest.mark.parametrize(
    ("layer", "options"),
    [
        (nn.LSTM, {}),
        (nn.LSTM, {"num_layers": 2, "bidirectional": True, "proj_size": 2}),
        (nn.LSTM, {"bias": False}),
        (nn.GRU, {}),
        (nn.GRU, {"num_layers": 3, "bidirectional": True}),
        (nn.RNN, {}),
        (nn.RNN, {"nonlinearity": "relu", "num_layers": 2}),
    ],
)
def test_recurrent_layers_are_torchs(layer, options, shape, given):
    torch.manual_seed(0)
    theirs = layer(4, 3, batch_first=shape == "batch_first", **options).double()
    ours = copy.deepcopy(theirs)
    substitute(ours)
    x = {"batch_first": SEQUENCES, "length_first": SEQUENCES.transpose(0, 1), "single": SEQUENCES[0]}[shape]
    first = tree_map(lambda state: torch.randn_like(state), theirs(x)[1]) if given else None
    for own, expected in zip(tree_leaves(ours(x, first)), tree_leaves(theirs(x, first)), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-10, atol=1e-12)
    assert list(ours.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("options", [{}, {"kdim": 5, "vdim": 2}, {"bias": False}])
def test_attention_with_dropout_is_torchs_where_nothing_is_dropped(options, batch_first):
    torch.manual_seed(0)
    ours = nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=batch_first, **options).double()
    theirs = copy.deepcopy(ours).eval()
    substitute(ours)
    query, key, value = (
        torch.randn(3, 5, size).double() for size in (4, options.get("kdim", 4), options.get("vdim", 4))
    )
    masks = {
        "attn_mask": torch.ones(5, 5, dtype=torch.bool).triu(1),
        "key_padding_mask": torch.arange(5) > torch.tensor([[4], [3], [2]]),
    }
    arguments = (query, key, value) if batch_first else tuple(x.transpose(0, 1) for x in (query, key, value))
    for own, expected in zip(ours(*arguments, **masks), theirs(*arguments, **masks), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-10, atol=1e-12)
    each = torch.randn(6, 5, 5).double()
    own, expected = (part(*arguments, attn_mask=each, average_attn_weights=False)[1] for part in (ours, theirs))
    torch.testing.assert_close(own, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("probability", [0.1, 0.5, 1.0])
def test_dropout_keeps_its_share_and_the_mean(probability):
    current, ones = Pass(), torch.ones(400, 300)
    with current.seeded(torch.tensor(3)):
        first, second = current.drop(ones, probability), current.drop(ones, probability)
    with current.seeded(torch.tensor(4)):
        other = current.drop(ones, probability)
    assert float((first == 0).float().mean()) == pytest.approx(probability, abs=0.01)
    if probability < 1:
        assert first.max() == pytest.approx(1 / (1 - probability))
        # Independent of each other, over passes, rows and columns.
        for a, b in ((first, second), (first, other), (first[1:], first[:-1]), (first[:, 1:], first[:, :-1])):
            both = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
            assert abs(float(both)) < 0.015
    assert torch.equal(current.drop(ones, probability), ones)


def test_dropout_of_channels_drops_them_whole():
    module = nn.Sequential(nn.Dropout2d(0.5))
    current = substitute(module)
    with current.seeded(torch.tensor(0)):
        kept = module(torch.ones(50, 8, 3, 3))
    assert torch.equal(kept, kept[..., :1, :1].expand_as(kept))
    assert 0.3 < float((kept == 0).float().mean()) < 0.7


def with_dropout():
    return nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.4), nn.ReLU(), nn.Dropout(0.4), nn.Linear(16, 3))


def test_a_students_dropout_is_of_its_batch_whoever_runs_beside_it():
    family = task(with_dropout(), ROWS)
    students = [draw(family, seed) for seed in range(3)]
    params, data, batches = (
        tree_map(lambda *leaves: torch.stack(leaves), *parts) for parts in zip(*students, strict=True)
    )
    together = vmap(family.loss)(params, data, batches)
    alone = torch.stack([family.loss(*student) for student in students])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
    own, _, batch = students[0]
    assert family.loss(own, {}, batch) != family.loss(own, {}, batch | {"seed": batch["seed"] + 1})


def test_nothing_is_dropped_on_test_batches():
    module = with_dropout()
    family = task(module, ROWS)
    params, _, batch = draw(family, split="test")
    assert list(batch) == ["index"]
    outputs = functional_call(module.eval().double(), params, (ROWS[batch["index"]],))
    torch.testing.assert_close(
        family.loss(params, {}, batch),
        nn.functional.cross_entropy(outputs, CLASSES[batch["index"]]),
        rtol=1e-12,
        atol=0,
    )


class Last(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer, self.out = layer, nn.Linear(8, 3)

    def forward(self, x):
        return self.out(self.layer(x)[0][:, -1])


MODULES = {
    "lstm": lambda: Last(nn.LSTM(4, 8, num_layers=2, dropout=0.2, batch_first=True)),
    "gru": lambda: Last(nn.GRU(4, 4, bidirectional=True, batch_first=True)),
    "transformer": lambda: nn.Sequential(
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.Flatten(), nn.Linear(20, 3)
    ),
    "encoder": lambda: nn.Sequential(
        nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, dropout=0, batch_first=True), 2).eval(),
        nn.Flatten(),
        nn.Linear(20, 3),
    ),
}


@pytest.mark.parametrize("name", MODULES)
def test_students_of_torchs_layers_learn_and_have_second_derivatives(name):
    family = task(MODULES[name](), SEQUENCES.float())
    family.check_second_derivatives()
    curves = training_losses(
        make_rule("adam", lr=0.03), family, numbers=range(2), horizon=60, seed=0, stream=Stream.TUNING
    )
    assert curves[-10:].mean() < 0.9 * curves[:5].mean()


def test_fused_attention_of_a_users_own_has_second_derivatives():
    class Fused(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix, self.out = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            h = self.mix(x)
            return self.out(nn.functional.scaled_dot_product_attention(h, h, h)[:, 0])

    task(Fused(), SEQUENCES).check_second_derivatives()


def test_packed_sequences_are_refused():
    class Packed(Last):
        def forward(self, x):
            lengths = torch.full((len(x),), x.shape[1])
            return self.out(self.layer(nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True))[1][0][0])

    with pytest.raises(ValueError, match="a student's LSTM must read tensors; got a PackedSequence, use padding"):
        task(Packed(nn.LSTM(4, 8, batch_first=True)), SEQUENCES)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_are_torchs(momentum):
    module = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, momentum=momentum), nn.Tanh(), nn.Linear(4, 3))
    family = task(module, ROWS, init="module")
    params, data, _ = draw(family)
    reference, generator = copy.deepcopy(module).double(), torch.Generator().manual_seed(5)
    for _ in range(4):
        batch = family.sample_batch(data, generator)
        outputs = reference(ROWS[batch["index"]])
        expected = nn.functional.cross_entropy(outputs, CLASSES[batch["index"]])
        torch.testing.assert_close(family.loss(params, data, batch), expected, rtol=1e-10, atol=0)
        data = family.update_data(params, data, batch)
    for name, value in reference.named_buffers():
        torch.testing.assert_close(data[f"statistics/{name}"], value, rtol=1e-10, atol=1e-12)
    test = family.sample_batch(data, generator, "test")
    expected = nn.functional.cross_entropy(reference.eval()(ROWS[test["index"]]), CLASSES[test["index"]])
    torch.testing.assert_close(family.loss(params, data, test), expected, rtol=1e-10, atol=0)


def test_only_families_with_running_statistics_update_their_data():
    assert not hasattr(task(nn.Linear(6, 3), ROWS), "update_data")
    assert not hasattr(task(nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3)).eval(), ROWS), "update_data")


def with_batch_norm(inputs=ROWS, **options):
    module = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(0.2), nn.Tanh(), nn.Linear(4, 3))
    return task(module, inputs, **options)


def by_hand(family, *, steps, seed):
    """A student under gradient descent in a plain loop; its test loss with its running statistics."""
    generator = make_generator(seed, Stream.TUNING, 0, 0)
    data = family.sample(generator)
    params = family.init_params(data, generator)
    for _ in range(steps):
        batch = family.sample_batch(data, generator)
        points = {name: p.clone().requires_grad_() for name, p in params.items()}
        gradients = torch.autograd.grad(family.loss(points, data, batch), list(points.values()))
        data = updated_data(family, params, data, batch)
        params = {name: p - 0.1 * g for (name, p), g in zip(params.items(), gradients, strict=True)}
    return params, data


@pytest.mark.parametrize("wrap", [lambda family: family, lambda family: augment(family, loss_scale=Scales(2, 2))])
def test_running_statistics_follow_a_student_through_windows(wrap):
    family = wrap(with_batch_norm())
    rule = make_rule("sgd", lr=0.1)
    students = Students(rule, family, numbers=range(3), horizon=Horizon(7, 7), seed=2, stream=Stream.TUNING)
    train(students, window_length=3)
    expected, data = by_hand(family, steps=7, seed=2)
    (student, *others) = students.members
    assert student.data.keys() == data.keys()
    for name, value in data.items():
        torch.testing.assert_close(student.data[name], value, rtol=1e-8, atol=1e-10)
    for name, value in expected.items():
        torch.testing.assert_close(student.inner.params[name][0], value, rtol=1e-8, atol=1e-10)
    assert int(student.data["statistics/1.num_batches_tracked"]) == 7
    assert not torch.equal(others[0].data["statistics/1.running_mean"], student.data["statistics/1.running_mean"])
    test = family.sample_batch(student.data, torch.Generator().manual_seed(0), "test")
    fresh = family.sample(torch.Generator().manual_seed(0))
    assert family.loss(expected, student.data, test) != family.loss(expected, student.data | fresh, test)


@pytest.mark.parametrize(
    "estimator",
    [
        TruncatedBackprop(horizon=6, truncation_length=3, meta_loss=MetaLoss(loss_on="test")),
        TruncatedBackprop(horizon=6, truncation_length=3, second_derivatives=True),
        PES(horizon=6, truncation_length=3, meta_loss=MetaLoss(loss_on="test")),
    ],
)
def test_meta_training_takes_running_statistics(estimator):
    rule = RNNProp(hidden_size=2, num_layers=1)
    before = {name: weight.clone() for name, weight in rule.named_parameters()}
    family = with_batch_norm(inputs=ROWS.float())
    MetaTrainer(rule, family, estimator, outer_steps=2, num_students=2).run()
    assert any(not torch.equal(before[name], weight) for name, weight in rule.named_parameters())


def test_a_torch_optimizer_is_evaluated_with_its_students_statistics():
    family = with_batch_norm(init="module")
    run = run_torch_optimizer(
        lambda params: torch.optim.SGD(params.values(), lr=0.1), family, horizon=5, num_seeds=2, seed=0
    )
    own = run_rule(make_rule("sgd", lr=0.1), family, horizon=5, num_seeds=2, seed=0)
    torch.testing.assert_close(run.curves, own.curves, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(run.test_losses, own.test_losses, rtol=1e-8, atol=1e-10)
