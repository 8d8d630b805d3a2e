"""Plans of runs: what they predict, and what they refuse."""

import json
import subprocess
import sys

import pytest

from l2l_opt import NRES, FullES, MetaTrainer, TruncatedBackprop
from l2l_opt.memory import gibibytes
from l2l_opt.meta_training import planning
from l2l_opt.meta_training.planning import Plan, plan, plan_of_students
from l2l_opt.rules import make_rule
from l2l_opt.tasks.mixture import make_tasks
from tests.conftest import small_rule


def trainer(task="digits-mlp", estimator=None, rule="rnnprop", **options):
    return MetaTrainer(
        small_rule(rule), make_tasks(task), estimator or TruncatedBackprop(), outer_steps=10, num_students=2, **options
    )


def test_student_parameters_are_counted():
    assert plan(trainer(), with_time=False).student_parameters == (1510, 1510)
    mixed = plan(trainer("digits-mlp:hidden=2..5 + quadratics:dim=3..9"), with_time=False)
    assert mixed.student_parameters == (3, 64 * 5 + 5 + 5 * 10 + 10)


@pytest.mark.slow
def test_the_trainer_is_left_alone():
    one, other = trainer(), trainer()
    other.rule.load_state_dict(one.rule.state_dict())
    plan(one)
    a, b = one.outer_step(), other.outer_step()
    assert (a.meta_loss, a.meta_gradient_norm) == (b.meta_loss, b.meta_gradient_norm)


@pytest.mark.slow
def test_checkpointed_windows_need_less():
    """In processes of their own: one that has held more before finds room there."""

    def peak(length, *options):
        command = [sys.executable, "-m", "l2l_opt.cli", "meta-train", "--dry-run", "--json", "--rule", "compact"]
        command += ["--task", "digits-mlp:hidden=200", "--students", "2", "--validation-horizon", "20"]
        command += ["--horizon", str(length), "--truncation-length", str(length), *options]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["peak_bytes"]

    long, segmented = peak(150), peak(150, "--gradient-checkpointing")
    assert long > segmented + 80 * 2**20


def test_the_states_of_students_alone_bound_the_peak_from_below():
    def bound_of(truncation_length):
        estimator = TruncatedBackprop(horizon=100, truncation_length=truncation_length)
        tasks = make_tasks("digits-mlp:hidden=1000,layers=2")
        return plan_of_students(MetaTrainer(make_rule("lstm"), tasks, estimator, outer_steps=10, num_students=8))

    bound, less = bound_of(100), bound_of(20)
    count = bound.student_parameters[0]
    assert bound.peak_bytes > 8 * count * 4 * (100 + 2 * 81)
    assert bound.seconds_per_outer_step is None
    assert bound.peak_bytes - less.peak_bytes > 8 * count * 4 * 79


def test_what_cannot_fit_is_refused_with_both_numbers():
    fitting = Plan((1, 1), 2**30, 3 * 2**30, 1.0, 0)
    fitting.refuse_what_cannot_fit(3)
    with pytest.raises(ValueError, match=r"predicted peak of 4.00 GiB with 3.00 GiB available, use fewer --students"):
        fitting.refuse_what_cannot_fit(4)
    Plan((1, 1), 2**50, None, 1.0, 0).refuse_what_cannot_fit()


def test_students_without_room_are_never_started(monkeypatch):
    large = trainer("digits-mlp:hidden=4000", rule="compact")
    monkeypatch.setattr(planning, "available_bytes", planning.resident_bytes)
    found = plan(large)
    assert not found.fits()
    assert found.student_parameters == (64 * 4000 + 4000 + 4000 * 10 + 10,) * 2
    assert "students" not in vars(large)


@pytest.mark.slow
def test_large_students_are_probed_one_at_a_time(monkeypatch):
    seen = []
    original = planning._outer_step

    def record(trainer, tasks, steps, *, numbers, seed=0):
        seen.append((len(numbers), steps))
        return original(trainer, tasks, steps, numbers=numbers, seed=seed)

    monkeypatch.setattr(planning, "_outer_step", record)
    large = trainer("digits-mlp:hidden=4000", TruncatedBackprop(), rule="compact")
    just_their_states = plan_of_students(large).peak_bytes + 2**20
    monkeypatch.setattr(planning, "available_bytes", lambda device: just_their_states)
    found = plan(large)
    assert not found.fits()
    assert max(numbers for numbers, _ in seen) == 1
    assert max(steps for _, steps in seen) == 2


@pytest.mark.parametrize("estimator", [TruncatedBackprop(horizon=40), FullES(horizon="20..80"), NRES(horizon=40)])
def test_seconds_are_predicted_for_every_estimator(estimator):
    found = plan(trainer("quadratics", estimator))
    assert found.seconds_per_outer_step is not None
    assert 1e-4 < found.seconds_per_outer_step < 60
    assert found.available_bytes is not None
    assert found.peak_bytes > 50 * 2**20


def test_checkpoints_hold_phi_and_the_students():
    found = plan(trainer(rule="lstm"), with_time=False)
    students = 2 * 1510 * (1 + 2 * 2 * 4) * 4
    assert students < found.checkpoint_bytes < 1.3 * students + 50_000


def test_bytes_read_well():
    assert gibibytes(2.5 * 2**30) == "2.50 GiB"
    assert gibibytes(1.5 * 2**20) == "1.5 MiB"
