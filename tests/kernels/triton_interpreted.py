"""The step by Triton's kernels against the rule's own forward pass, in Triton's interpreter on the CPU.

``test_triton.py`` runs this file in a process of its own: Triton looks at TRITON_INTERPRET when it is imported.
"""

import copy
import gc
import json
import math
import os
import subprocess
import sys
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.runtime.interpreter import InterpreterBuilder

from l2l_opt import LearnedOptimizer
from l2l_opt.kernels import triton
from l2l_opt.kernels.triton import device_step, tables
from l2l_opt.rules.base import make_rule

assert os.environ.get("TRITON_INTERPRET") == "1", "run by tests/kernels/test_triton.py"

# numpy, which computes in the interpreter, warns of infinities that kernels look for.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
RULES = (
    "lstm:hidden_size=3,num_layers=2",
    "rnnprop:hidden_size=5,num_layers=1",
    "scale-free",
    "scale-free:recurrent=True",
    "mlp",
    "mlp:hidden_size=32,num_layers=3",
    "celo2",
)
AVERAGING = RULES[1:4]
"""That may keep averages in bfloat16."""
SHAPES = [(), (1,), (7, 5), (5, 7), (0,), (3, 2, 1, 3), (40,)]
CPU = {"cpu", "cuda"}


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """Steps go by Triton's kernels, and how many were made is counted."""
    made = []

    class Counted(triton.MixedStep):
        def __init__(self, rule, params, states, **options):
            made.append(len(params))
            super().__init__(rule, params, states, **options)

    monkeypatch.setattr(triton, "DEVICES", CPU)
    monkeypatch.setattr(triton, "MixedStep", Counted)
    return made


def strong_rule(spec, seed=2):
    """With weights of a size at which an error in any of them shows."""
    torch.manual_seed(seed)
    rule = make_rule(spec)
    for weight in rule.parameters():
        weight.data += 0.15 * torch.randn(weight.shape)
    return rule


def values(seed, shapes=SHAPES, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    scales = 10.0 ** torch.randint(-3, 3, (len(shapes),), generator=generator)
    return [(s * torch.randn(shape, generator=generator)).to(dtype) for s, shape in zip(scales, shapes, strict=True)]


def run(spec, *, purely, shapes=SHAPES, dtype=torch.float32, steps=3, edit=lambda index, params: None, **options):
    """Parameters before and after some steps on random gradients, and the optimizer."""
    rule = strong_rule(spec)
    if purely:
        rule.compiled_step = lambda: None
    params = [torch.nn.Parameter((0.3 * torch.randn(shape)).to(dtype)) for shape in shapes]
    params[-1].data.zero_()
    optimizer = LearnedOptimizer(params, rule, **options)
    before = [param.detach().clone() for param in params]
    for index in range(steps):
        for param, gradient in zip(params, values(index, shapes, dtype), strict=True):
            param.grad = gradient
        edit(index, params)
        optimizer.step()
    return before, params, optimizer


def assert_alike(ours, theirs, *, within=1e-4, rounding=2.0**-22):
    """Parameters within a share of the largest update, and of what they are rounded to; states likewise."""
    (before, params, optimizer), (_, others, other) = ours, theirs
    for start, p, q in zip(before, params, others, strict=True):
        assert not p.numel() or (p != start).any()
        if p.numel():
            largest, size = (q - start).abs().max().float(), q.abs().max().float()
            assert (p - q).abs().max().float() <= within * largest + rounding * size
        for key, value in other.state[q].items():
            own = optimizer.state[p][key]
            assert own.dtype == value.dtype
            assert own.shape == value.shape
            if value.numel():
                assert (own - value).abs().max().float() <= max(within, rounding) * (
                    1e-6 + value.abs().max().float()
                ), key


@pytest.mark.parametrize("spec", RULES)
def test_steps_are_the_rules_own(spec, calls):
    options = {"num_steps": 40, "weight_decay": 0.1, "shapes": SHAPES}
    assert_alike(run(spec, purely=False, **options), run(spec, purely=True, **options))
    assert calls == [len(SHAPES)]


@pytest.mark.parametrize("spec", RULES)
def test_without_a_plan_climbing_and_at_another_rate(spec):
    options = {"maximize": True, "lr": 0.5, "shapes": [(6, 4), (9,)], "steps": 2}
    assert_alike(run(spec, purely=False, **options), run(spec, purely=True, **options))


@pytest.mark.parametrize("spec", RULES)
def test_a_rate_that_lies_beside_the_parameters_is_read_there(spec, monkeypatch):
    """It may change between steps in its place, and nothing is sent or waited for; weight decay goes with it."""

    def changed(rate):
        def edit(index, params):
            if isinstance(rate, torch.Tensor):
                rate.fill_(0.5 / (1 + index))
            else:
                optimizers[-1].param_groups[0]["lr"] = 0.5 / (1 + index)

        return edit

    optimizers = []

    class Kept(LearnedOptimizer):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            optimizers.append(self)

    monkeypatch.setattr(sys.modules[__name__], "LearnedOptimizer", Kept)
    options = {"purely": False, "shapes": [(6, 4), (9,)], "weight_decay": 20.0}
    rate = torch.tensor(0.5)
    ours = run(spec, lr=rate, edit=changed(rate), **options)
    theirs = run(spec, lr=0.5, edit=changed(0.5), **options)
    assert_alike(ours, theirs, within=1e-6)
    assert_alike(run(spec, lr=rate, edit=changed(rate), **options | {"purely": True}), theirs)
    assert ours[2].param_groups[0]["lr"] is rate
    with monkeypatch.context() as patched:
        patched.setattr(torch.Tensor, "__float__", lambda self: pytest.fail("a tensor was read"))
        ours[2].step()


def test_a_captured_step_is_one_that_was_taken_before(monkeypatch):
    """A CUDA graph replays what is sent, and what the host has computed, as it was."""
    _, params, optimizer = run("scale-free", purely=False, shapes=[(6, 4)], steps=1, weight_decay=0.1)
    monkeypatch.setattr(triton, "is_captured", lambda device: True)
    monkeypatch.setattr(tables, "is_captured", lambda device: True)
    before = params[0].detach().clone()
    optimizer.step()
    assert not torch.equal(params[0], before)
    params[0].grad = params[0].grad.clone()
    with pytest.raises(RuntimeError, match="a captured step must be one that was taken before"):
        optimizer.step()
    optimizer.param_groups[0]["num_steps"] = 10
    with pytest.raises(RuntimeError, match=r"must not anneal weight_decay, .*; got weight_decay=0.1 and num_steps=10"):
        optimizer.step()


def test_whitening_in_bfloat16():
    """What is rounded differs in its last bits, and with it what it is rounded to."""
    options = {"shapes": [(70, 65), (64, 90), (5,)], "steps": 1, "whitening_dtype": torch.bfloat16}
    ours, theirs = run("scale-free", purely=False, **options), run("scale-free", purely=True, **options)
    exact = run("scale-free", purely=True, **options | {"whitening_dtype": torch.float32})
    for start, p, q, r in list(zip(ours[0], ours[1], theirs[1], exact[1], strict=True))[:2]:
        assert (p - q).norm() < 0.08 * (q - start).norm()
        assert (p - r).norm() > 1e-3 * (r - start).norm()


@pytest.mark.parametrize("spec", RULES)
def test_tensors_of_several_chunks(spec):
    options = {"shapes": [(4200,), (3, 3)], "steps": 1}
    assert_alike(run(spec, purely=False, **options), run(spec, purely=True, **options))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("spec", RULES)
def test_parameters_and_state_in_half_precision(spec, dtype):
    options = {"shapes": [(6, 4), (9,)], "dtype": dtype, "state_dtype": torch.bfloat16, "steps": 2}
    ours, theirs = run(spec, purely=False, **options), run(spec, purely=True, **options)
    state = ours[2].state[ours[1][0]]
    rule = ours[2].rule
    kept = [key for key in (*rule.recurrent_state, *rule.moving_averages) if key in state]
    assert bool(kept) == (spec in RULES[:4])
    assert all(state[key].dtype == torch.bfloat16 for key in kept)
    # The interpreter cuts what does not fit into bfloat16, where a GPU and PyTorch round.
    assert_alike(ours, theirs, rounding=2.0**-6)


@pytest.mark.parametrize("spec", AVERAGING)
def test_averages_in_bfloat16_are_rounded_with_the_same_random_bits(spec, calls):
    """Bits as the plain path has them, but for the few that rounding before has put on the other side."""
    options = {"shapes": [(40, 30), (700,)], "state_dtype": torch.bfloat16, "steps": 1}
    ours, theirs = run(spec, purely=False, **options), run(spec, purely=True, **options)
    assert calls == [2]
    for key in ours[2].rule.moving_averages:
        a, b = (
            torch.cat([optimizer.state[p][key].flatten() for p in params]) for _, params, optimizer in (ours, theirs)
        )
        assert a.dtype == torch.bfloat16
        assert a.count_nonzero() > 1000
        assert (a != b).float().mean() < 1e-3


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("spec", RULES)
def test_what_is_not_finite_is_left_and_counted(spec, bad):
    snapshots = []

    def spoil(index, params):
        if index == 1:
            params[0].grad.view(-1)[3] = bad
        snapshots.append([param.detach().clone() for param in params])

    _, params, optimizer = run(spec, purely=False, shapes=[(5, 4), (9,)], steps=2, edit=spoil)
    # The first squares no gradients, the second bounds them before.
    skips = not (spec.startswith(("lstm", "celo2")) and bad == 1e30)
    assert [int(optimizer.state[p]["skipped"]) for p in params] == [int(skips), 0]
    assert [float(optimizer.state[p]["step"]) for p in params] == [2.0 - skips, 2.0]
    assert torch.equal(params[0], snapshots[1][0]) == skips
    assert not torch.equal(params[1], snapshots[1][1])
    for p in params:
        assert all(value.isfinite().all() for value in optimizer.state[p].values())


@pytest.mark.parametrize("spec", RULES)
def test_a_rule_that_is_not_finite_moves_nothing(spec):
    rule = strong_rule(spec)
    next(rule.parameters()).data.view(-1)[0] = float("nan")
    param = torch.nn.Parameter(torch.ones(4, 3))
    optimizer = LearnedOptimizer([param], rule)
    param.grad = torch.ones(4, 3)
    optimizer.step()
    assert torch.equal(param, torch.ones(4, 3))
    assert int(optimizer.state[param]["skipped"]) == 1
    assert all(value.isfinite().all() for value in optimizer.state[param].values())


@pytest.mark.parametrize("spec", RULES)
def test_blocks_that_would_not_stay_finite_are_left_and_counted_once(spec):
    rule, start = strong_rule(spec), torch.full((600,), 3.4028e38)
    start[::2] *= -1
    param = torch.nn.Parameter(start.clone())
    optimizer = LearnedOptimizer([param], rule, lr=3e38)
    param.grad = torch.ones(600)
    optimizer.step()
    assert param.isfinite().all()
    assert int(optimizer.state[param]["skipped"]) == 1


def test_without_a_guard_updates_are_applied_as_they_come():
    def spoil(index, params):
        params[0].grad.view(-1)[0] = float("nan")

    _, params, _ = run(RULES[1], purely=False, shapes=[(4,), (3,)], steps=1, edit=spoil, guard=None)
    assert params[0].isnan().sum() == 1
    assert params[1].isfinite().all()


@pytest.mark.parametrize("spec", RULES[1:])
def test_frozen_and_missing_gradients(spec, calls):
    shapes = [(4, 3), (5,), (6,)]

    def edit(index, params):
        params[1].grad = None
        if index == 2:
            params[0].grad = None

    def both(purely):
        return run(spec, purely=purely, shapes=shapes, edit=edit, steps=4)

    (_, params, optimizer), (_, others, _) = both(False), both(True)
    assert not optimizer.state[params[1]]
    for p, q in zip(params, others, strict=True):
        assert torch.allclose(p, q, atol=1e-6)
    # Made for both, for one alone, and for both again; between the first two steps nothing is made.
    assert calls == [2, 1, 2]


def test_what_is_not_contiguous_goes_by_the_plain_path(calls):
    rule = strong_rule(RULES[2])
    params = [torch.nn.Parameter(torch.randn(4, 3, dtype=torch.complex64)), torch.nn.Parameter(torch.randn(3))]
    params.append(torch.nn.Parameter(torch.randn(5, 4).t()))
    other = copy.deepcopy(rule)
    other.compiled_step = lambda: None
    copies = [torch.nn.Parameter(param.detach().clone()) for param in params]
    for own, kind in ((params, rule), (copies, other)):
        optimizer = LearnedOptimizer(own, kind)
        for param in own:
            param.grad = torch.ones_like(param)
        optimizer.step()
    # The real view of a complex parameter is one that kernels take, by tables of its own.
    assert calls == [1, 1]
    for p, q in zip(params, copies, strict=True):
        assert torch.allclose(p, q, atol=1e-6)


def test_addresses_are_sent_where_gradients_are_new_alone(monkeypatch):
    copies = []
    send = device_step.sent
    monkeypatch.setattr(device_step, "sent", lambda *arguments: copies.append(1) or send(*arguments))
    params = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2))]
    optimizer = LearnedOptimizer(params, strong_rule(RULES[0]))
    counts = []
    for kept in (False, True, False):
        for param in params:
            if kept:
                param.grad.fill_(2.0)
            else:
                param.grad = torch.ones_like(param)
        copies.clear()
        optimizer.step()
        counts.append(len(copies))
    assert counts[1:] == [0, 1]


def test_mixed_dtypes_are_one_step(calls):
    rule = strong_rule(RULES[0])
    params = [torch.nn.Parameter(torch.ones(5, dtype=dtype)) for dtype in (torch.float32, torch.bfloat16)]
    optimizer = LearnedOptimizer(params, rule)
    for _ in range(2):
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer.step()
    assert calls == [2]
    assert all((param != 1).all() for param in params)
    assert [float(optimizer.state[param]["step"]) for param in params] == [2.0, 2.0]


@pytest.mark.parametrize("spec", RULES)
def test_saved_and_resumed_bit_for_bit(spec):
    saved = []

    def save(index, params):
        if index == 1:
            saved.append((copy.deepcopy(optimizer.state_dict()), [param.detach().clone() for param in params]))

    rule = strong_rule(spec)
    params = [torch.nn.Parameter(value) for value in values(50, [(4, 3), (5,)])]
    optimizer = LearnedOptimizer(params, rule, num_steps=3)
    for index in range(3):
        save(index, params)
        for param, gradient in zip(params, values(index, [(4, 3), (5,)]), strict=True):
            param.grad = gradient
        optimizer.step()
    state, start = saved[0]
    again = [torch.nn.Parameter(value) for value in start]
    resumed = LearnedOptimizer(again, rule, num_steps=3)
    resumed.load_state_dict(state)
    for index in (1, 2):
        for param, gradient in zip(again, values(index, [(4, 3), (5,)]), strict=True):
            param.grad = gradient
        resumed.step()
    for p, q in zip(params, again, strict=True):
        assert torch.equal(p, q)
        assert all(torch.equal(value, resumed.state[q][key]) for key, value in optimizer.state[p].items())


SPREAD = {"lstm:hidden_size=3": 1, "rnnprop:hidden_size=3": 1, "scale-free": 4, "scale-free:recurrent=True": 4}
"""Rules, and how many reductions a step makes over tensors that are divided among devices."""


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    """Of one process by the rule's own forward pass, and of two that hold rows of each tensor, by kernels."""
    folder = tmp_path_factory.mktemp("spread")
    jobs = [
        {"rule": rule, "dtype": "float32", "steps": 3, "spoil": 1, "kind": kind, "triton": kind == "fsdp"}
        | {"out": str(folder / f"{rule} {kind}.pt")}
        for rule in SPREAD
        for kind in ("alone", "fsdp")
    ]
    (folder / "jobs.json").write_text(json.dumps({"ranks": 2, "jobs": jobs}))
    command = [sys.executable, "-m", "scripts.experiments.optimizer.sharded_training", folder / "jobs.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return lambda rule, kind: torch.load(folder / f"{rule} {kind}.pt", weights_only=True)


@pytest.mark.parametrize("rule", SPREAD)
def test_rows_on_two_devices_step_as_one(trainings, rule):
    """Tall, wide and uneven ones, one that the second device has nothing of; a gradient is not finite there alone."""
    ours, theirs = (trainings(rule, kind) for kind in ("fsdp", "alone"))
    assert ours["kinds"] == ["DTensor"]
    assert ours["reductions"] == SPREAD[rule]
    for name, value in theirs["first"].items():
        assert torch.allclose(ours["first"][name], value, rtol=0, atol=1e-6), name
        assert torch.allclose(ours["last"][name], theirs["last"][name], rtol=0, atol=3e-5), name
    for name, own in theirs["state"].items():
        for key, value in own.items():
            assert torch.allclose(ours["state"][name][key], value, rtol=1e-3, atol=1e-5), (name, key)
        assert int(own["skipped"]) == (name == "body.0.weight")


def channels_last(index, params):
    for param in params:
        if param.dim() == 4:
            param.data = param.data.to(memory_format=torch.channels_last)
            param.grad = param.grad.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("spec", ["mlp", "celo2"])
def test_perceptrons_take_convolutions_in_channels_last_by_the_plain_path(spec, calls):
    """Of axes equally long the first counted is another in memory."""
    options = {"shapes": [(3, 4, 4, 2), (5,)], "edit": channels_last, "steps": 2}
    assert_alike(run(spec, purely=False, **options), run(spec, purely=True, **options))
    assert calls == [1]


@pytest.mark.parametrize("spec", ["mlp:hidden_size=33", "mlp:num_layers=5"])
def test_larger_perceptrons_go_by_the_plain_path(spec, calls):
    options = {"shapes": [(3, 4)], "steps": 1}
    assert_alike(run(spec, purely=False, **options), run(spec, purely=True, **options))
    assert calls == []


@pytest.mark.parametrize("shape", [(150, 3), (3, 300), (2, 3, 2, 20), (20, 3, 2, 2), (2, 5, 3, 3, 2)])
@pytest.mark.parametrize("spec", ["mlp", "celo2"])
def test_rows_and_columns_of_several_pieces(spec, shape):
    options = {"shapes": [shape, (3,)], "steps": 2}
    assert_alike(run(spec, purely=False, **options), run(spec, purely=True, **options))


def test_a_matrix_of_several_chunks_keeps_all_rows_and_columns():
    options = {"shapes": [(65, 65), (3,)], "steps": 1}
    assert_alike(run("mlp", purely=False, **options), run("mlp", purely=True, **options))


@pytest.mark.parametrize("spec", ["mlp", "celo2"])
def test_places_in_64_bits_are_those_in_32(spec, monkeypatch):
    ours = run(spec, purely=False, steps=1)
    monkeypatch.setattr("l2l_opt.kernels.triton.perceptron_step.MOST_PLACES", 1)
    theirs = run(spec, purely=False, steps=1)
    for p, q in zip(ours[1], theirs[1], strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("spec", RULES[:4])
def test_convolutions_in_channels_last_are_stepped_as_they_lie(spec, calls):
    shapes = [(6, 2, 3, 3), (3, 8, 2, 2), (5,), (4, 3, 1, 1)]
    options = {"shapes": shapes, "edit": channels_last, "num_steps": 40, "weight_decay": 0.1}
    ours, theirs = run(spec, purely=False, **options), run(spec, purely=True, **options)
    assert_alike(ours, theirs)
    # One table of all of them, made once.
    assert calls == [len(shapes)]
    _, params, optimizer = ours
    state = [value for value in optimizer.state[params[0]].values() if value.dim()]
    assert all(value.permute(0, 1, 3, 4, 2).is_contiguous() for value in state)


@pytest.mark.parametrize("spec", ["scale-free", "lstm:hidden_size=2"])
def test_a_state_goes_on_whatever_order_weights_lie_in(spec, calls):
    shapes = [(6, 2, 3, 3), (5,)]
    _, params, optimizer = run(spec, purely=False, shapes=shapes, num_steps=40)
    saved = copy.deepcopy(optimizer.state_dict())
    results = []
    for edit in (lambda index, params: None, channels_last):
        others = [torch.nn.Parameter(param.detach().clone()) for param in params]
        for param, gradient in zip(others, values(5, shapes), strict=True):
            param.grad = gradient
        edit(0, others)
        again = LearnedOptimizer(others, strong_rule(spec), num_steps=40)
        again.load_state_dict(saved)
        made = len(calls)
        again.step()
        again.step()
        assert len(calls) == made + 1
        results.append((others, again.state_dict()))
    (ones, one), (twos, two) = results
    for p, q in zip(ones, twos, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    for index, own in one["state"].items():
        for key, value in own.items():
            torch.testing.assert_close(value, two["state"][index][key], rtol=1e-4, atol=1e-6)


def test_what_a_graph_was_captured_with_stays(monkeypatch):
    _, params, optimizer = run("scale-free", purely=False, shapes=[(6, 4)], steps=2)
    (((prepared,), _),) = optimizer._stepper.prepared.values()
    table = weakref.ref(prepared.call.parts[0][1].tensors.gradient)
    monkeypatch.setattr("l2l_opt.kernels.triton.is_captured", lambda device: True)
    optimizer.step()
    monkeypatch.undo()
    monkeypatch.setattr(triton, "DEVICES", CPU)
    kept = params[0].grad
    params[0].grad = kept.clone()
    optimizer.step()
    optimizer.param_groups[0]["num_steps"] = 7
    optimizer.step()
    del prepared
    gc.collect()
    assert table() is not None


@pytest.mark.parametrize(
    ("shape", "most"),
    [
        # Gradient twice, parameter three times read and once written, an average again, a direction written, read
        # twice for products, and their result written and read.
        ((32, 128), 56),
        ((4096,), 32),
    ],
)
def test_bytes_that_a_steady_step_of_the_default_moves_for_a_parameter_beside_twice_its_state(shape, most, monkeypatch):
    """By kernels, and by products of whole matrices; Newton-Schulz's own, of Gram matrices, are not counted."""
    count, moved = math.prod(shape), []

    def counted(method):
        def call(self, ptrs, *rest):
            mask = rest[{"create_masked_load": 0, "create_masked_store": 1}[method.__name__]]
            if mask.data.size > 1:
                moved.append(int(mask.data.sum()) * ptrs.get_element_ty().primitive_bitwidth // 8)
            return method(self, ptrs, *rest)

        return call

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if not func.is_view and func._schema.name not in ("aten::new_empty", "aten::set_"):
                leaves = [value for value in tree_leaves((args, kwargs, result)) if isinstance(value, torch.Tensor)]
                whole = {value.data_ptr() for value in leaves if value.numel() == count}
                moved.extend(4 * count for _ in whole)
            return result

    def edit(index, params):
        if index == 2:
            for method in (InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store):
                monkeypatch.setattr(InterpreterBuilder, method.__name__, counted(method))
            products.__enter__()

    products = Products()
    try:
        run("scale-free", purely=False, shapes=[shape], edit=edit)
    finally:
        products.__exit__(None, None, None)
    most += 2 * 16
    assert 0.95 * most <= sum(moved) / count <= 1.02 * most
