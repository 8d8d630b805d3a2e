"""Pictures of unrolls and of rules, as matplotlib figures; the same ones go to TensorBoard and into reports."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from l2l_opt.evaluation.results import Result
from l2l_opt.evaluation.speed_up import running_mean
from l2l_opt.inspection.measures.response import ResponseSurface
from l2l_opt.inspection.measures.trace import CoordinateTrace
from l2l_opt.inspection.pictures.watched_run import WatchedRun

LEARNED, OTHERS = "#000000", ("#4269d0", "#c76a15", "#3c8f5a", "#b3372e", "#7d5aa6", "#8a6d3b")
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2)))
"""Of the others' lines, so that colour is not all that tells them apart."""
GRID, MUTED, ON_COLOURS = "#b0b0b0", "#808080", "#202020"
DIVERGING = "RdBu_r"
WIDTH = 5.4
"""Inches: readable on a phone too."""
RESAMPLES = 1000
POINTS = 200
"""Of a curve that are drawn."""


def loss_curves(runs: Sequence[WatchedRun], *, title: str) -> Figure:
    """Training loss against step on a logarithmic axis, the first run bold; thin lines are steps, thick ones means."""
    figure = Figure(figsize=(WIDTH, 3.5), layout="constrained")
    axis = figure.subplots()
    for index, run in enumerate(runs):
        losses = np.asarray(run.losses)
        length = max(1, len(losses) // 50)
        smooth = np.convolve(losses, np.full(length, 1 / length), mode="valid")
        colour, style, width = _style(index)
        axis.plot(losses, color=colour, alpha=0.18, linewidth=0.7)
        steps = np.arange(len(smooth)) + (length - 1) / 2
        axis.plot(steps, smooth, color=colour, linestyle=style, linewidth=width, label=run.optimizer)
    if all(np.nanmin(run.losses) > 0 for run in runs):
        axis.set_yscale("log")
    first = max(run.losses[0] for run in runs)
    if np.isfinite(first) and first > 0:
        axis.set_ylim(top=min(axis.get_ylim()[1], 3 * first))
    axis.set(xlabel="step", ylabel="training loss", title=title)
    axis.grid(alpha=0.25, color=GRID)
    axis.legend(frameon=False)
    return figure


def interval_curves(results: Sequence[Result], *, title: str) -> Figure:
    """Running means of the training loss over seeds, the first result bold, in 95 % bootstrap intervals of the mean."""
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    axis = figure.subplots()
    for index, result in enumerate(results):
        length = max(1, result.horizon // 50)
        curves = running_mean(result.curves, length)
        shown = np.unique(np.linspace(0, len(curves) - 1, POINTS).astype(int))
        steps, curves = shown + (length - 1) / 2, curves[shown]
        low, high = bootstrap_band(curves)
        colour, style, width = _style(index)
        axis.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
        axis.plot(steps, curves.mean(axis=1), color=colour, linestyle=style, linewidth=width, label=result.optimizer)
    top = 2 * float(np.mean(results[0].curves[0]))
    if all(np.nanmin(result.curves) > 0 for result in results):
        axis.set_yscale("log")
    if np.isfinite(top) and top > 0:
        axis.set_ylim(top=min(axis.get_ylim()[1], top))
    axis.set(xlabel="step", ylabel="training loss", title=title)
    axis.grid(alpha=0.25, color=GRID)
    axis.legend(frameon=False, ncols=2, fontsize=8)
    return figure


def bootstrap_band(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % percentile bootstrap interval of the mean over seeds: ``[steps, seeds]`` -> ``[steps]`` twice."""
    seeds = curves.shape[1]
    chosen = np.random.default_rng(0).integers(seeds, size=(RESAMPLES, seeds))
    low, high = np.quantile(curves[:, chosen].mean(axis=2), [0.025, 0.975], axis=1)
    return low, high


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
    """What a scale of colours has to reach."""
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
    """Norms of meta-gradients against the step of the window at which the update was made."""
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    axis = figure.subplots()
    axis.plot(np.arange(1, len(norms) + 1), norms, color=OTHERS[0])
    if (norms > 0).all():
        axis.set_yscale("log")
    axis.set(xlabel="inner step of the window", ylabel="norm of the meta-gradient", title=title)
    axis.grid(alpha=0.25, color=GRID)
    return figure


def before_and_after(first: np.ndarray, now: np.ndarray, *, outer_steps: tuple[int, int]) -> Figure:
    """Mean losses of the validation students under the rule as it began and as it is now."""
    figure = Figure(figsize=(WIDTH, 3.5), layout="constrained")
    axis = figure.subplots()
    for curve, outer_step, style in ((first, outer_steps[0], OTHERS[0]), (now, outer_steps[1], LEARNED)):
        axis.plot(np.arange(len(curve)), curve, color=style, label=f"outer step {outer_step}")
    if min(np.nanmin(first), np.nanmin(now)) > 0:
        axis.set_yscale("log")
    axis.set(xlabel="inner step", ylabel="mean loss of validation students")
    axis.grid(alpha=0.25, color=GRID)
    axis.legend(frameon=False)
    return figure


def over_outer_steps(series: Mapping[str, tuple[np.ndarray, np.ndarray]], *, label: str, log: bool = False) -> Figure:
    """One quantity of meta-training, a line a name; long noisy lines are drawn thin under their running mean."""
    figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
    axis = figure.subplots()
    for index, (name, (steps, values)) in enumerate(series.items()):
        colour, style, _ = _style(index + 1)
        length = len(values) // 40
        smooth = length > 1
        axis.plot(
            steps,
            values,
            color=colour,
            linestyle=style,
            alpha=0.25 if smooth else 1,
            linewidth=1,
            label=None if smooth else name,
        )
        if smooth:
            means = np.convolve(values, np.full(length, 1 / length), mode="valid")
            axis.plot(steps[length - 1 :], means, color=colour, linestyle=style, linewidth=1.6, label=name)
    if log and all((values > 0).all() for _, values in series.values()):
        axis.set_yscale("log")
    axis.set(xlabel="outer step", ylabel=label)
    axis.grid(alpha=0.25, color=GRID)
    if len(series) > 1:
        axis.legend(frameon=False, fontsize=8)
    return figure


def _style(index: int) -> tuple[str, Any, float]:
    """Colour, dashes and width of a line; the first is the rule's."""
    if index == 0:
        return LEARNED, "-", 2.2
    return OTHERS[(index - 1) % len(OTHERS)], STYLES[(index - 1) % len(STYLES)], 1.4


def _history(surface: ResponseSurface) -> str:
    return f"after {surface.history} gradients" + (f", noise {surface.noise:g}" if surface.noise else ", no noise")
