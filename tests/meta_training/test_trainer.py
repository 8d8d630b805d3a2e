"""The outer loop: it learns, validates, keeps the best, skips what is not finite, and resumes bit for bit."""

import gc
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from l2l_opt import MetaTrainer, TruncatedBackprop
from l2l_opt.inner_loop.unroll import InnerState
from l2l_opt.meta_training.estimators import MetaLoss
from l2l_opt.meta_training.outer_loop import Validation
from l2l_opt.rules import make_rule
from l2l_opt.storage.checkpoint_file import load_tree, save_tree
from l2l_opt.tasks import make_task
from tests.conftest import small_family, small_rule

pytestmark = pytest.mark.slow


def make(rule=None, family=None, *, horizon=8, truncation_length=4, meta_loss=None, **options):
    torch.manual_seed(0)
    estimator = TruncatedBackprop(horizon=horizon, truncation_length=truncation_length, meta_loss=meta_loss)
    options = {"outer_steps": 6, "num_students": 2, "validate_every": 2, "validation_students": 2, **options}
    rule = rule or small_rule("rnnprop").double()
    return MetaTrainer(rule, family or small_family(), estimator, **options)


def phi_of(trainer):
    return {key: value.detach().clone() for key, value in trainer.rule.named_parameters()}


def test_every_weight_moves():
    trainer = make()
    before = phi_of(trainer)
    step = trainer.outer_step()
    assert step.number == 1
    assert step.meta_gradient_norm > 0
    assert not step.skipped
    for key, value in phi_of(trainer).items():
        assert (value - before[key]).abs().max() > 0, key


def test_a_learning_rate_is_learned():
    """Meta-training finds that SGD on quadratics wants a larger rate than it is given."""
    trainer = make(
        make_rule("sgd", lr=1e-3),
        make_task("quadratics:dim=3"),
        horizon=20,
        truncation_length=20,
        outer_steps=40,
        num_students=8,
        meta_lr=0.05,
        meta_loss=MetaLoss("sum", "log"),
        validate_every=0,
    )
    first = trainer.validate().metric
    trainer.run()
    assert trainer.best is not None
    assert trainer.best.metric < first - 0.3
    assert 3e-3 < float(trainer.rule.log_lr.detach().exp()) < 0.3


def test_validation_comes_at_its_cadence_and_at_the_end():
    trainer, seen = make(outer_steps=5), []
    assert trainer.run(on_validation=lambda validation: seen.append(validation.outer_step))
    assert seen == [0, 2, 4, 5]
    trainer, seen = make(outer_steps=5, validate_every=0), []
    trainer.run(on_validation=lambda validation: seen.append(validation.outer_step))
    assert seen == [5]


def test_validation_changes_nothing_and_repeats():
    trainer = make()
    trainer.outer_step()
    one, other = trainer.validate(), trainer.validate()
    assert one.metric == other.metric
    assert one.curve.shape == (8,)
    plain = make()
    plain.outer_step()
    a, b = trainer.outer_step(), plain.outer_step()
    assert (a.meta_loss, a.meta_gradient_norm) == (b.meta_loss, b.meta_gradient_norm)


def test_the_best_is_kept_by_value():
    trainer = make()
    trainer.consider(Validation(0, 1.0, torch.zeros(1)))
    kept = phi_of(trainer)
    trainer.outer_step()
    trainer.consider(Validation(1, 2.0, torch.zeros(1)))
    trainer.consider(Validation(1, math.inf, torch.zeros(1)))
    best = trainer.best_rule()
    assert all(torch.equal(value, kept[key]) for key, value in best.named_parameters())
    assert not all(torch.equal(value, kept[key]) for key, value in trainer.rule.named_parameters())


def test_a_meta_gradient_that_is_not_finite_is_skipped_and_counted():
    trainer = make()
    trainer.outer_step()
    first = trainer.students.members[0]
    first.inner = InnerState(
        {**first.inner.params, "0.weight": first.inner.params["0.weight"] * torch.nan},
        first.inner.state,
        first.inner.num_steps,
    )
    before, moments = phi_of(trainer), trainer.optimizer.state_dict()["state"][0]["exp_avg"].clone()
    step = trainer.outer_step()
    assert step.skipped
    assert trainer.num_skipped == 1
    assert all(torch.equal(value, before[key]) for key, value in phi_of(trainer).items())
    assert torch.equal(trainer.optimizer.state_dict()["state"][0]["exp_avg"], moments)
    assert not trainer.outer_step().skipped


def test_clipping_bounds_the_step():
    trainer = make(clip_norm=1e-9)
    assert trainer.outer_step().meta_gradient_norm > 1e-9


def test_the_cosine_reaches_adam():
    trainer = make(outer_steps=4, meta_lr=0.01, meta_lr_schedule="cosine", validate_every=0)
    rates = []
    trainer.run(on_outer_step=lambda step: rates.append(step.meta_lr))
    assert rates == pytest.approx([0.01 * (1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)])


@pytest.mark.parametrize("task", ["quadratics", None])
def test_resuming_through_a_file_is_bit_for_bit(task, tmp_path):
    def build():
        family = None if task is None else make_task(task, dtype=torch.float64)
        return make(family=family, horizon="8..16")

    whole = build()
    whole.run()
    part = build()
    part.run(should_stop=lambda: part.outer_steps_done == 3)
    save_tree(part.state_dict(), tmp_path / "checkpoint")
    resumed = build()
    with torch.no_grad():
        for weight in resumed.rule.parameters():
            weight.zero_()
    resumed.load_state_dict(load_tree(tmp_path / "checkpoint"))
    resumed.run()
    assert resumed.outer_steps_done == 6
    assert resumed.best.metric == whole.best.metric
    assert resumed.best.outer_step == whole.best.outer_step
    for key, value in phi_of(whole).items():
        assert torch.equal(value, phi_of(resumed)[key])
    for (key, a), b in zip(whole.best_rule().named_parameters(), resumed.best_rule().parameters(), strict=True):
        assert torch.equal(a, b), key


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outer_steps": 0}, "outer_steps must be a positive integer; got 0"),
        ({"num_students": 0}, "num_students must be a positive integer; got 0"),
        ({"meta_lr": -1.0}, "meta_lr must be a positive number; got -1.0"),
        ({"clip_norm": 0.0}, "clip_norm must be a positive number; got 0.0"),
        ({"validate_every": -1}, "validate_every must not be negative; got -1"),
        ({"meta_lr_schedule": "step"}, "meta_lr_schedule must be 'constant' or 'cosine'; got 'step'"),
        ({"truncation_length": 3}, "truncation_length must divide horizon; got 3 and 8"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_memory_is_flat_over_200_truncation_windows():
    trainer = make(
        make_rule("rnnprop:hidden_size=8"),
        make_task("digits-mlp"),
        horizon=100,
        truncation_length=10,
        outer_steps=300,
        num_students=2,
        validate_every=0,
    )
    sizes = []
    for window in range(220):
        trainer.outer_step()
        if window >= 20 and window % 10 == 0:
            gc.collect()
            sizes.append(resident_bytes())
    early, late = max(sizes[:4]), max(sizes[-4:])
    assert late <= 1.02 * early, sizes


def test_an_average_of_phi_is_validated_and_kept_and_phi_goes_on_alone():
    """Of decay .5, but shorter while (1 + t) / (10 + t) is less than that."""
    plain, averaging = make(outer_steps=12, validate_every=0), make(outer_steps=12, validate_every=0, average_phi=0.5)
    expected = phi_of(plain)
    for number in range(12):
        decay = min(0.5, (1 + number) / (10 + number))
        plain.outer_step(), averaging.outer_step()
        expected = {key: value + decay * (expected[key] - value) for key, value in phi_of(plain).items()}
    for key, value in phi_of(averaging).items():
        assert torch.equal(value, phi_of(plain)[key])
        torch.testing.assert_close(averaging.averaged_phi[key], expected[key], rtol=1e-12, atol=1e-14)
        assert not torch.equal(averaging.averaged_phi[key], value)
    averaging.run()
    for key, weight in averaging.best_rule().named_parameters():
        assert torch.equal(weight, averaging.averaged_phi[key])
    averaged = averaging.best.metric
    averaging.options = replace(averaging.options, average_phi=0.0)
    assert averaging.validate().metric != averaged


def test_an_average_outside_of_its_bounds_is_named():
    with pytest.raises(ValueError, match=r"average_phi must lie in \[0, 1\); got 1.0, use e.g. 0.99, or 0 for none"):
        make(average_phi=1.0)


class _OffsetOnTest:
    """A quadratic whose test losses lie higher by 3, and whose test minimum is no other."""

    def sample(self, generator):
        return {"target": torch.randn(4, generator=generator)}

    def init_params(self, data, generator):
        return {"w": torch.randn(4, generator=generator)}

    def sample_batch(self, data, generator, split="train"):
        return {"offset": torch.tensor(3.0 if split == "test" else 0.0)}

    def loss(self, params, data, batch):
        return (params["w"] - data["target"]).square().sum() + batch["offset"]


def test_validation_is_on_the_split_of_the_meta_loss():
    metrics, rule = {}, small_rule("rnnprop")
    for split in ("train", "test"):
        estimator = TruncatedBackprop(horizon=20, truncation_length=10, meta_loss=MetaLoss(loss_on=split))
        trainer = MetaTrainer(rule, _OffsetOnTest(), estimator, outer_steps=1, validation_students=3)
        metrics[split] = trainer.validate().metric
    # The same students and steps: what is trained on does not change with what is looked at.
    assert metrics["test"] == pytest.approx(metrics["train"] + 3, rel=1e-5)
