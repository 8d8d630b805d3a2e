"""Judging: tuning, intervals, and that the baselines are what they are called."""

import math

import numpy as np
import pytest
import torch

from l2l_opt.evaluation.baselines.tuning import BASELINES, Baseline, tune
from l2l_opt.evaluation.plots import curves_png
from l2l_opt.evaluation.results import evaluate
from l2l_opt.evaluation.statistics import mean_and_interval
from l2l_opt.randomness import Stream, make_generator
from l2l_opt.rules import make_rule
from l2l_opt.tasks import make_task
from l2l_opt.tasks.mixture import make_tasks
from tests.conftest import small_family


def test_the_mean_and_its_interval():
    values = np.random.default_rng(0).normal(5, 1, 400).tolist()
    mean, (low, high) = mean_and_interval(values)
    assert mean == pytest.approx(np.mean(values))
    assert low < mean < high
    assert high - low == pytest.approx(2 * 1.96 * np.std(values) / 20, rel=0.1)
    assert mean_and_interval(values) == mean_and_interval(values)


def test_intervals_of_hard_cases():
    assert mean_and_interval([2.0]) == (2.0, (2.0, 2.0))
    assert mean_and_interval([3.0, 3.0, 3.0]) == (3.0, (3.0, 3.0))
    assert mean_and_interval([1.0, math.nan]) == (math.inf, (math.inf, math.inf))


def test_the_named_baselines_are_there():
    assert [baseline.name for baseline in BASELINES] == ["sgd", "momentum", "rmsprop", "adam", "adam-cosine"]
    assert all(len(baseline.half_decades) == 7 for baseline in BASELINES)


def test_tuning_finds_the_best_of_its_grid():
    family = small_family()
    tuning = tune(Baseline("sgd", "sgd", range(-6, 1)), family, horizon=20, num_seeds=3, seed=0)
    assert tuning.figures[tuning.lr] == min(tuning.figures.values())
    assert min(tuning.figures) < tuning.lr < max(tuning.figures)
    ratios = [b / a for a, b in zip(list(tuning.figures)[:-1], list(tuning.figures)[1:], strict=True)]
    assert ratios == pytest.approx([math.sqrt(10)] * len(ratios))


def test_a_grid_that_misses_the_best_is_widened():
    family = small_family()
    wide = tune(Baseline("adam", "adam", range(-8, 1)), family, horizon=20, num_seeds=3, seed=0)
    for start in (range(-12, -9), range(2, 5)):
        narrow = tune(Baseline("adam", "adam", start), family, horizon=20, num_seeds=3, seed=0)
        assert narrow.lr == pytest.approx(wide.lr)
        assert len(narrow.figures) > 3


def test_a_diverging_rate_counts_as_infinite():
    tuning = tune(Baseline("sgd", "sgd", range(-6, 7)), make_task("quadratics:dim=3"), horizon=60, num_seeds=2, seed=0)
    assert math.inf in tuning.figures.values()
    assert math.isfinite(tuning.figures[tuning.lr])


def test_tuning_and_reporting_students_are_disjoint():
    draws = {
        stream: [float(torch.rand((), generator=make_generator(0, stream, n, 0))) for n in range(20)]
        for stream in Stream
    }
    values = [value for numbers in draws.values() for value in numbers]
    assert len(set(values)) == len(values)


@pytest.fixture(scope="module")
def results():
    torch.set_num_threads(1)
    return evaluate(
        make_rule("adam", lr=0.1),
        small_family(),
        task="small",
        horizons=[12, 24],
        num_seeds=3,
        tuning_seeds=2,
        seed=0,
        settings={"rule": "x"},
        baselines=BASELINES[:2],
    )


def test_results_hold_what_the_design_names(results):
    assert [(r.optimizer, r.horizon) for r in results] == [
        (n, h) for h in (12, 24) for n in ("learned", "sgd", "momentum")
    ]
    for result in results:
        record = result.record()
        assert set(record) == {
            "task",
            "horizon",
            "optimizer",
            "settings",
            "final_losses",
            "mean",
            "interval",
            "seconds",
        }
        assert len(record["final_losses"]) == 3
        assert record["mean"] == pytest.approx(np.mean(record["final_losses"]))
        assert record["interval"][0] <= record["mean"] <= record["interval"][1]
        assert record["seconds"] > 0
        tail = result.curves[-max(10, result.horizon // 10) :]
        np.testing.assert_allclose(record["final_losses"], tail.mean(axis=0), rtol=1e-9)


def test_all_optimizers_start_from_the_same_students_and_batches(results):
    for horizon in (12, 24):
        first = [result.curves[0] for result in results if result.horizon == horizon]
        for curve in first[1:]:
            np.testing.assert_allclose(curve, first[0], rtol=1e-12)


def test_diverged_losses_become_null_in_the_record():
    (result,) = evaluate(
        make_rule("sgd", lr=1e6),
        make_task("quadratics:dim=3"),
        task="q",
        horizons=[60],
        num_seeds=2,
        tuning_seeds=1,
        seed=0,
        settings={},
        baselines=(),
    )
    record = result.record()
    assert record["final_losses"] == [None, None]
    assert record["mean"] is None
    assert record["interval"] == [None, None]


def test_curves_are_a_png(results):
    content = curves_png(results)
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(content) > 20_000


def test_a_mixture_is_judged_on_students_of_several_architectures():
    """The same architectures for the rule and the baselines, one for each seed."""
    tasks = make_tasks("quadratics:dim=2..6 + digits-mlp:hidden=2,batch_size=4")
    adam = Baseline("adam", "adam", range(-2, -1))
    results = evaluate(
        make_rule("adam", lr=0.1),
        tasks,
        task="mixed",
        horizons=[12],
        num_seeds=5,
        tuning_seeds=2,
        seed=0,
        settings={},
        baselines=(adam,),
    )
    learned, tuned = (result.curves for result in results)
    np.testing.assert_allclose(learned[0], tuned[0], rtol=1e-6)
    assert np.ptp(np.log(learned[0])) > 0.5
