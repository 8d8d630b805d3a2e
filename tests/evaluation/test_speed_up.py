"""The definition of a speed-up, on curves whose speed-up is known."""

import numpy as np
import pytest

from l2l_opt.evaluation.speed_up import CAP, running_mean, speed_ups, steps_to_reach
from l2l_opt.inner_loop.training import tail_length


def line(steps, slope, seeds=1):
    """A loss that falls from 1000 by ``slope`` a step."""
    return np.repeat((1000 - slope * np.arange(steps, dtype=float))[:, None], seeds, axis=1)


def test_running_means_are_over_the_steps_before():
    means = running_mean(np.arange(12.0).reshape(6, 2), 3)
    np.testing.assert_allclose(means, [[2, 3], [4, 5], [6, 7], [8, 9]])


@pytest.mark.parametrize(("horizon", "length"), [(5, 5), (10, 10), (50, 10), (100, 10), (500, 50), (2000, 200)])
def test_the_tail_is_that_of_the_final_loss(horizon, length):
    assert tail_length(horizon) == length


@pytest.mark.parametrize(("slope", "speed_up"), [(1.0, 1.0), (2.0, 2.0), (0.5, 0.5), (3.99, 3.99), (6.0, 4.0)])
def test_falling_n_times_as_fast_is_a_speed_up_of_n_up_to_the_cap(slope, speed_up):
    horizon, length = 100, tail_length(100)
    final = line(horizon, slope)[-length:].mean(axis=0)
    steps = steps_to_reach(line(CAP * horizon, 1.0)[:, None, :], final, length)
    (found,) = speed_ups(final, np.array([1000.0]), steps, horizon=horizon)
    # A mean of 10 steps lies 5.5 steps behind, for both.
    assert found == pytest.approx(speed_up, abs=0.05 * max(1, speed_up))
    assert found <= CAP


def test_the_envelope_is_the_best_rate_for_each_student():
    curves = np.stack([line(400, 1.0, 2), line(400, 2.0, 2)], axis=1)
    curves[:, 1, 1] = np.nan
    steps = steps_to_reach(curves, np.array([800.0, 800.0]), 10)
    assert steps.tolist() == [106, 206]


def test_what_is_never_reached_takes_for_ever_and_counts_as_the_cap():
    steps = steps_to_reach(line(400, 1.0)[:, None, :], np.array([0.0]), 10)
    assert steps.tolist() == [np.inf]
    assert speed_ups(np.array([0.0]), np.array([1000.0]), steps, horizon=100).tolist() == [CAP]


@pytest.mark.parametrize("final", [np.nan, np.inf, 1201.0])
def test_a_diverged_rule_counts_as_nothing(final):
    steps = np.array([np.inf, 100.0])
    assert speed_ups(np.array([final, 5.0]), np.array([1000.0, 1000.0]), steps, horizon=50).tolist() == [0, 2]


def test_a_baseline_that_diverges_after_it_got_there_got_there():
    curves = line(400, 1.0)[:, None, :]
    curves[300:] = np.nan
    assert steps_to_reach(curves, np.array([900.0]), 10).tolist() == [106]
    assert steps_to_reach(curves, np.array([650.0]), 10).tolist() == [np.inf]


def test_a_rule_that_has_got_nowhere_is_slow_but_has_not_diverged():
    steps = steps_to_reach(line(400, 1.0)[:, None, :], np.array([1100.0]), 10)
    assert speed_ups(np.array([1100.0]), np.array([1000.0]), steps, horizon=100).tolist() == [0.1]
