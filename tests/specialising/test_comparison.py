"""Other tasks of the kind are named right, and what is saved is counted right."""

from dataclasses import replace

import numpy as np
import pytest

from l2l_opt.evaluation.results import Result, TaskEvaluation
from l2l_opt.evaluation.statistics import mean_and_interval
from l2l_opt.specialising.comparison import BEFORE, SPECIALISED, Comparison, changed
from l2l_opt.specialising.page import comparison_table


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        ("hidden=64", ("digits-mlp:hidden=64,layers=2", 250)),
        ("activation=relu", ("digits-mlp:hidden=16,layers=2,activation=relu", 250)),
        ("horizon=1000", ("digits-mlp:hidden=16,layers=2", 1000)),
        ("task=iris-mlp", ("iris-mlp", 250)),
    ],
)
def test_a_check_changes_one_thing(check, expected):
    assert changed("digits-mlp:hidden=16,layers=2", 250, check) == expected


@pytest.mark.parametrize("check", ["hidden", "=3", "horizon=0", "horizon=x", "task=nothing", "nothing=3"])
def test_a_check_that_cannot_be_is_refused(check):
    with pytest.raises(ValueError, match="must|unknown|got"):
        changed("digits-mlp", 250, check)


def test_an_option_of_a_mixture_is_refused():
    with pytest.raises(ValueError, match="of a mixture must be horizon=STEPS or task=TASK"):
        changed("digits-mlp + iris-mlp", 250, "hidden=3")


def comparison(ours, before, seconds_per_step=0.5):
    def evaluation(curve):
        curves = np.repeat(np.asarray(curve, dtype=np.float64)[:, None], 3, axis=1)
        final = curves[-10:].mean(axis=0).tolist()
        result = Result("task", len(curves), "learned", {}, final, *mean_and_interval(final), 1.0, curves, final)
        return TaskEvaluation("task", len(curves), [result])

    found = {SPECIALISED: evaluation(ours), BEFORE: evaluation(before)}
    return Comparison("task", len(ours), found, seconds_per_step)


def test_break_even_is_seconds_over_what_a_training_saves():
    before, ours = np.linspace(100, 1, 100), np.linspace(100, 1, 50).tolist() + [0.5] * 50
    found = comparison(ours, before)
    saved = found.steps_saved()
    assert 45 < saved < 55
    assert found.break_even(1000.0) == int(np.ceil(1000 / (0.5 * saved)))


def test_a_rule_that_is_behind_never_pays():
    before, ours = np.linspace(100, 1, 100), np.linspace(100, 50, 100)
    assert comparison(ours, before).break_even(10.0) is None
    change, (low, _) = comparison(ours, before).against(BEFORE)
    assert change > 0
    assert low > 0


def test_a_speed_up_that_was_not_measured_to_its_end_is_a_bound():
    found = comparison(np.linspace(100, 1, 100), np.linspace(100, 2, 100))
    for name, speed_ups in ((SPECIALISED, [1.5, 4.0, 3.5]), (BEFORE, [1.0, 3.0, 2.0])):
        found.evaluations[name] = replace(found.evaluations[name], speed_ups=speed_ups)
    table = comparison_table(found)
    assert [row[-1] for row in table.rows] == ["at least 3.00", "2.00"]
    assert "takes 4 times as many at most" in table.caption
