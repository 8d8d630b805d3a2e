"""A plan fits the minutes there are, and is decided before the first step."""

from dataclasses import replace

import pytest

from l2l_opt.rules import make_rule
from l2l_opt.specialising import plan as module
from l2l_opt.specialising.plan import Objective, longest_window, make_plan
from l2l_opt.specialising.stages import Stage
from l2l_opt.tasks import make_task
from tests.conftest import small_rule


def planned(monkeypatch, seconds_of_a_student, minutes, *, horizon=100):
    """The plan on a machine on which an outer step takes so many seconds a student."""

    def measured(trainer, clock):
        return seconds_of_a_student * trainer.options.num_students

    monkeypatch.setattr(module, "seconds_of_outer_step", measured)
    objective = Objective(horizon, "train", 0)
    return make_plan(make_rule("scale-free"), make_task("quadratics:dim=3"), objective, minutes=minutes)


@pytest.mark.parametrize("minutes", [2.0, 10.0, 60.0])
@pytest.mark.parametrize("seconds_of_a_student", [0.001, 0.02, 0.3])
def test_a_plan_takes_the_minutes_there_are_and_no_more(monkeypatch, seconds_of_a_student, minutes):
    stages = planned(monkeypatch, seconds_of_a_student, minutes)
    assert sum(stage.minutes for stage in stages) <= minutes
    for stage in stages:
        assert 1 <= stage.outer_steps <= Stage(stage.estimator).most_outer_steps


def test_a_slow_task_has_fewer_students_before_fewer_steps(monkeypatch):
    slow, fast = (planned(monkeypatch, seconds, 10.0)[0] for seconds in (0.1, 0.005))
    assert slow.students < fast.students
    assert slow.outer_steps >= 100


@pytest.mark.parametrize("seconds_of_a_student", [0.001, 0.05, 0.3])
def test_validations_take_a_quarter_of_the_time_at_most_and_are_two_at_least(monkeypatch, seconds_of_a_student):
    stage = planned(monkeypatch, seconds_of_a_student, 10.0)[0]
    of_validation = 2 * seconds_of_a_student * stage.validation_students / 2
    assert 2 <= stage.validations <= 8
    assert (stage.validations + 1) * of_validation <= 0.25 * 60 * 10 * 0.6


def test_a_slow_task_is_validated_less_often_and_on_fewer_students(monkeypatch):
    fast, slow = (planned(monkeypatch, seconds, 10.0)[0] for seconds in (0.001, 0.5))
    assert (fast.validations, fast.validation_students) == (8, 32)
    assert (slow.validations, slow.validation_students) == (4, 32)
    slowest = planned(monkeypatch, 5.0, 10.0)[0]
    assert (slowest.validations, slowest.validation_students) == (2, 8)


def test_a_window_divides_the_horizon():
    assert [longest_window(horizon, 50) for horizon in (250, 20, 97, 120)] == [50, 20, 1, 40]


def test_other_rules_are_meta_trained_by_truncated_backprop(monkeypatch):
    monkeypatch.setattr(module, "seconds_of_outer_step", lambda trainer, clock: 0.1)
    (stage,) = make_plan(small_rule("lstm"), make_task("quadratics:dim=3"), Objective(40, "train", 0), minutes=1.0)
    assert stage.estimator.startswith("tbptt")
    assert stage.truncation_length == 20


def test_stages_may_be_named(monkeypatch):
    monkeypatch.setattr(module, "seconds_of_outer_step", lambda trainer, clock: 0.1)
    stages = [Stage("nres:sigma=0.5", share=0.25, truncation_length=7), Stage("tbptt", share=0.75)]
    about = make_rule("scale-free"), make_task("quadratics:dim=3"), Objective(21, "train", 0)
    first, second = make_plan(*about, minutes=1.0, stages=stages)
    assert (first.estimator, first.truncation_length, second.estimator) == ("nres:sigma=0.5", 7, "tbptt")
    assert first.minutes < 0.25 < second.minutes < 0.75


def test_a_stage_that_may_take_more_outer_steps_keeps_its_students(monkeypatch):
    monkeypatch.setattr(module, "seconds_of_outer_step", lambda trainer, clock: 0.001 * trainer.options.num_students)
    about = make_rule("scale-free"), make_task("quadratics:dim=3"), Objective(20, "train", 0)
    few, many = (
        make_plan(*about, minutes=1.0, stages=[Stage("tbptt", students=8, most_outer_steps=most)])[0]
        for most in (600, 9000)
    )
    assert (few.students, many.students) == (89, 8)
    assert few.outer_steps <= 600 < many.outer_steps


def test_the_speed_is_as_measured_and_on_a_line_elsewhere():
    speed = module.Speed(lambda students: None if students > 64 else {4: 1.0, 32: 1.7, 64: 9.7}[students])
    speed.take(4)
    assert speed.of(8) == pytest.approx(2.0)
    speed.take(32)
    assert (speed.of(4), speed.of(32)) == (1.0, 1.7)
    assert (speed.of(16), speed.of(64)) == (pytest.approx(1.3), pytest.approx(2.5))
    assert speed.take(64)
    assert (speed.of(64), speed.of(48)) == (9.7, pytest.approx(5.7))
    assert not speed.take(128)
    assert speed.of(128) == pytest.approx(25.7)


def test_minutes_may_be_the_processors(monkeypatch):
    """A clock that stands still three quarters of the time leaves four times the outer steps."""
    monkeypatch.setattr(module, "seconds_of_outer_step", lambda trainer, clock: clock() * trainer.options.num_students)
    about = make_rule("scale-free"), make_task("quadratics:dim=3"), Objective(20, "train", 0)
    stages = [Stage("tbptt", students=8, most_outer_steps=100_000)]
    slow, fast = (
        make_plan(*about, minutes=1.0, stages=stages, clock=lambda seconds=seconds: seconds)[0]
        for seconds in (0.004, 0.001)
    )
    assert fast.outer_steps == pytest.approx(4 * slow.outer_steps, rel=0.02)


def test_students_are_doubled_as_far_as_that_leaves_the_most_steps_and_take_what_time_is_left(monkeypatch):
    """Up to 32 more students cost nothing, beyond they do."""

    def measured(trainer, clock):
        return 0.05 if trainer.options.num_students <= 32 else 0.005 * trainer.options.num_students

    monkeypatch.setattr(module, "seconds_of_outer_step", measured)
    about = make_rule("scale-free"), make_task("quadratics:dim=3"), Objective(20, "train", 0)
    (stage,) = make_plan(*about, minutes=2.0, stages=[Stage("tbptt", students=8)])
    assert stage.outer_steps == 600
    assert stage.students == 47
    between = 0.05 + (47 - 32) / 32 * (0.32 - 0.05)
    assert stage.seconds_per_outer_step == pytest.approx(between)
    assert stage.minutes > 1.7  # of 1.8: the rest is kept back


def test_students_that_do_not_fit_are_not_planned(monkeypatch):
    """Room for 16 students of some 100 bytes at most, of which 32 would be asked for."""
    monkeypatch.setattr(module, "seconds_of_outer_step", lambda trainer, clock: 0.001)
    real = module.plan_of_students

    def plan_of_students(trainer):
        plan = real(trainer)
        return replace(plan, available_bytes=plan.peak_bytes + (1 if trainer.options.num_students <= 16 else -1))

    monkeypatch.setattr(module, "plan_of_students", plan_of_students)
    about = make_rule("scale-free"), make_task("quadratics:dim=3"), Objective(20, "train", 0)
    (stage,) = make_plan(*about, minutes=1.0, stages=[Stage("tbptt", students=8)])
    assert stage.students == 16


def test_a_student_without_room_is_refused(monkeypatch):
    monkeypatch.setattr("l2l_opt.meta_training.planning.available_bytes", lambda device: 1000)
    with pytest.raises(ValueError, match="a run must fit into memory"):
        make_plan(make_rule("scale-free"), make_task("quadratics"), Objective(20, "train", 0), minutes=1.0)


@pytest.mark.parametrize("minutes", [0, -1, float("inf"), float("nan")])
def test_minutes_that_cannot_be_are_refused(minutes):
    with pytest.raises(ValueError, match="minutes must be a positive number; got"):
        make_plan(make_rule("scale-free"), make_task("quadratics"), Objective(20, "train", 0), minutes=minutes)


def test_a_training_of_one_step_is_refused():
    with pytest.raises(ValueError, match="horizon must be 2 steps or more; got 1"):
        Objective(1, "train", 0)


def test_losses_below_zero_are_not_taken_by_their_logarithm():
    rule, quadratic = small_rule("lstm"), make_task("quadratics:dim=3")
    assert Objective(10, "train", 0).suited_to(rule, quadratic).normalisation == "log"

    class Lower(type(quadratic)):
        def loss(self, params, data, batch):
            return super().loss(params, data, batch) - 100

    lower = Lower(dim=3)
    objective = Objective(10, "train", 0).suited_to(rule, lower)
    assert objective.normalisation == "none"
    stage = module.PlannedStage("tbptt", 1.0, 0.001, 0.0, 2, 10)
    assert objective.estimator(stage).meta_loss.clip is None
