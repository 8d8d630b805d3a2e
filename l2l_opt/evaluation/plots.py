"""Pictures of an evaluation: training curves, a panel a task and horizon, and the performance profile."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from l2l_opt.evaluation.baselines.entries import ADAMW_CONSTANT
from l2l_opt.evaluation.results import Result, TaskEvaluation
from l2l_opt.evaluation.speed_up import running_mean
from l2l_opt.evaluation.statistics import interval_of_mean

LEARNED, OTHERS = "#000000", ("#4269d0", "#c76a15", "#3c8f5a", "#b3372e", "#7d5aa6", "#8a6d3b")
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2)))
"""Of the others' lines, so that colour is not all that distinguishes them."""
GRID = "#b0b0b0"
POINTS = 200
"""Of a curve that are drawn."""
SMOOTHED = 50
"""A curve is drawn as running means over its length divided by this."""


def line_style(index: int) -> dict[str, Any]:
    """Colour, dashes and width of a line; the first is the rule's."""
    if index == 0:
        return {"color": LEARNED, "linestyle": "-", "linewidth": 2.2, "zorder": 3}
    place = (index - 1) % len(OTHERS)
    return {"color": OTHERS[place], "linestyle": STYLES[place], "linewidth": 1.4}


def draw_curves(axis: Axes, results: Sequence[Result], names: Sequence[str], *, bands: bool = True) -> None:
    """Draw running means of training losses, the mean over seeds, in 95 % bootstrap intervals of it.

    Args:
        axis: to draw on.
        results: of one task and horizon, the learned rule's first.
        names: of all optimizers, whose places set their lines' styles.
        bands: draw the intervals too.
    """
    for result in results:
        length = max(1, result.horizon // SMOOTHED)
        curves = running_mean(result.curves, length)
        shown = np.unique(np.linspace(0, len(curves) - 1, POINTS).astype(int))
        steps, curves = shown + (length - 1) / 2, curves[shown]
        style = line_style(names.index(result.optimizer))
        axis.plot(steps, curves.mean(axis=1), label=result.optimizer, **style)
        if bands:
            low, high = interval_of_mean(curves, resamples=1000)
            axis.fill_between(steps, low, high, color=style["color"], alpha=0.15, linewidth=0)
    curves, first = [result.curves for result in results], float(np.mean(results[0].curves[0]))
    gained = first - min(float(np.nanmin(own.mean(axis=1), initial=np.inf)) for own in curves)
    logarithmic(axis, curves, top=first + max(abs(first), gained))


def logarithmic(axis: Axes, values: Sequence[np.ndarray], *, top: float = np.inf) -> None:
    """Make an axis logarithmic, if all values are positive, and cut it above, and far below, a value.

    Args:
        axis: with the values drawn.
        values: all of them.
        top: where to cut; nowhere where it is not finite or below all values.
    """
    least = min(np.nanmin(own, initial=np.inf) for own in values)
    positive, cut = 0 < least < np.inf, np.isfinite(top) and top > least
    if positive:
        axis.set_yscale("log")
    if cut:
        low, high = axis.get_ylim()
        axis.set_ylim(max(low, 1e-7 * top) if positive else low, min(high, top))


def curves_png(evaluations: Sequence[TaskEvaluation]) -> bytes:
    """Training loss against step: a row a task, a column a horizon; of a single task with intervals over seeds."""
    tasks = list(dict.fromkeys(own.task for own in evaluations))
    num_horizons, alone = len({own.horizon for own in evaluations}), len(tasks) == 1
    columns = num_horizons if alone else min(len(evaluations), num_horizons * max(1, 4 // num_horizons))
    rows = -(-len(evaluations) // columns)
    width, height = (6.4, 4.4) if alone else (3.6, 2.7)
    figure = Figure(figsize=(width * columns, height * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    names = list(dict.fromkeys(result.optimizer for own in evaluations for result in own.results))
    names = [name for name in names if name != ADAMW_CONSTANT.name]
    for axis in axes.flat[len(evaluations) :]:
        axis.remove()
    for axis, own in zip(axes.flat, evaluations, strict=False):
        results = [result for result in own.results if result.optimizer in names]
        draw_curves(axis, results, names, bands=alone)
        task = own.task if len(own.task) <= 42 else own.task[:39] + "..."
        axis.set_title(f"{task}, {own.horizon} steps", fontsize=10 if alone else 8)
        axis.tick_params(which="both", labelsize=9 if alone else 7)
        axis.set_xlabel("step", fontsize=9 if alone else 7)
        axis.grid(alpha=0.25, color=GRID)
    for axis in axes[:, 0]:
        axis.set_ylabel("training loss", fontsize=9 if alone else 8)
    lines = {str(line.get_label()): line for axis in figure.axes for line in axis.lines}
    figure.legend(list(lines.values()), list(lines), loc="outside upper center", ncols=8, fontsize=8, frameon=False)
    return _png(figure)


def profile_png(summaries: Sequence[dict[str, Any]]) -> bytes:
    """Return the fraction of tasks on which each optimizer is within a ratio of the best one: a panel a horizon."""
    figure = Figure(figsize=(5 * len(summaries), 3.6), layout="constrained")
    axes = figure.subplots(1, len(summaries), squeeze=False)[0]
    for axis, summary in zip(axes, summaries, strict=True):
        for index, (name, fractions) in enumerate(summary["profile"]["fractions"].items()):
            axis.step(summary["profile"]["ratios"], fractions, where="post", label=name, **line_style(index))
        axis.set(xscale="log", ylim=(0, 1.02), xlabel="final loss / best final loss on the task")
        axis.set(ylabel="fraction of tasks", title=f"{summary['tasks']} tasks, {summary['horizon']} steps")
        axis.grid(alpha=0.25, which="both")
        axis.legend(fontsize=7, loc="lower right")
    return _png(figure)


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return content.getvalue()
