"""A window's meta-gradient by replay against the tape of the general path, which float64 always takes."""

from dataclasses import replace

import pytest
import torch
from torch.utils._pytree import tree_map

from l2l_opt.inner_loop import replay
from l2l_opt.inner_loop import unroll as unroll_module
from l2l_opt.inner_loop.horizon import Horizon
from l2l_opt.inner_loop.replay import can_replay
from l2l_opt.inner_loop.side_by_side import CoordinateSample
from l2l_opt.inner_loop.students import Students
from l2l_opt.inner_loop.unroll import InnerState, unroll
from l2l_opt.kernels import native
from l2l_opt.randomness import Stream
from l2l_opt.tasks import ModuleTask
from tests.conftest import small_family, small_rule
from tests.kernels.test_native import instructions

pytestmark = pytest.mark.skipif(native.library is None, reason=native.status)

__all__ = ["instructions"]

SIZES = [
    ("lstm", {"hidden_size": 4}),
    ("lstm", {"hidden_size": 20, "num_layers": 2}),
    ("lstm", {"hidden_size": 5, "num_layers": 3}),
    ("rnnprop", {"hidden_size": 4}),
    ("rnnprop", {"hidden_size": 6, "num_layers": 2}),
]


@pytest.fixture
def replays(monkeypatch):
    """How many windows were replayed."""
    count = []

    def counted(*arguments):
        count.append(1)
        return original(*arguments)

    original = unroll_module.run_and_replay
    monkeypatch.setattr(unroll_module, "run_and_replay", counted)
    return count


def prepared(name, options, dtype, *, length, num_students=3):
    """A rule, a family and a window, all drawn in float64."""
    torch.manual_seed(5)
    rule, family = small_rule(name, **options).double(), small_family()
    for weight in rule.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    students = Students(
        rule, family, numbers=range(num_students), horizon=Horizon(99, 99), seed=0, stream=Stream.META_TRAINING
    )
    (window,) = students.windows(length)

    def cast(leaf):
        return leaf.to(dtype) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf

    places = (window.inner.params, window.inner.state, window.inner.num_steps)
    family.examples = replace(family.examples, inputs=cast(family.examples.inputs))
    return rule.to(dtype), family, replace(window, inner=InnerState(*tree_map(cast, places)))


def window_and_gradient(name, options, dtype, *, length=7, on_others=False, ends=True, edit=lambda inner: inner):
    """Losses, ends and d/dphi of a weighting of all of them; float32 itself is wrong by some 1e-5 in these."""
    rule, family, window = prepared(name, options, dtype, length=length)
    loss_batches = list(reversed(window.batches)) if on_others else None
    inner, losses = unroll(rule, family, window.data, edit(window.inner), window.batches, loss_batches=loss_batches)
    results = [losses, *inner.params.values()]
    results += [inner.state[own][key] for own in inner.params for key in ("hidden", "cell")]
    generator = torch.Generator().manual_seed(1)
    total = torch.zeros((), dtype=dtype)
    for result in results if ends else results[:1]:
        total = total + (torch.randn(result.shape, generator=generator, dtype=torch.float64).to(dtype) * result).sum()
    return [result.detach() for result in results], torch.autograd.grad(total, list(rule.parameters()))


def assert_equal_to_the_tape(name, options, replays, *, within=1e-4, **arguments):
    ours, gradients = window_and_gradient(name, options, torch.float32, **arguments)
    assert len(replays) == 1
    theirs, exact = window_and_gradient(name, options, torch.float64, **arguments)
    assert len(replays) == 1
    for a, b in zip([*ours, *gradients], [*theirs, *exact], strict=True):
        assert a.shape == b.shape
        assert (a.double() - b).norm() <= within * b.norm()


@pytest.mark.parametrize("on_others", [False, True])
@pytest.mark.parametrize(("name", "options"), SIZES)
def test_values_and_meta_gradients_equal_the_tape(instructions, replays, name, options, on_others):
    assert_equal_to_the_tape(name, options, replays, on_others=on_others)


def test_blocks_of_coordinates_add_up(replays, monkeypatch):
    """Seven blocks of a tensor of 400 coordinates, the last one shorter."""
    (rule, family, window), found = wide_window(), []
    for size in (replay.BLOCK_BYTES, 1):
        monkeypatch.setattr(replay, "BLOCK_BYTES", size)
        _, losses = unroll(rule, family, window.data, window.inner, window.batches)
        found.append(torch.autograd.grad(losses.sum(), list(rule.parameters())))
    assert len(replays) == 2
    for a, b in zip(*found, strict=True):
        assert (a - b).norm() <= 1e-5 * a.norm()


def wide_window():
    """A rule, a family with a tensor of 400 coordinates and one of 20, and a window."""
    rule = small_rule("rnnprop")
    module = torch.nn.Sequential(torch.nn.Linear(20, 20), torch.nn.Tanh(), torch.nn.Linear(20, 2))
    family = ModuleTask(module, torch.nn.functional.cross_entropy, (torch.randn(30, 20), torch.arange(30) % 2))
    students = Students(rule, family, numbers=range(2), horizon=Horizon(9, 9), seed=0, stream=Stream.META_TRAINING)
    (window,) = students.windows(5)
    return rule, family, window


@pytest.mark.parametrize("block_bytes", [1, replay.BLOCK_BYTES])
def test_sampled_coordinates_give_the_meta_gradient_in_expectation(replays, monkeypatch, block_bytes):
    """Over all offsets their mean is exact; each alone is not, and losses do not depend on it."""
    monkeypatch.setattr(replay, "BLOCK_BYTES", block_bytes)
    rule, family, window = wide_window()
    found = []
    for sample in (None, *(CoordinateSample(5, offset) for offset in range(5))):
        inner, losses = unroll(rule, family, window.data, window.inner, window.batches, sample=sample)
        total = losses.sum() + sum(inner.state[name]["hidden"].square().sum() for name in inner.state)
        gradients = torch.autograd.grad(total, list(rule.parameters()))
        found.append((losses.detach(), torch.cat([gradient.flatten() for gradient in gradients])))
    assert len(replays) == 6
    (losses, exact), *sampled = found
    assert all(torch.equal(losses, own) for own, _ in sampled)
    assert all((own - exact).norm() > 1e-3 * exact.norm() for _, own in sampled)
    mean = sum(own for _, own in sampled) / 5
    assert (mean - exact).norm() <= 1e-5 * exact.norm()


def test_students_at_different_steps_equal_the_tape(replays):
    """As staggered ones are: what the rule makes of the clock is a student's own."""

    def staggered(inner):
        clock = torch.tensor([0.0, 4.0, 50.0])
        state = {name: own | {"step": clock.to(own["step"])} for name, own in inner.state.items()}
        return replace(inner, state=state)

    assert_equal_to_the_tape("rnnprop", {"hidden_size": 4}, replays, edit=staggered)


@pytest.mark.parametrize("length", [1, 2, 20])
def test_windows_of_any_length_with_losses_alone(replays, length):
    assert_equal_to_the_tape("rnnprop", {"hidden_size": 4}, replays, length=length, ends=False)


def test_the_next_window_starts_where_this_one_ended(replays):
    """Two windows in a row: the second starts from states that the first wrote, and leaves them as they are."""
    found = []
    for dtype in (torch.float32, torch.float64):
        rule, family, window = prepared("lstm", {"hidden_size": 4, "num_layers": 2}, dtype, length=6)
        halves = window.batches[:4], window.batches[3:]
        inner, _ = unroll(rule, family, window.data, window.inner, halves[0])
        inner = inner.detach()
        before = [value.clone() for own in inner.state.values() for value in own.values()]
        _, losses = unroll(rule, family, window.data, inner, halves[1])
        after = [value for own in inner.state.values() for value in own.values()]
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        found.append(torch.autograd.grad(losses[1:].sum(), list(rule.parameters())))
    assert len(replays) == 2
    for a, b in zip(*found, strict=True):
        assert (a.double() - b).norm() <= 1e-3 * b.norm()


def test_states_in_bfloat16(replays):
    def halved(inner):
        state = {
            name: {key: value.bfloat16() if key in ("hidden", "cell") else value for key, value in own.items()}
            for name, own in inner.state.items()
        }
        return InnerState(inner.params, state, inner.num_steps)

    ours, gradients = window_and_gradient("lstm", {"hidden_size": 4}, torch.float32, edit=halved)
    assert len(replays) == 1
    assert ours[-1].dtype == torch.bfloat16
    theirs, exact = window_and_gradient("lstm", {"hidden_size": 4}, torch.float32)
    for a, b in zip([*ours, *gradients], [*theirs, *exact], strict=True):
        assert (a.float() - b).norm() <= 0.05 * b.norm()


def test_two_threads_agree_with_one_and_with_themselves():
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            found.append(window_and_gradient("lstm", {"hidden_size": 20, "num_layers": 2}, torch.float32)[1])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(found[1], found[2], strict=True))
    for a, b in zip(found[0], found[1], strict=True):
        assert (a - b).norm() <= 1e-5 * a.norm()


def test_a_diverged_student_makes_its_own_losses_and_no_others_not_finite(replays):
    rule, family, window = prepared("lstm", {"hidden_size": 4}, torch.float32, length=5)
    params = {name: value.clone() for name, value in window.inner.params.items()}
    next(iter(params.values()))[1] = float("inf")
    inner = InnerState(params, window.inner.state, window.inner.num_steps)
    _, losses = unroll(rule, family, window.data, inner, window.batches)
    assert len(replays) == 1
    assert torch.isfinite(losses[:, [0, 2]]).all()
    assert not torch.isfinite(losses[1:, 1]).any()


def test_phi_changed_in_place_before_the_backward_pass_is_refused(replays):
    rule, family, window = prepared("lstm", {"hidden_size": 4}, torch.float32, length=3)
    _, losses = unroll(rule, family, window.data, window.inner, window.batches)
    with torch.no_grad():
        next(rule.parameters()).add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        losses.sum().backward()


def test_what_it_cannot_serve_takes_the_general_path():
    rule, _, window = prepared("lstm", {"hidden_size": 4}, torch.float32, length=2)
    phi, inner = dict(rule.named_parameters()), window.inner
    assert can_replay(rule, phi, inner.params, inner.state)
    needing = {name: value.clone().requires_grad_() for name, value in inner.params.items()}
    assert not can_replay(rule, phi, needing, inner.state)
    others = {name: weight.clone() for name, weight in phi.items()}
    assert not can_replay(rule, others, inner.params, inner.state)
    with torch.no_grad():
        assert not can_replay(rule, phi, inner.params, inner.state)
    first, *others = inner.state
    uneven = inner.state | {first: inner.state[first] | {"step": inner.state[first]["step"] + 1}}
    assert others
    assert not can_replay(rule, phi, inner.params, uneven)
    compact = small_rule("compact")
    state = {"0.weight": {"hidden": torch.zeros(3, 8, 4, 3), "cell": torch.zeros(3, 8, 4, 3)}}
    assert not can_replay(compact, dict(compact.named_parameters()), inner.params, state)
