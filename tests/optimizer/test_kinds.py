"""LearnedOptimizer on every kind of parameter, and inside the loops that people write."""

import copy
import io
import random
import warnings

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from l2l_opt import CoordinatewiseLSTM, LearnedOptimizer, RNNProp, UpdateRule
from l2l_opt.optimizer.stepping import BLOCK_BYTES
from tests.conftest import small_rule

RULES = ["lstm", "rnnprop", "compact", "adam", "composed"]
every_rule = pytest.mark.parametrize("name", RULES)


def make(params, name="rnnprop", **options):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        rule = small_rule(name)
        for weight in rule.parameters():
            weight.data += 0.1 * torch.randn_like(weight)
        return LearnedOptimizer(params, rule, **options)


def gradients(params, step):
    generator = torch.Generator().manual_seed(step)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)


def steps(values, name, *, num=3, layout=lambda tensor: tensor, **options):
    params = [nn.Parameter(layout(value.clone())) for value in values]
    optimizer = make(params, name, **options)
    for step in range(num):
        gradients(params, step)
        for p in params:
            p.grad = layout(p.grad)
        optimizer.step()
    return params, optimizer


@every_rule
def test_ranks_zero_to_five_and_empty(name):
    values = [
        torch.randn(shape) for shape in [(), (3,), (2, 3), (2, 1, 3), (2, 3, 2, 2), (1, 2, 1, 3, 2), (0, 4), (0,)]
    ]
    params, optimizer = steps(values, name)
    for p, value in zip(params, values, strict=True):
        assert p.shape == value.shape
        assert not value.numel() or not torch.equal(p, value)
        for key, kept in optimizer.state[p].items():
            assert not kept.dim() or kept.shape[1:] == p.shape, key
        assert float(optimizer.state[p]["step"]) == 3


LAYOUTS = {
    "channels-last": lambda tensor: tensor.to(memory_format=torch.channels_last),
    "transposed": lambda tensor: tensor.transpose(0, 3).contiguous().transpose(0, 3),
    "strided": lambda tensor: torch.stack([tensor, tensor], dim=-1)[..., 0],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@every_rule
def test_the_layout_of_memory_changes_nothing(name, layout):
    value = torch.randn(3, 2, 4, 5)
    (plain,), _ = steps([value], name)
    (other,), _ = steps([value], name, layout=LAYOUTS[layout])
    assert not other.is_contiguous()
    assert not torch.equal(plain, value)
    torch.testing.assert_close(other.detach(), plain.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@every_rule
def test_half_precision_parameters_have_single_precision_state(name, dtype):
    value = torch.randn(4, 5).to(dtype)
    (half,), optimizer = steps([value], name)
    (single,), _ = steps([value.float()], name)
    assert half.dtype == dtype
    assert all(kept.dtype in (torch.float32, torch.int64) for kept in optimizer.state[half].values())
    # The gradients are those of half precision in one and rounded from them in the other.
    torch.testing.assert_close(half.detach().float(), single.detach(), rtol=0.03, atol=0.02)
    assert not torch.equal(half, value)


@every_rule
def test_an_overflow_of_half_precision_is_skipped(name):
    param = nn.Parameter(torch.full((2,), 65504.0, dtype=torch.float16))
    optimizer = make([param], name, lr=1e9)
    param.grad = torch.tensor([-1.0, 1.0], dtype=torch.float16)
    optimizer.step()
    assert torch.isfinite(param).all()
    assert int(optimizer.state[param]["skipped"]) == 1


def test_tied_parameters_are_stepped_once():
    embedding, head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
    head.weight = embedding.weight
    model = nn.Sequential(embedding, head)
    optimizer = make(model.parameters())
    with pytest.warns(UserWarning, match="duplicate parameters"):
        twice = make(list(embedding.parameters()) + list(head.parameters()))
    model(torch.tensor([0, 1, 2])).square().sum().backward()
    for stepped in (optimizer, twice):
        stepped.step()
        assert float(stepped.state[embedding.weight]["step"]) == 1


def test_frozen_in_mid_training_and_thawed():
    a, b = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = make([a, b])
    gradients([a, b], 0)
    optimizer.step()
    b.requires_grad_(False)
    b.grad, before, kept = None, b.detach().clone(), copy.deepcopy(optimizer.state[b])
    a.grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(b, before)
    assert all(torch.equal(value, kept[key]) for key, value in optimizer.state[b].items())
    b.requires_grad_(True)
    b.grad = torch.ones(3)
    optimizer.step()
    assert [float(optimizer.state[p]["step"]) for p in (a, b)] == [3, 2]


def test_a_group_added_in_mid_training_begins_with_its_own_clock():
    a, b = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = make([a], guard="fallback")
    gradients([a], 0)
    optimizer.step(loss=1.0)
    optimizer.add_param_group({"params": [b], "weight_decay": 0.1})
    gradients([a, b], 1)
    optimizer.step(loss=1.0)
    assert [float(optimizer.state[p]["step"]) for p in (a, b)] == [2, 1]
    again = make([nn.Parameter(torch.ones(3))], guard="fallback")
    again.add_param_group({"params": [nn.Parameter(torch.ones(3))]})
    again.load_state_dict(optimizer.state_dict())
    assert again.param_groups[1]["weight_decay"] == 0.1


def model_and_data(dtype=torch.float32):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)
    generator = torch.Generator().manual_seed(1)
    return model, torch.randn(24, 4, generator=generator, dtype=dtype), torch.arange(24) % 3


def test_accumulated_gradients_are_those_of_the_whole_batch():
    ends = []
    for parts in (1, 4):
        model, inputs, targets = model_and_data(torch.float64)
        optimizer = make(model.parameters())
        for _ in range(3):
            optimizer.zero_grad()
            for x, y in zip(inputs.chunk(parts), targets.chunk(parts), strict=True):
                (nn.functional.cross_entropy(model(x), y) / parts).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
        ends.append(nn.utils.parameters_to_vector(model.parameters()).detach())
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-9, atol=1e-12)


def test_grad_scaler_and_autocast():
    """Scaled gradients are unscaled before the rule sees them, and a step that overflows is not taken."""
    ends = []
    for scale in (1.0, 2.0**10):
        model, inputs, targets = model_and_data()
        optimizer = make(model.parameters())
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        for _ in range(4):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = nn.functional.cross_entropy(model(inputs), targets)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        ends.append(nn.utils.parameters_to_vector(model.parameters()).detach())
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-2, atol=1e-3)
    before = ends[1].clone()
    for p in model.parameters():
        p.grad = torch.full_like(p, torch.inf)
    scaler.scale(torch.ones(()))
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(nn.utils.parameters_to_vector(model.parameters()), before)
    assert scaler.get_scale() < 2.0**10


@pytest.mark.parametrize("average", ["swa", "ema"])
def test_averaged_models(average):
    model, inputs, targets = model_and_data()
    averaged = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=None if average == "swa" else torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    )
    optimizer = make(model.parameters())
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        averaged.update_parameters(model)
    ours, theirs = (nn.utils.parameters_to_vector(m.parameters()) for m in (model, averaged.module))
    assert 0 < (ours - theirs).norm() < ours.norm()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_torch_compile_of_a_whole_training_step():
    ends = []
    for compiled in (False, True):
        model, inputs, targets = model_and_data(torch.float64)
        optimizer = make(model.parameters(), num_steps=10)

        def train(model=model, optimizer=optimizer, inputs=inputs, targets=targets):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
            return loss.detach()

        run = torch.compile(train, backend="aot_eager") if compiled else train
        losses = [float(run()) for _ in range(4)]
        ends.append((losses, nn.utils.parameters_to_vector(model.parameters()).detach()))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-12)
    torch.testing.assert_close(ends[0][1], ends[1][1], rtol=1e-12, atol=1e-12)


@every_rule
def test_a_state_keeps_its_dtype_in_parameters_of_another(name):
    value = torch.randn(4, 3)
    (param,), optimizer = steps([value], name)
    for dtype in (torch.bfloat16, torch.float64, torch.float32):
        again = make([nn.Parameter(param.detach().to(dtype))], name)
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        again.load_state_dict(torch.load(file, weights_only=True))
        (other,) = again.param_groups[0]["params"]
        for key, kept in optimizer.state[param].items():
            assert again.state[other][key].dtype == kept.dtype
            assert torch.equal(again.state[other][key], kept), key
        gradients([other], 9)
        again.step()
        assert float(again.state[other]["step"]) == 4


KEEPING = ["lstm", "rnnprop", "compact", "composed", "scale-free", "scale-free:recurrent=True"]
"""Rules that may keep their state in half precision."""


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", KEEPING)
def test_state_dtype_is_that_of_all_state_but_numbers_of_a_tensor(name, half):
    """In float16 averages are not kept: squares of gradients of usual sizes are zero there."""
    value = torch.randn(6, 5)
    (param,), optimizer = steps([value], name, state_dtype=half)
    (exact,), _ = steps([value], name)
    for key, kept in optimizer.state[param].items():
        is_half = kept.dim() and (key in ("hidden", "cell") or half == torch.bfloat16)
        assert kept.dtype == (half if is_half else torch.int64 if key == "skipped" else torch.float32), key
    torch.testing.assert_close(param.detach(), exact.detach(), rtol=2e-2, atol=2e-2)
    again = make([nn.Parameter(param.detach().clone())], name, state_dtype=half)
    again.load_state_dict(optimizer.state_dict())
    (other,) = again.param_groups[0]["params"]
    for p, o in ((param, optimizer), (other, again)):
        gradients([p], 7)
        o.step()
    assert torch.equal(param, other)


@pytest.mark.parametrize("purely", [False, True])
@pytest.mark.parametrize("name", KEEPING[1:])
def test_a_state_of_either_dtype_goes_on_in_the_other(name, purely, monkeypatch):
    """Within what bfloat16 holds; to bfloat16 and on, bit for bit as one that was kept in it throughout."""
    if purely:
        monkeypatch.setattr(type(make([nn.Parameter(torch.ones(1))], name).rule), "compiled_step", lambda self: None)
    value = torch.randn(6, 5)
    for before, after in ((torch.bfloat16, torch.float32), (None, torch.bfloat16), (torch.bfloat16, None)):
        (param,), optimizer = steps([value], name, state_dtype=before)
        again = make([nn.Parameter(param.detach().clone())], name, state_dtype=after)
        again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        (other,) = again.param_groups[0]["params"]
        for key, kept in optimizer.state[param].items():
            own = again.state[other][key]
            assert own.dtype == ((after or kept.dtype) if kept.dim() else kept.dtype)
            torch.testing.assert_close(own, kept.to(own.dtype), rtol=0, atol=0)
        # A step's own averages are not rounded yet; those of the next have been.
        for step in (7, 8):
            for p, o in ((param, optimizer), (other, again)):
                gradients([p], step)
                o.step()
        torch.testing.assert_close(param.detach(), other.detach(), rtol=2e-2, atol=2e-2)
        assert torch.equal(param, other) == (after is None)


def test_random_rounding_is_the_same_whether_a_tensor_is_stepped_in_blocks(monkeypatch):
    """Of a rule that reads no whole tensors, along any axis, and for complex parameters too."""
    values = [torch.randn(7, 30), torch.randn(30, 7), torch.randn(5, 6, dtype=torch.complex64)]
    monkeypatch.setattr(RNNProp, "compiled_step", lambda self: None)
    whole, one = steps(values, "rnnprop", state_dtype=torch.bfloat16)
    monkeypatch.setattr("l2l_opt.optimizer.stepping.BLOCK_BYTES", 1000)
    pieces, many = steps(values, "rnnprop", state_dtype=torch.bfloat16)
    for p, q in zip(whole, pieces, strict=True):
        torch.testing.assert_close(p, q)
        for key in ("average", "square_average"):
            a, b = one.state[p][key], many.state[q][key]
            assert a.dtype == torch.bfloat16
            assert (a != b).float().mean() < 0.01


def test_states_of_several_dtypes_in_one_group():
    """A state loaded in single precision, beside one that begins in half."""
    a, b = nn.Parameter(torch.randn(40)), nn.Parameter(torch.randn(300))
    optimizer = make([a, b], "lstm")
    a.grad = torch.randn(40)
    optimizer.step()
    optimizer.state_dtype = torch.bfloat16
    gradients([a, b], 1)
    optimizer.step()
    assert [optimizer.state[p]["hidden"].dtype for p in (a, b)] == [torch.float32, torch.bfloat16]
    assert all(torch.isfinite(p).all() for p in (a, b))


class Failing(UpdateRule):
    """A rule whose update is not finite in one coordinate."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def init_state(self, params):
        zeros = {name: torch.zeros(1, *p.shape) for name, p in params.items()}
        return {name: {"step": torch.zeros(()), "a": value, "b": value} for name, value in zeros.items()}

    def forward(self, grads, state, params, *, num_steps=None):
        updates = {name: -g / (g - 7) for name, g in grads.items()}
        next_state = {
            name: {"step": s["step"] + 1, "a": s["a"] + 1, "b": s["b"] + grads[name]} for name, s in state.items()
        }
        return updates, next_state


def test_an_update_that_is_not_finite_moves_nothing_of_its_tensor():
    bad, good = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))
    optimizer = LearnedOptimizer([bad, good], Failing(), weight_decay=0.1)
    gradients([bad, good], 0)
    optimizer.step()
    before, kept = bad.detach().clone(), copy.deepcopy(optimizer.state[bad])
    assert not torch.equal(kept["a"], kept["b"])
    bad.grad, good.grad = torch.tensor([1.0, 7.0, 2.0, 3.0]), torch.ones(4)
    optimizer.step()
    assert torch.equal(bad, before)
    for key in ("step", "a", "b"):
        assert torch.equal(optimizer.state[bad][key], kept[key])
    assert [int(optimizer.state[p]["skipped"]) for p in (bad, good)] == [1, 0]
    assert float(optimizer.state[good]["step"]) == 2


@pytest.mark.parametrize("cause", ["state", "square", "weights", "rate"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["lstm", "rnnprop", "compact"])
def test_whatever_makes_it_not_finite_the_tensor_keeps_its_value_and_state(name, dtype, cause):
    if cause == "square" and (name == "lstm" or dtype == torch.float64):
        pytest.skip("the square of a float64 is finite, and lstm keeps none")
    bad, good = (nn.Parameter(torch.randn(70, 3, dtype=dtype)) for _ in range(2))
    optimizer = make([bad, good], name)
    gradients([bad, good], 0)
    optimizer.step()
    gradients([bad, good], 1)
    if cause == "state":
        optimizer.state[bad]["cell"][1, 60, 2] = torch.nan
    elif cause == "square":
        bad.grad[60, 2] = 1e30
    elif cause == "weights":
        next(iter(optimizer.rule.parameters())).data[0, 0] = torch.nan
    else:
        optimizer.param_groups[0]["lr"] = torch.inf
    before, kept = bad.detach().clone(), copy.deepcopy(optimizer.state[bad])
    others = good.detach().clone()
    optimizer.step()
    assert torch.equal(bad, before)
    for key, value in kept.items():
        if key != "skipped":
            torch.testing.assert_close(optimizer.state[bad][key], value, rtol=0, atol=0, equal_nan=True)
    assert int(optimizer.state[bad]["skipped"]) == 1
    alone = cause in ("state", "square")
    assert torch.equal(good, others) != alone
    assert int(optimizer.state[good]["skipped"]) == (0 if alone else 1)


@every_rule
def test_blocks_of_a_large_tensor_give_its_step(name, monkeypatch):
    """In float64, where nothing is compiled; the rules that read whole tensors take them whole."""
    value = torch.randn(30, 40, dtype=torch.float64)
    (whole, _), _ = steps([value, torch.randn(5).double()], name)
    results = []
    for size in (BLOCK_BYTES, 5000):
        monkeypatch.setattr("l2l_opt.optimizer.stepping.BLOCK_BYTES", size)
        (param,), optimizer = steps([value], name)
        results.append((param.detach(), optimizer.state[param]))
    torch.testing.assert_close(results[0][0], whole.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-12, atol=1e-12)
    for key, kept in results[0][1].items():
        torch.testing.assert_close(kept, results[1][1][key], rtol=1e-12, atol=1e-12)


class Largest(TorchDispatchMode):
    """Bytes of the largest memory that operators return, but for what is known."""

    def __init__(self, known):
        super().__init__()
        self.known, self.bytes = {tensor.untyped_storage().data_ptr() for tensor in known}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in self.known:
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["lstm", "rnnprop", "adam"])
def test_temporaries_do_not_grow_with_the_tensor(name, dtype, monkeypatch):
    monkeypatch.setattr("l2l_opt.optimizer.stepping.BLOCK_BYTES", 60_000)
    param = nn.Parameter(torch.randn(300, 300).to(dtype))
    optimizer = make([param], name)
    gradients([param], 0)
    optimizer.step()
    kept = [param, param.grad, *optimizer.state[param].values()]
    with Largest(kept) as largest:
        optimizer.step()
    assert 0 < largest.bytes <= 80_000 < param.numel()


@pytest.mark.parametrize("name", ["rnnprop", "adam"])
def test_nothing_of_a_tensor_in_blocks_moves_where_a_square_overflows(name, monkeypatch):
    monkeypatch.setattr("l2l_opt.optimizer.stepping.BLOCK_BYTES", 5000)
    param = nn.Parameter(torch.randn(40, 30).T)
    optimizer = make([param], name)
    gradients([param], 0)
    optimizer.step()
    before, kept = param.detach().clone(), copy.deepcopy(optimizer.state[param])
    param.grad = torch.ones(30, 40)
    param.grad[29, 39] = 1e30
    optimizer.step()
    assert torch.equal(param, before)
    assert int(optimizer.state[param].pop("skipped")) == 1
    assert all(torch.equal(value, kept[key]) for key, value in optimizer.state[param].items())


def test_a_step_in_which_every_tensor_is_bad():
    param = nn.Parameter(torch.ones(5))
    optimizer = make([param])
    gradients([param], 0)
    optimizer.step()
    optimizer.state[param]["hidden"] += torch.inf
    before = param.detach().clone()
    for _ in range(2):
        optimizer.step()
    assert torch.equal(param, before)
    assert int(optimizer.state[param]["skipped"]) == 2


BAD_STATES = {
    "missing": (lambda own: own.pop("cell"), "must hold all that its rule keeps; got none of .'cell'"),
    "shape": (lambda own: own.update(cell=own["cell"][:, :1]), "must have shape .* got"),
    "kind": (lambda own: own.update(cell="hello"), "must be a tensor; got 'hello'"),
    "values": (lambda own: own["cell"].fill_(torch.nan), "state 'cell' .* must be finite; got nan"),
    "counter": (lambda own: own.update(skipped=torch.zeros(3, dtype=torch.int64)), "'skipped' .* must have shape"),
}


@pytest.mark.parametrize("fault", BAD_STATES)
def test_a_state_that_does_not_fit_is_named(fault):
    param = nn.Parameter(torch.ones(3, 2))
    optimizer = make([param])
    gradients([param], 0)
    optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    spoil, message = BAD_STATES[fault]
    spoil(state["state"][0])
    before = copy.deepcopy(optimizer.state[param])
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state)
    assert all(torch.equal(value, before[key]) for key, value in optimizer.state[param].items())


def mutated(state, generator):
    """A state dict with one thing in it changed, and what was changed."""
    state = copy.deepcopy(state)
    group, own = state["param_groups"][0], state["state"][0]
    where, key = generator.choice(
        [*((state, key) for key in state), *((group, key) for key in group), *((own, key) for key in own)]
    )
    value = where[key]
    choices = ["hello", object(), [], {}, -1.5, None]
    if isinstance(value, torch.Tensor):
        choices += [value[..., None], value.to(torch.complex64), value.float() * torch.nan]
    if isinstance(value, dict):
        choices += [dict(list(value.items())[1:])]
    where[key] = generator.choice(choices)
    if generator.random() < 0.2:
        del where[key]
    return state, key


@pytest.mark.filterwarnings("ignore:momentum in a group has no effect")
def test_mutated_states_end_in_a_sentence_or_in_a_state_that_works():
    param = nn.Parameter(torch.ones(3, 2))
    optimizer = make([param], guard="fallback")
    gradients([param], 0)
    optimizer.step(loss=1.0)
    state, generator, refused = optimizer.state_dict(), random.Random(0), set()
    for _ in range(250):
        changed, key = mutated(state, generator)
        again = make([nn.Parameter(torch.ones(3, 2))], guard="fallback")
        try:
            again.load_state_dict(changed)
        except ValueError:
            refused.add(key)
            continue
        (other,) = again.param_groups[0]["params"]
        gradients([other], 1)
        again.step(loss=1.0)
        assert torch.isfinite(other).all()
    assert refused >= {
        "state",
        "param_groups",
        "params",
        "lr",
        "num_steps",
        "rule_digest",
        "watch",
        *own_keys(optimizer),
    }


def own_keys(optimizer):
    (own,) = optimizer.state.values()
    return set(own)


@pytest.mark.parametrize("horizon", ["2", "1..2:growing", 2])
def test_running_far_beyond_the_horizon_warns_once(horizon):
    rule = small_rule("rnnprop")
    rule.card = {"horizon": horizon}
    param = nn.Parameter(torch.ones(2))
    optimizer = LearnedOptimizer([param], rule)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(30):
            gradients([param], step)
            optimizer.step()
            assert len(caught) == (step >= 20)
    assert "meta-trained on runs of up to 2 steps; this one has taken 21" in str(caught[0].message)
    assert caught[0].filename == __file__


def test_the_horizon_is_counted_over_a_resume():
    rule = CoordinatewiseLSTM(hidden_size=2)
    rule.card = {"horizon": "1"}
    param = nn.Parameter(torch.ones(2))
    optimizer = LearnedOptimizer([param], rule)
    for step in range(10):
        gradients([param], step)
        optimizer.step()
    again = LearnedOptimizer([param], rule)
    again.load_state_dict(optimizer.state_dict())
    with pytest.warns(UserWarning, match="has taken 11"):
        again.step()


def test_state_dtype_must_be_floating():
    with pytest.raises(ValueError, match="state_dtype must be a floating dtype or None; got torch.int8"):
        LearnedOptimizer([nn.Parameter(torch.ones(1))], RNNProp(hidden_size=2), state_dtype=torch.int8)
