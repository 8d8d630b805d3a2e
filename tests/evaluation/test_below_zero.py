"""Losses that fall below zero (log-densities, negative returns): no statement hangs on where their zero lies."""

import json

import numpy as np
import pytest

from l2l_opt.evaluation.plots import draw_curves
from l2l_opt.evaluation.results import Result, TaskEvaluation
from l2l_opt.evaluation.speed_up import speed_ups, steps_to_reach
from l2l_opt.evaluation.statistics import CEILING, mean_and_interval
from l2l_opt.evaluation.summary import summarise
from l2l_opt.evaluation.tables import optimizer_table
from tests.cli.test_errors import error_line, run  # noqa: F401

SHIFTS = pytest.mark.parametrize(("scale", "shift"), [(1.0, -1000.0), (1.0, -5.0), (100.0, -300.0), (1e-3, -1e-2)])


def evaluation(finals, *, first=8.0, scale=1.0, shift=0.0):
    """Two students under each optimizer, from a first loss to their final ones, in a unit and from a zero of choice."""
    results = []
    for name, losses in finals.items():
        final = scale * np.asarray(losses) + shift
        start = np.full(2, scale * first + shift)
        curves = np.linspace(start, np.where(np.isfinite(final), final, start), 20)
        results.append(
            Result("t", 20, name, {}, final.tolist(), *mean_and_interval(final.tolist()), 1.0, curves, final.tolist())
        )
    return TaskEvaluation("t", 20, results)


@pytest.mark.parametrize(
    ("ours", "theirs", "first", "ratio", "wins"),
    [
        (-91.5, -99.99, -50.0, 41.5 / 49.99, 0),
        (-99.99, -91.5, -50.0, 49.99 / 41.5, 1),
        (-2.0, 1.0, 4.0, 2.0, 1),
        (0.5, -1.0, 2.0, 0.5, 0),
        (-1.0, np.nan, 1.0, CEILING, 1),
        (np.inf, -3.0, 1.0, 1 / CEILING, 0),
        (-12.0, -14.0, -10.0, 0.5, 0),
        (-14.0, -12.0, -10.0, 2.0, 1),
        (-5.0, -14.0, -10.0, 1 / CEILING, 0),
    ],
)
def test_the_loss_ratio_is_of_progress(ours, theirs, first, ratio, wins):
    own = evaluation({"learned": [ours] * 2, "adam": [theirs] * 2}, first=first)
    (summary,) = summarise([own])
    for key in ("ratio", "test_ratio"):
        assert summary[key]["adam"]["geometric_mean"] == pytest.approx(ratio)
    assert summary["wins"]["adam"] == {"wins": wins, "tasks": 1}
    best = "learned" if wins else "adam"
    assert {name: fractions[0] for name, fractions in summary["profile"]["fractions"].items()} == {
        name: float(name == best) for name in ("learned", "adam")
    }
    table = optimizer_table(own.records())
    if "loss ratio" in table.headings:
        shown = {row[0]: row[table.headings.index("loss ratio")] for row in table.rows}
        assert shown == {"learned": "", "adam": f"{ratio:.3g}"}


@SHIFTS
def test_unit_and_zero_change_nothing(scale, shift):
    finals = {"learned": [3.0, 2.0], "adam": [1.0, 1.5], "sgd": [4.0, 7.0], "rmsprop": [1e30, np.nan]}
    one, other = (
        summarise([own])[0] for own in (evaluation(finals, shift=-9), evaluation(finals, scale=scale, shift=shift))
    )
    for key in ("ratio", "test_ratio"):
        for name, own in one[key].items():
            assert other[key][name]["geometric_mean"] == pytest.approx(own["geometric_mean"])
            assert other[key][name]["interval"] == pytest.approx(own["interval"])
    assert other["wins"] == one["wins"]
    assert other["profile"] == one["profile"]


def test_rounding_is_not_below_zero():
    assert not evaluation({"learned": [-1e-7, 0.0], "adam": [1e-3, 1e-3]}).falls_below_zero
    assert evaluation({"learned": [-1e-3, 0.0], "adam": [1e-3, 1e-3]}).falls_below_zero
    assert not evaluation({"learned": [-np.inf, 1.0], "adam": [1e-3, 1e-3]}).falls_below_zero


def test_where_nobody_makes_progress_all_are_level():
    own = evaluation({"learned": [-4.0, -4.0], "adam": [-3.0, np.inf]}, first=-5.0)
    (summary,) = summarise([own])
    assert summary["ratio"]["adam"]["geometric_mean"] == pytest.approx(1)


@SHIFTS
def test_speed_ups_are_the_same_wherever_zero_lies(scale, shift):
    curves = np.linspace(8.0, 0.5, 100)[:, None, None] * np.ones((1, 2, 3))
    final = np.array([1.0, 4.0, np.nan])
    found = []
    for a, b in ((1.0, 0.0), (scale, shift)):
        steps = steps_to_reach(a * curves + b, a * final + b, 10)
        found.append(speed_ups(a * final + b, a * np.full(3, 8.0) + b, steps, horizon=40).tolist())
    assert found[0] == found[1]
    assert found[0][2] == 0 < found[0][1] < found[0][0]


def test_a_loss_that_is_not_finite_is_reached_by_none():
    assert steps_to_reach(np.full((20, 1, 1), -5.0), np.array([-np.inf]), 10).tolist() == [np.inf]


@pytest.mark.parametrize(("final", "diverged"), [(-39.0, True), (-45.0, False), (60.0, True)])
def test_divergence_is_above_the_first_loss_though_that_is_negative(final, diverged):
    (found,) = speed_ups(np.array([final]), np.array([-50.0]), np.array([10.0]), horizon=100)
    assert (found == 0) == diverged


def test_curves_below_zero_are_drawn_on_a_linear_axis_that_divergence_does_not_stretch():
    from matplotlib.figure import Figure

    axis = Figure().subplots()
    own = evaluation({"learned": [-99.0, -98.0], "adam": [1e9, 1e9]}, first=-50.0)
    draw_curves(axis, own.results, ["learned", "adam"])
    assert axis.get_yscale() == "linear"
    assert axis.get_ylim()[0] < -98
    assert -50 < axis.get_ylim()[1] < 100


DENSITY = """
import torch
from torch import nn
from l2l_opt import ModuleTask, register_task
from l2l_opt.tasks.base import TASKS

def nll(outputs, targets):
    deviation = 0.01 + nn.functional.softplus(outputs[:, 1])
    return (0.5 * ((targets - outputs[:, 0]) / deviation) ** 2 + deviation.log()).mean()

def enter(name, unit, zero, inputs=torch.randn(100, 2, generator=torch.Generator().manual_seed(0))):
    make = lambda *, device="cpu", dtype=torch.float32: ModuleTask(
        nn.Linear(2, 2), lambda outputs, targets: unit * (nll(outputs, targets) - zero),
        (inputs, 0.2 * inputs[:, 0]), batch_size=16, device=device, dtype=dtype,
    )
    if name not in TASKS.names():  # a plugin runs anew in each command of this process
        register_task(name)(make)

enter("density", 1, 5)
enter("crossing", 1, 0.5)
enter("returns", 100, 5)
"""


@pytest.mark.slow
@pytest.mark.parametrize("task", ["density", "crossing", "returns"])
def test_the_command_line_names_below_zero_and_compares_progress(run, tmp_path, task):  # noqa: F811
    (tmp_path / "plugin.py").write_text(DENSITY)
    start = ["--task", task, "--plugin", "plugin.py", "--horizon", 40]
    small = [*start, "--seeds", 2, "--tuning-seeds", 1, "--baselines", "adam", "--cache", "cache", "--out", "out"]
    code, out, _ = run("evaluate", "default-1", *small)
    assert code == 0
    assert f"{task}: losses fall below zero" in out
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    learned, adam = content["results"]
    better = learned["mean"] <= adam["mean"]
    assert content["summary"][0]["wins"]["adam"]["wins"] == better
    assert (adam["loss_ratio"] >= 1) == better

    few = ["--rule", "rnnprop:hidden_size=2", "--students", 2, "--validation-students", 2, "--outer-steps", 2]
    code, _, err = run("meta-train", *few, *start, "--normalisation", "log", "--out", "run")
    assert code == 2  # found by the probe of memory, before the run
    line = error_line(err)
    assert "below zero" in line
    assert "--normalisation none" in line
    assert not list((tmp_path / "run").rglob("*.safetensors"))
