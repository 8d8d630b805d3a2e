"""Evaluating on one task: tuning, intervals, and that the baselines are what they are called."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from l2l_opt.evaluation.baselines.tuning import BASELINES, Baseline, tune
from l2l_opt.evaluation.plots import curves_png
from l2l_opt.evaluation.statistics import interval_of_mean, mean_and_interval
from l2l_opt.evaluation.suite import evaluate_suite
from l2l_opt.evaluation.suites import Suite
from l2l_opt.evaluation.summary import as_json
from l2l_opt.evaluation.tables import tables_of
from l2l_opt.evaluation.task import SuiteConfig, TaskEvaluator
from l2l_opt.randomness import Stream, make_generator
from l2l_opt.rules import make_rule
from l2l_opt.tasks import make_task
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
    assert tuning.losses[tuning.lr] == min(tuning.losses.values())
    assert min(tuning.losses) < tuning.lr < max(tuning.losses)
    ratios = [b / a for a, b in zip(list(tuning.losses)[:-1], list(tuning.losses)[1:], strict=True)]
    assert ratios == pytest.approx([math.sqrt(10)] * len(ratios))


def test_a_grid_that_misses_the_best_is_widened():
    family = small_family()
    wide = tune(Baseline("adam", "adam", range(-8, 1)), family, horizon=20, num_seeds=3, seed=0)
    for start in (range(-12, -9), range(2, 5)):
        narrow = tune(Baseline("adam", "adam", start), family, horizon=20, num_seeds=3, seed=0)
        assert narrow.lr == pytest.approx(wide.lr)
        assert len(narrow.losses) > 3


def test_steps_of_the_grid_are_halved_around_the_best():
    family, how = small_family(), {"horizon": 20, "num_seeds": 3, "seed": 0}
    baseline = Baseline("sgd", "sgd", range(-6, 1))
    coarse, fine = tune(baseline, family, **how), tune(baseline, family, halvings=2, **how)
    tried = sorted(2 * math.log10(lr) for lr in fine.losses.keys() - coarse.losses.keys())
    first = 2 * math.log10(coarse.lr)
    assert len(tried) == 4
    assert {first - 0.5, first + 0.5} <= {round(k, 6) for k in tried}
    assert all(abs(k - first) <= 0.75 + 1e-9 for k in tried)
    assert {lr: fine.losses[lr] for lr in coarse.losses} == pytest.approx(coarse.losses)
    assert fine.losses[fine.lr] == min(fine.losses.values()) <= coarse.losses[coarse.lr]


def test_a_diverging_rate_counts_as_infinite():
    tuning = tune(Baseline("sgd", "sgd", range(-6, 7)), make_task("quadratics:dim=3"), horizon=60, num_seeds=2, seed=0)
    assert math.inf in tuning.losses.values()
    assert math.isfinite(tuning.losses[tuning.lr])


def test_tuning_and_reporting_students_are_disjoint():
    draws = {
        stream: [float(torch.rand((), generator=make_generator(0, stream, n, 0))) for n in range(20)]
        for stream in Stream
    }
    values = [value for numbers in draws.values() for value in numbers]
    assert len(set(values)) == len(values)


SMALL = "digits-mlp:hidden=3,batch_size=8"
CONFIG = SuiteConfig(
    num_seeds=3, tuning_seeds=2, baselines=("sgd", "momentum"), classical=True, dtype=torch.float64, cache=None
)


@pytest.fixture(scope="module")
def evaluations():
    torch.set_num_threads(1)
    evaluator = TaskEvaluator(SMALL, CONFIG)
    return [evaluator.evaluate(make_rule("adam", lr=0.1), horizon, {"rule": "x"}) for horizon in (12, 24)]


@pytest.fixture(scope="module")
def results(evaluations):
    return [result for own in evaluations for result in own.results]


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
            "test_losses",
            "test_mean",
            "test_interval",
            "accuracies",
            "accuracy_mean",
            "accuracy_interval",
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
    evaluator = TaskEvaluator("quadratics:dim=3", replace(CONFIG, num_seeds=2, baselines=(), dtype=torch.float32))
    (result,) = evaluator.evaluate(make_rule("sgd", lr=1e6), 60, {}).results
    record = result.record()
    assert record["final_losses"] == [None, None]
    assert record["mean"] is None
    assert record["interval"] == [None, None]


def test_curves_are_a_png(evaluations):
    content = curves_png(evaluations)
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(content) > 20_000


def test_a_mixture_is_evaluated_on_students_of_several_architectures():
    """The same architectures for the rule and the baselines, one for each seed."""
    config = replace(CONFIG, num_seeds=5, baselines=("adam",), dtype=torch.float32)
    evaluator = TaskEvaluator("quadratics:dim=2..6 + digits-mlp:hidden=2,batch_size=4", config)
    learned, tuned = (own.curves for own in evaluator.evaluate(make_rule("adam", lr=0.1), 12, {}).results)
    np.testing.assert_allclose(learned[0], tuned[0], rtol=1e-6)
    assert np.ptp(np.log(learned[0])) > 0.5


def test_a_task_is_a_suite_of_one(monkeypatch, tmp_path):
    """With AdamW the same numbers as without it, and all that suites add."""
    monkeypatch.setattr(
        "l2l_opt.evaluation.task.seconds_per_step",
        lambda *a, **k: {"learned": 2.0, "adamw": 1.0, "adamw_kind": "fused"},
    )
    rule, suite = make_rule("adam", lr=0.1), Suite(SMALL, (SMALL,))
    plain, more = (
        replace(CONFIG, horizons=(12,), baselines=baselines, cache=tmp_path)
        for baselines in (("sgd", "adam"), ("sgd", "adam", "adamw"))
    )
    contents = [
        as_json(evaluate_suite(rule, suite, config, settings={}), suite, config, {}) for config in (plain, more)
    ]
    (one, other) = ({row["optimizer"]: row for row in content["results"]} for content in contents)
    assert set(one) == {"learned", "sgd", "adam"}
    assert set(other) == {*one, "adamw", "adamw-constant"}
    assert all(other[name] == row for name, row in one.items())
    assert one["sgd"]["settings"]["rule"] == "sgd"
    assert contents[0]["speed_up"] == []
    assert "speed_up_steps" not in contents[0]["summary"][0]
    assert contents[1]["speed_up"][0]["seconds"] == pytest.approx([x / 2 for x in contents[1]["speed_up"][0]["steps"]])
    for content in contents:
        (optimizers, *rest) = tables_of(content)
        assert [row[0] for row in optimizers.rows] == sorted(
            (row["optimizer"] for row in content["results"]),
            key=lambda name: next(row["mean"] for row in content["results"] if row["optimizer"] == name),
        )
        assert [table.rows[0][0] for table in rest] == ["speed-up in steps"] * bool(content["speed_up"])
        place = optimizers.headings.index("loss ratio")
        ratios = dict(zip((row[0] for row in optimizers.rows), (row[place] for row in optimizers.rows), strict=True))
        assert float(ratios["sgd"]) == pytest.approx(one["sgd"]["mean"] / one["learned"]["mean"], rel=1e-2)


def test_intervals_along_an_axis_are_those_of_each_row():
    values = np.random.default_rng(0).normal(5, 1, (4, 7))
    low, high = interval_of_mean(values)
    for row, ends in zip(values, zip(low, high, strict=True), strict=True):
        assert mean_and_interval(row.tolist())[1] == pytest.approx(ends)
    alone = interval_of_mean(values[:, :1])
    assert all(np.array_equal(end, values[:, 0]) for end in alone)
