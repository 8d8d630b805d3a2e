"""Pictures of unrolls and of rules, as matplotlib figures; the same ones go to TensorBoard and into reports."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from l2l_opt.evaluation.plots import GRID, LEARNED, OTHERS, SMOOTHED, draw_curves, line_style, logarithmic
from l2l_opt.evaluation.results import Result
from l2l_opt.evaluation.speed_up import running_mean
from l2l_opt.inspection.measures.response import ResponseSurface
from l2l_opt.inspection.measures.trace import CoordinateTrace
from l2l_opt.inspection.pictures.watched_run import WatchedRun

MUTED, ON_COLOURS = "#808080", "#202020"
DIVERGING = "RdBu_r"
WIDTH = 5.4
"""Inches: readable on a phone too."""


def loss_curves(runs: Sequence[WatchedRun], *, title: str) -> Figure:
    """Draw training loss against step, the first run bold; thin lines are steps, thick ones running means."""
    figure, axis = _chart("step", "training loss", title=title)
    for index, run in enumerate(runs):
        losses, style = np.asarray(run.losses), line_style(index)
        length = max(1, len(losses) // SMOOTHED)
        smooth = running_mean(losses, length)
        axis.plot(losses, color=style["color"], alpha=0.18, linewidth=0.7)
        axis.plot(np.arange(len(smooth)) + (length - 1) / 2, smooth, label=run.optimizer, **style)
    first = max(run.losses[0] for run in runs)
    logarithmic(axis, [np.asarray(run.losses) for run in runs], top=first + 2 * abs(first))
    axis.legend(frameon=False)
    return figure


def interval_curves(results: Sequence[Result], *, title: str) -> Figure:
    """Draw running means of the training loss over seeds, in 95 % bootstrap intervals of the mean."""
    figure, axis = _chart("step", "training loss", title=title, height=3.8)
    draw_curves(axis, results, [result.optimizer for result in results])
    axis.legend(frameon=False, ncols=2, fontsize=8)
    return figure


def hidden_heat_map(trace: CoordinateTrace, *, most: int = 4) -> Figure | None:
    """Hidden units of a sample of coordinates (rows) over steps (columns); None where a rule has none."""
    values = trace.hidden.get("hidden")
    if values is None:
        return None
    chosen = np.unique(np.linspace(0, len(trace.names) - 1, min(most, len(trace.names))).astype(int))
    figure = Figure(figsize=(WIDTH, 1.2 + len(chosen)), layout="constrained")
    axes = figure.subplots(len(chosen), 1, squeeze=False, sharex=True)[:, 0]
    image = None
    for axis, index in zip(axes, chosen, strict=True):
        image = axis.imshow(
            values[:, :, index].T, aspect="auto", interpolation="nearest", cmap=DIVERGING, vmin=-1, vmax=1
        )
        axis.set_title(trace.names[index], fontsize=9, loc="left")
        axis.set_ylabel("unit", fontsize=8)
        axis.tick_params(labelsize=8)
    axes[-1].set_xlabel("step")
    if image is not None:
        figure.colorbar(image, ax=list(axes), label="hidden state", fraction=0.03)
    return figure


def trajectory(trace: CoordinateTrace, index: int) -> Figure:
    """One coordinate's way: its value, its gradient and its update at every step."""
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    for axis, values, label in zip(
        axes, (trace.params, trace.gradients, trace.updates), ("parameter", "gradient", "update"), strict=True
    ):
        axis.plot(values[:, index], color=OTHERS[0], linewidth=1.1)
        axis.set_ylabel(label)
        axis.grid(alpha=0.25, color=GRID)
        if label != "parameter":
            axis.axhline(0, color=MUTED, linewidth=0.6)
    axes[0].set_title(trace.names[index], loc="left", fontsize=10)
    axes[-1].set_xlabel("step")
    return figure


def largest_update(surfaces: Sequence[ResponseSurface]) -> float:
    """Return what a scale of colours has to reach."""
    return max(float(surface.updates.abs().nan_to_num(posinf=0).max()) for surface in surfaces) or 1.0


def response_surfaces(surfaces: Sequence[ResponseSurface], *, largest: float | None = None) -> Figure:
    """Update as a function of the gradient and of the mean gradient before, a panel a surface, one scale of colours.

    Args:
        surfaces: one or more.
        largest: end of the scale; that of the largest update where None.
    """
    largest = largest_update(surfaces) if largest is None else largest
    figure = Figure(figsize=(4.2 * len(surfaces), 3.9), layout="constrained")
    axes = figure.subplots(1, len(surfaces), squeeze=False)[0]
    image = None
    for axis, surface in zip(axes, surfaces, strict=True):
        past, present = surface.past.numpy(), surface.present.numpy()
        image = axis.pcolormesh(
            present, past, surface.updates.numpy(), cmap=DIVERGING, vmin=-largest, vmax=largest, rasterized=True
        )
        if float(surface.updates.abs().max()) > 0:
            axis.contour(present, past, surface.updates.numpy(), levels=[0.0], colors=ON_COLOURS, linewidths=0.8)
        axis.set(xlabel="gradient now", title=_history(surface))
    axes[0].set_ylabel("mean gradient before")
    if image is not None:
        figure.colorbar(image, ax=list(axes), label="update", fraction=0.04)
    return figure


def by_position(norms: np.ndarray, *, title: str) -> Figure:
    """Draw norms of meta-gradients against the step of the window at which the update was made."""
    figure, axis = _chart("inner step of the window", "norm of the meta-gradient", title=title)
    axis.plot(np.arange(1, len(norms) + 1), norms, color=OTHERS[0])
    logarithmic(axis, [norms])
    return figure


def before_and_after(first: np.ndarray, now: np.ndarray, *, outer_steps: tuple[int, int]) -> Figure:
    """Draw mean losses of the validation students under the rule as it began and as it is now."""
    figure, axis = _chart("inner step", "mean loss of validation students")
    for curve, outer_step, colour in ((first, outer_steps[0], OTHERS[0]), (now, outer_steps[1], LEARNED)):
        axis.plot(np.arange(len(curve)), curve, color=colour, label=f"outer step {outer_step}")
    logarithmic(axis, [first, now])
    axis.legend(frameon=False)
    return figure


def over_outer_steps(series: Mapping[str, tuple[np.ndarray, np.ndarray]], *, label: str, log: bool = False) -> Figure:
    """Draw one quantity of meta-training, a line a name; long noisy lines are thin under their running mean."""
    figure, axis = _chart("outer step", label)
    for index, (name, (steps, values)) in enumerate(series.items()):
        style = line_style(index + 1)
        length = len(values) // 40
        if length > 1:
            axis.plot(steps, values, color=style["color"], linestyle=style["linestyle"], alpha=0.25, linewidth=1)
            steps, values = steps[length - 1 :], running_mean(values, length)
        axis.plot(steps, values, label=name, **style)
    if log:
        logarithmic(axis, [values for _, values in series.values()])
    if len(series) > 1:
        axis.legend(frameon=False, fontsize=8)
    return figure


def _chart(x: str, y: str, *, title: str = "", height: float = 3.5) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axis = figure.subplots()
    axis.set(xlabel=x, ylabel=y, title=title)
    axis.grid(alpha=0.25, color=GRID)
    return figure, axis


def _history(surface: ResponseSurface) -> str:
    return f"after {surface.history} gradients" + (f", noise {surface.noise:g}" if surface.noise else ", no noise")
