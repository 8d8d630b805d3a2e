"""Statistics over tasks and seeds against values worked out by hand and known distributions."""

import numpy as np
import pytest

from l2l_opt.evaluation.statistics import (
    CEILING,
    FLOOR,
    bounded,
    even_log_ratios,
    geometric_mean_ratio,
    interquartile_mean,
    performance_profile,
    stratified_interval,
)


def test_losses_are_kept_between_a_floor_and_a_ceiling_of_the_initial_one():
    losses = np.array([0.0, 1e-9, 1.0, 5e4, np.inf, np.nan, -np.inf])
    expected = [2 * FLOOR, 2 * FLOOR, 1.0, *[2 * CEILING] * 4]
    np.testing.assert_allclose(bounded(losses, 2.0), expected)


def test_the_geometric_mean_of_ratios_by_hand():
    theirs = np.array([[2.0, 4.0], [1.0, 1.0]])
    ours = np.array([[1.0, 1.0], [2.0, 4.0]])
    assert geometric_mean_ratio(theirs, ours) == pytest.approx(1.0)
    assert geometric_mean_ratio(theirs[:1], ours[:1]) == pytest.approx(3.0)
    assert geometric_mean_ratio(theirs, theirs / 2) == pytest.approx(2.0)


def test_the_interquartile_mean_by_hand():
    values = np.array([[100.0, 3.0, 4.0, 0.0], [5.0, 6.0, -50.0, 2.0]])
    assert interquartile_mean(values) == pytest.approx((2 + 3 + 4 + 5) / 4)
    assert interquartile_mean(np.stack([values, values + 1])).tolist() == pytest.approx([3.5, 4.5])


def test_the_interval_of_a_mean_over_tasks_is_as_wide_as_in_theory():
    generator = np.random.default_rng(1)
    tasks = generator.normal(5, 1, (200, 1)) + generator.normal(0, 0.3, (200, 5))
    low, high = stratified_interval(lambda x: x.mean(axis=(1, 2)), tasks)
    # Between tasks, and within them by resampling seeds once more.
    variance = tasks.mean(axis=1).var() / 200 + tasks.var(axis=1).mean() / 5 / 200
    assert low < 5 < high
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.05)


def test_intervals_cover_the_truth_as_often_as_they_say():
    generator = np.random.default_rng(2)
    mean = lambda x: x.mean(axis=(1, 2))  # noqa: E731
    samples = [generator.normal(0, 1, (30, 1)) + generator.normal(0, 0.3, (30, 3)) for _ in range(200)]
    covered = [low < 0 < high for low, high in (stratified_interval(mean, own, resamples=500) for own in samples)]
    assert 0.89 < np.mean(covered) < 0.99


def test_paired_samples_are_drawn_alike():
    values = np.random.default_rng(0).lognormal(0, 3, (10, 4))
    low, high = stratified_interval(geometric_mean_ratio, values, values / 2)
    assert low == pytest.approx(2)
    assert high == pytest.approx(2)


def test_intervals_are_the_same_every_time():
    values = np.random.default_rng(0).normal(size=(6, 3))
    assert stratified_interval(interquartile_mean, values) == stratified_interval(interquartile_mean, values)


def test_a_profile_by_hand():
    losses = np.array([[1.0, 4.0, 1.0], [2.0, 2.0, np.nan]])
    profile = performance_profile(losses, np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(profile, [[2 / 3, 1, 1], [1 / 3, 2 / 3, 2 / 3]])


def test_even_log_ratios_are_capped_task_by_task():
    theirs = np.array([[2.0, 4.0], [1.0, 1.0], [1e3, 1e3]])
    ours = np.array([[2.0, 2.0], [1e3, 1.0], [1.0, 1.0]])
    np.testing.assert_allclose(even_log_ratios(theirs, ours), [np.log(1.5), -0.7, 0.7])
