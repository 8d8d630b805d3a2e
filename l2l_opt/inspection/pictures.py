"""Pictures of unrolls and of rules, as matplotlib figures; the same ones go to TensorBoard and into reports."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from l2l_opt.inspection.response import ResponseSurface
from l2l_opt.inspection.trace import CoordinateTrace
from l2l_opt.inspection.watched_run import WatchedRun

LEARNED, OTHERS = "#000000", ("#4269d0", "#c76a15", "#3c8f5a", "#b3372e", "#7d5aa6", "#8a6d3b")
DIVERGING = "RdBu_r"


def loss_curves(runs: Sequence[WatchedRun], *, title: str) -> Figure:
    """Training loss against step on a logarithmic axis, the first run bold; thin lines are steps, thick ones means."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for index, run in enumerate(runs):
        losses = np.asarray(run.losses)
        length = max(1, len(losses) // 50)
        smooth = np.convolve(losses, np.full(length, 1 / length), mode="valid")
        colour = LEARNED if index == 0 else OTHERS[(index - 1) % len(OTHERS)]
        axis.plot(losses, color=colour, alpha=0.18, linewidth=0.7)
        steps = np.arange(len(smooth)) + (length - 1) / 2
        axis.plot(steps, smooth, color=colour, linewidth=2.2 if index == 0 else 1.3, label=run.optimizer)
    if all(np.nanmin(run.losses) > 0 for run in runs):
        axis.set_yscale("log")
    first = max(run.losses[0] for run in runs)
    if np.isfinite(first) and first > 0:
        axis.set_ylim(top=min(axis.get_ylim()[1], 3 * first))
    axis.set(xlabel="step", ylabel="training loss", title=title)
    axis.grid(alpha=0.25)
    axis.legend(frameon=False)
    return figure


def hidden_heat_map(trace: CoordinateTrace, *, most: int = 4) -> Figure | None:
    """Hidden units of a sample of coordinates (rows) over steps (columns); None where a rule has none."""
    values = trace.hidden.get("hidden")
    if values is None:
        return None
    chosen = np.unique(np.linspace(0, len(trace.names) - 1, min(most, len(trace.names))).astype(int))
    figure = Figure(figsize=(7, 1.2 + 1.1 * len(chosen)), layout="constrained")
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
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    for axis, values, label in zip(
        axes, (trace.params, trace.gradients, trace.updates), ("parameter", "gradient", "update"), strict=True
    ):
        axis.plot(values[:, index], color=OTHERS[0], linewidth=1.1)
        axis.set_ylabel(label)
        axis.grid(alpha=0.25)
        if label != "parameter":
            axis.axhline(0, color="grey", linewidth=0.6)
    axes[0].set_title(trace.names[index], loc="left", fontsize=10)
    axes[-1].set_xlabel("step")
    return figure


def response_surfaces(surfaces: Sequence[ResponseSurface]) -> Figure:
    """Update as a function of the gradient and of the mean gradient before, a panel a surface, one scale of colours."""
    figure = Figure(figsize=(4.2 * len(surfaces), 3.9), layout="constrained")
    axes = figure.subplots(1, len(surfaces), squeeze=False)[0]
    largest = max(float(surface.updates.abs().nan_to_num(posinf=0).max()) for surface in surfaces) or 1.0
    image = None
    for axis, surface in zip(axes, surfaces, strict=True):
        past, present = surface.past.numpy(), surface.present.numpy()
        image = axis.pcolormesh(
            present, past, surface.updates.numpy(), cmap=DIVERGING, vmin=-largest, vmax=largest, rasterized=True
        )
        if float(surface.updates.abs().max()) > 0:
            axis.contour(present, past, surface.updates.numpy(), levels=[0.0], colors="black", linewidths=0.8)
        axis.set(xlabel="gradient now", title=_history(surface))
    axes[0].set_ylabel("mean gradient before")
    if image is not None:
        figure.colorbar(image, ax=list(axes), label="update", fraction=0.04)
    return figure


def by_position(norms: np.ndarray, *, title: str) -> Figure:
    """Norms of meta-gradients against the step of the window at which the update was made."""
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axis = figure.subplots()
    axis.plot(np.arange(1, len(norms) + 1), norms, color=OTHERS[0])
    if (norms > 0).all():
        axis.set_yscale("log")
    axis.set(xlabel="inner step of the window", ylabel="norm of the meta-gradient", title=title)
    axis.grid(alpha=0.25)
    return figure


def before_and_after(first: np.ndarray, now: np.ndarray, *, outer_steps: tuple[int, int]) -> Figure:
    """Mean losses of the validation students under the rule as it began and as it is now."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for curve, outer_step, style in ((first, outer_steps[0], OTHERS[0]), (now, outer_steps[1], LEARNED)):
        axis.plot(np.arange(len(curve)), curve, color=style, label=f"outer step {outer_step}")
    if min(np.nanmin(first), np.nanmin(now)) > 0:
        axis.set_yscale("log")
    axis.set(xlabel="inner step", ylabel="mean loss of validation students")
    axis.grid(alpha=0.25)
    axis.legend(frameon=False)
    return figure


def _history(surface: ResponseSurface) -> str:
    return f"after {surface.history} gradients" + (f", noise {surface.noise:g}" if surface.noise else ", no noise")
