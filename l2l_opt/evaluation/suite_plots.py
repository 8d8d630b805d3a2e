"""Pictures of a suite: a panel of curves a task and horizon, and the performance profile."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np

from l2l_opt.evaluation.speed_up import running_mean
from l2l_opt.evaluation.task import TaskJudgement

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.figure import Figure

COLOURS = {
    "learned": "black",
    "adamw": "C0",
    "sgd": "C1",
    "adam": "C2",
    "muon": "C3",
    "schedule-free": "C4",
    "prodigy": "C5",
}
POINTS = 200
SMOOTHED = 0.02
"""Of a curve's steps: the running mean that is drawn."""


def small_multiples_png(judgements: Sequence[TaskJudgement]) -> bytes:
    """Training loss against step, the mean over seeds: a row a task, a column a horizon; each line a running mean."""
    tasks = list(dict.fromkeys(own.task for own in judgements))
    horizons = list(dict.fromkeys(own.horizon for own in judgements))
    panels = len(tasks) * len(horizons)
    columns = min(panels, len(horizons) * max(1, 4 // len(horizons)))
    rows = -(-panels // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(3.6 * columns, 2.7 * rows + 0.5), squeeze=False)
    for axis in axes.flat[panels:]:
        axis.remove()
    lines = {}
    for axis, judgement in zip(axes.flat, judgements, strict=False):
        for result in judgement.results:
            if result.optimizer not in COLOURS:
                continue
            length = max(1, int(SMOOTHED * judgement.horizon))
            curve = running_mean(result.curves, length).mean(axis=1)
            steps = np.arange(len(curve)) + (length - 1) / 2
            shown = np.unique(np.linspace(0, len(curve) - 1, POINTS).astype(int))
            width = 1.9 if result.optimizer == "learned" else 1.0
            order = 3 if result.optimizer == "learned" else 2
            (line,) = axis.plot(
                steps[shown], curve[shown], color=COLOURS[result.optimizer], linewidth=width, zorder=order
            )
            lines.setdefault(result.optimizer, line)
        top = 2 * max(judgement.first_losses)
        axis.set_yscale("log")
        if np.isfinite(top) and top > 0:
            low, high = axis.get_ylim()
            axis.set_ylim(max(low, 1e-7 * top), min(high, top))
        axis.set_title(f"{_short(judgement.task)}, {judgement.horizon} steps", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.25)
    for axis in axes[:, 0]:
        axis.set_ylabel("training loss", fontsize=8)
    figure.legend(list(lines.values()), list(lines), loc="upper center", ncols=len(lines), fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.3 / (2.7 * rows + 0.5)))
    return _png(figure)


def profile_png(summaries: Sequence[dict[str, Any]]) -> bytes:
    """The fraction of tasks on which each optimizer is within a ratio of the best one: a panel a horizon."""
    figure, axes = pyplot.subplots(1, len(summaries), figsize=(5 * len(summaries), 3.6), squeeze=False)
    for axis, summary in zip(axes[0], summaries, strict=True):
        ratios = summary["profile"]["ratios"]
        for name, fractions in summary["profile"]["fractions"].items():
            width = 2.2 if name == "learned" else 1.2
            axis.step(ratios, fractions, where="post", label=name, color=COLOURS.get(name), linewidth=width)
        axis.set_xscale("log")
        axis.set_ylim(0, 1.02)
        axis.set_xlabel("final loss / best final loss on the task")
        axis.set_ylabel("fraction of tasks")
        axis.set_title(f"{summary['tasks']} tasks, {summary['horizon']} steps", fontsize=10)
        axis.grid(alpha=0.25, which="both")
        axis.legend(fontsize=7, loc="lower right")
    figure.tight_layout()
    return _png(figure)


def _short(task: str) -> str:
    return task if len(task) <= 42 else task[:39] + "..."


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    pyplot.close(figure)
    return content.getvalue()
