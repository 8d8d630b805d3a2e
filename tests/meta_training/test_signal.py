"""How much a run would learn, against what is known exactly."""

import pytest
import torch

from l2l_opt import NRES, MetaTrainer, TruncatedBackprop
from l2l_opt.meta_training.estimators import MetaLoss
from l2l_opt.meta_training.signal import CHANGE, measure_signal
from l2l_opt.rules import make_rule
from l2l_opt.tasks import make_task
from l2l_opt.tasks.mixture import make_tasks
from tests.conftest import small_rule

HORIZON, STUDENTS = 8, 200


def trainer_of(task, *, rule=None, estimator=None, students=STUDENTS):
    rule = make_rule("sgd", lr=0.02).double() if rule is None else rule
    estimator = estimator or NRES(horizon=HORIZON, truncation_length=2, sigma=0.01)
    return MetaTrainer(rule, make_tasks(task, dtype=torch.float64), estimator, num_students=students, outer_steps=5)


def test_where_there_is_one_weight_halves_agree_and_the_gain_is_the_derivative():
    found = measure_signal(trainer_of("quadratics:dim=2,init_scale=1.0"))
    assert found.weights == 1
    assert found.pairs == STUDENTS
    assert found.cosine > 0.99
    assert found.noise_free == pytest.approx(100 / 102)
    assert 1 < found.effective_pairs < STUDENTS
    # The mean over windows of the sum of their losses, differentiated by back-propagation through whole runs.
    whole = TruncatedBackprop(horizon=HORIZON, truncation_length=HORIZON, second_derivatives=True)
    rule = make_rule("sgd", lr=0.02).double()
    students = whole.init(
        rule, make_task("quadratics:dim=2,init_scale=1.0", dtype=torch.float64), num_students=2000, seed=1
    )
    exact = abs(float(whole.estimate(rule, students)[0].gradients["log_lr"])) / (HORIZON // 2)
    assert found.gain == pytest.approx(CHANGE * exact, rel=0.35)


def test_what_decides_is_named():
    found = measure_signal(
        trainer_of(
            "quadratics:dim=2,init_scale=100.0 + least-squares:dim=3",
            estimator=NRES(horizon=HORIZON, truncation_length=4, sigma=0.01, group_size=5),
        )
    )
    assert list(found.shares) == ["quadratics", "least-squares"]
    assert found.shares["quadratics"] > 0.99
    assert sum(found.shares.values()) == pytest.approx(1)
    even = NRES(horizon=HORIZON, truncation_length=4, sigma=0.01, group_size=5, balance="ranks")
    assert measure_signal(trainer_of("quadratics:init_scale=100.0 + least-squares", estimator=even)).gain is None


def test_many_weights_and_few_pairs_are_mostly_noise_and_the_trainer_is_as_before():
    rule = small_rule("rnnprop").double()
    estimator = NRES(horizon=HORIZON, truncation_length=4, sigma=0.01, meta_loss=MetaLoss("mean", "log"))
    trainer = trainer_of("quadratics:dim=2", rule=rule, estimator=estimator, students=16)
    before = {name: weight.detach().clone() for name, weight in rule.named_parameters()}
    steps = [one.inner_step for one in trainer.students.members]
    found = measure_signal(trainer)
    assert found.cosine < 0.9
    assert found.weights > 100
    assert found.noise_free < 0.1
    assert all(torch.equal(weight, before[name]) for name, weight in rule.named_parameters())
    assert [one.inner_step for one in trainer.students.members] == steps


def test_what_has_no_pairs():
    with pytest.raises(ValueError, match=r"antithetic pairs; got the estimator TruncatedBackprop, use"):
        measure_signal(trainer_of("quadratics", estimator=TruncatedBackprop(horizon=8, truncation_length=2)))
    with pytest.raises(ValueError, match=r"4 or more; got 2, use more --students"):
        measure_signal(trainer_of("quadratics", students=2))
