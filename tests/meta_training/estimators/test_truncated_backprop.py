"""Truncated back-propagation: its windows, gradient checkpointing, and whose losses count."""

import math

import pytest
import torch

from l2l_opt import TruncatedBackprop
from l2l_opt.inner_loop.unroll import unroll
from l2l_opt.kernels import native
from l2l_opt.meta_training.estimators import MetaLoss
from l2l_opt.tasks import ModuleTask
from l2l_opt.tasks.module_task import Examples
from tests.conftest import small_family, small_rule


def gradients(rule, *, outer_steps=2, family=None, **options):
    estimator = TruncatedBackprop(**{"horizon": 20, "truncation_length": 10, **options})
    students = estimator.init(rule, family or small_family(), num_students=2, seed=0)
    results = []
    for _ in range(outer_steps):
        meta_gradient, students = estimator.estimate(rule, students)
        results.append(meta_gradient)
    return results


@pytest.mark.slow
@pytest.mark.parametrize("second_derivatives", [False, True])
@pytest.mark.parametrize("name", ["compact", "lstm", "adam"])
def test_gradient_checkpointing_changes_nothing_but_memory(name, second_derivatives):
    rule = small_rule(name).double()
    plain = gradients(rule, second_derivatives=second_derivatives)
    segmented = gradients(rule, second_derivatives=second_derivatives, gradient_checkpointing=True)
    for a, b in zip(plain, segmented, strict=True):
        torch.testing.assert_close(a.losses, b.losses, rtol=1e-13, atol=0)
        for key, gradient in a.gradients.items():
            assert gradient.abs().max() > 0
            torch.testing.assert_close(gradient, b.gradients[key], rtol=1e-9, atol=1e-14)


def saved_bytes(rule, length, *, gradient_checkpointing):
    """Bytes that autograd keeps of one window until it is differentiated."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    estimator = TruncatedBackprop(horizon=length, truncation_length=length)
    students = estimator.init(rule, small_family(), num_students=2, seed=0)
    (window,) = students.windows(length)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        _, losses = unroll(
            rule,
            window.family,
            window.data,
            window.inner,
            window.batches,
            gradient_checkpointing=gradient_checkpointing,
        )
    assert losses.requires_grad
    return sum(kept.values())


@pytest.mark.slow
def test_checkpointed_memory_grows_with_the_root_of_the_window():
    rule = small_rule("adam").double()
    plain = [saved_bytes(rule, length, gradient_checkpointing=False) for length in (16, 144)]
    segmented = [saved_bytes(rule, length, gradient_checkpointing=True) for length in (16, 144)]
    assert 8 < plain[1] / plain[0] < 10
    assert 2 < segmented[1] / segmented[0] < 4
    assert segmented[1] < plain[1] / 3


def test_with_losses_on_test_batches_the_meta_gradient_is_that_of_test_losses():
    rule, family = small_rule("rnnprop").double(), small_family()
    inputs = family.examples.inputs
    family.examples = Examples(inputs, family.examples.targets, {"train": (0, 20), "test": (20, 40)})
    (train,) = gradients(rule, outer_steps=1, family=family)
    (test,) = gradients(rule, outer_steps=1, family=family, meta_loss=MetaLoss(loss_on="test"))
    assert float(train.meta_loss) != float(test.meta_loss)
    assert any(not torch.equal(a, test.gradients[key]) for key, a in train.gradients.items())
    # A family whose test examples are its training examples of the same draw order differs in batches only.
    family.examples = Examples(inputs, family.examples.targets, {"train": (0, 20), "test": (0, 20)})
    (same,) = gradients(rule, outer_steps=1, family=family, meta_loss=MetaLoss(loss_on="test"))
    assert all(torch.isfinite(gradient).all() for gradient in same.gradients.values())


def wide_family():
    module = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))
    data = torch.randn(40, 16, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2
    return ModuleTask(module, torch.nn.functional.cross_entropy, data, batch_size=8)


@pytest.mark.skipif(native.library is None, reason=native.status)
def test_sampled_coordinates_change_meta_gradients_and_not_students():
    """256 coordinates are enough for a stride of 3; where a window begins to count is drawn, and drawn again alike."""
    rule = small_rule("lstm")
    options = {"family": wide_family(), "outer_steps": 4}
    exact = gradients(rule, **options)
    sampled, again = (gradients(rule, coordinate_stride=3, **options) for _ in range(2))
    for one, other, twin in zip(exact, sampled, again, strict=True):
        assert torch.equal(one.losses, other.losses)
        for key, gradient in other.gradients.items():
            assert gradient.abs().max() > 0
            assert not torch.equal(gradient, one.gradients[key])
            assert torch.equal(gradient, twin.gradients[key])


@pytest.mark.parametrize("stride", [0, -1, 1.5])
def test_a_coordinate_stride_must_be_a_positive_integer(stride):
    with pytest.raises(ValueError, match=r"stride must be a positive integer; got .*, use e\.g\. coordinate_stride=8"):
        TruncatedBackprop(coordinate_stride=stride)


def norm_of(gradients):
    return float(torch.stack([gradient.norm() for gradient in gradients.values()]).norm())


def two_windows(bound, *, spoilt=False):
    """The meta-gradient of two students of architectures of their own, so that each has a window of its own."""
    torch.manual_seed(0)
    rule = small_rule("rnnprop").double()
    estimator = TruncatedBackprop(horizon=10, truncation_length=10, clip_window=bound)
    students = estimator.init(rule, small_family(), num_students=2, seed=0)
    students.members[0].family = small_family()
    assert len(list(students.windows(0))) == 2
    if spoilt:
        students.members[0].inner.params["0.weight"].fill_(math.nan)
    return estimator.estimate(rule, students)[0]


def test_a_window_counts_for_no_more_than_its_share_of_the_bound():
    plain, loose = two_windows(None), two_windows(1e6)
    for name, gradient in plain.gradients.items():
        assert torch.equal(gradient, loose.gradients[name])
    tight = two_windows(1e-6)
    assert torch.equal(tight.losses, plain.losses)
    # Two that point in much the same way, each of half the bound.
    assert 0.5e-6 < norm_of(tight.gradients) <= 1e-6 * (1 + 1e-9)


def test_of_a_bounded_window_the_direction_stays():
    rule = small_rule("rnnprop").double()
    options = {"outer_steps": 1, "horizon": 10, "truncation_length": 10}
    (plain,), (bounded,) = (gradients(rule, **options, clip_window=bound) for bound in (None, 1e-6))
    assert norm_of(bounded.gradients) == pytest.approx(1e-6)
    for name, gradient in plain.gradients.items():
        torch.testing.assert_close(bounded.gradients[name] / 1e-6, gradient / norm_of(plain.gradients))


def test_a_window_that_is_not_finite_counts_as_zero_where_there_is_a_bound():
    assert not math.isfinite(norm_of(two_windows(None, spoilt=True).gradients))
    ours = two_windows(1e-6, spoilt=True).gradients
    # What is left is the other student's half.
    assert norm_of(ours) == pytest.approx(0.5e-6)


@pytest.mark.parametrize("bound", [0.0, -1.0, math.inf, math.nan])
def test_bad_bounds_are_named(bound):
    with pytest.raises(ValueError, match=f"clip_window must be a positive number; got {bound!r}, use e.g. clip"):
        TruncatedBackprop(clip_window=bound)
