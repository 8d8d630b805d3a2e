"""The sections of a report, each made of what was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from l2l_opt.evaluation.results import Result, TaskEvaluation
from l2l_opt.evaluation.tables import interval_text, optimizer_table, tables_of
from l2l_opt.inspection.pictures import figures
from l2l_opt.inspection.pictures.watched_run import WatchedRun
from l2l_opt.inspection.report.parts import Chart, Section, Table
from l2l_opt.inspection.tensorboard.dashboard import one_a_tensor, surfaces_of
from l2l_opt.inspection.tensorboard.history import Series, read_scalars
from l2l_opt.rules.base import UpdateRule
from l2l_opt.storage.card import card_of, facts_of

TRAJECTORIES = 3
"""Tensors of which a coordinate's way is drawn."""
HISTORY = {
    "Meta-loss": (("meta/loss",), "meta-loss", False),
    "Validation": (("validation/figure",), "validation metric, lower is better", False),
    "Norm of the meta-gradient": (("meta/gradient_norm",), "norm before clipping", True),
    "Horizons and inner steps of students": (("students/horizon_mean", "students/age_mean"), "inner steps", False),
    "Skipped outer steps": (("meta/skipped",), "outer steps so far", False),
    "Throughput": (("meta/coordinates_per_second",), "coordinates a second", False),
}
"""Of a meta-training run: title -> tags, label of the axis, logarithmic."""


def headline(evaluations: Sequence[TaskEvaluation], *, rule: str) -> str:
    """Return the first thing to know: the rule's final losses beside tuned AdamW's."""
    sentences = []
    for own in evaluations:
        learned, adamw = own.results[0], own.result_of("adamw")
        assert adamw is not None
        sentences.append(
            f"After {own.horizon} steps of {own.task}, the final training loss (lower is better) of {rule} is "
            f"{learned.mean:.3g} ({interval_text(learned.interval)}), that of AdamW with the best learning rate and "
            f"schedule {adamw.mean:.3g} ({interval_text(adamw.interval)})."
        )
    return " ".join(sentences)


def card_section(rule: UpdateRule) -> Section:
    """Return what the artefact states of the rule, and what was counted on it."""
    facts = []
    for name, value in facts_of(card_of(rule)):
        facts += [(name, value)] if isinstance(value, str) else [(f"{name}: {key}", item) for key, item in value]
    return Section("card", "Model card", "What the file states, and what was counted here.", facts=facts)


def curves_section(evaluations: Sequence[TaskEvaluation], *, rule: str, tuning_seeds: int) -> Section:
    """Training curves beside tuned baselines, with intervals over seeds; the same in numbers."""
    charts, tables = [], []
    for own in evaluations:
        results = own.results
        charts.append(
            Chart(
                f"{own.task}, {own.horizon} steps",
                f"Training loss at each step, mean of {len(own.first_losses)} students. {_ranking(results)} "
                + " ".join(["Shaded: 95 % intervals of the mean.", *own.notes]),
                figures.interval_curves(results, title=""),
                _curve_table(results),
            )
        )
        tables.append(optimizer_table(own.records()))
    return Section(
        "curves",
        "Against tuned baselines",
        f"The rule ({rule}, drawn bold as learned) is not tuned. Each baseline has the learning rate and schedule "
        f"that were best for the task on {tuning_seeds} other students. All start from the same weights and see the "
        "same batches.",
        charts=charts,
        tables=tables,
    )


def response_section(rule: UpdateRule) -> Section:
    """Return the rule's update for a gradient, after histories with and without noise."""
    surfaces = surfaces_of(rule)
    largest = figures.largest_update(surfaces)
    charts = [
        Chart(
            f"After {own.history} gradients {'with' if own.noise else 'without'} noise",
            "Across: the gradient now; upwards: the mean of the gradients before. Colour: the update, blue downwards "
            f"and red upwards, at most {float(own.updates.abs().max()):.3g}. The line is where the update is zero.",
            figures.response_surfaces([own], largest=largest),
            _surface_table(own.past.numpy(), own.present.numpy(), own.updates.numpy()),
        )
        for own in surfaces
    ]
    return Section("response", "Response to gradients", "One coordinate, after a history.", charts=charts)


def unroll_section(runs: Sequence[tuple[str, WatchedRun]]) -> Section:
    """Hidden state over time, and single coordinates, of one student a task."""
    charts = []
    for task, run in runs:
        heat_map = figures.hidden_heat_map(run.trace)
        if heat_map is not None:
            hidden = run.trace.hidden["hidden"]
            charts.append(
                Chart(
                    f"Hidden state over {len(run.losses)} steps of {task}",
                    f"A row a unit, a column a step, a panel a coordinate. Of all {hidden.shape[2]} coordinates that "
                    f"were followed, {100 * float((np.abs(hidden) > 0.9).mean()):.1f} % of values are beyond .9 either "
                    f"way; the mean magnitude goes from {float(np.abs(hidden[0]).mean()):.2g} to "
                    f"{float(np.abs(hidden[-1]).mean()):.2g}.",
                    heat_map,
                )
            )
        charts += [_trajectory(task, run, index) for index in one_a_tensor(run.trace.names)[:TRAJECTORIES]]
    return Section(
        "unroll", "Inside a training run", "One student in a plain loop, with the rule as its optimizer.", charts=charts
    )


def evaluation_section(evaluations: Sequence[tuple[str, Mapping[str, Any]]]) -> Section:
    """Tables of ``evaluation.json`` files, of a suite or of one task.

    Args:
        evaluations: where each comes from, and what it holds.
    """
    tables = []
    for source, content in evaluations:
        tables += [replace(table, caption=f"{table.caption} ({source})") for table in tables_of(content)]
    return Section("evaluations", "Evaluations", "As l2l-opt evaluate has written them.", tables=tables)


def history_section(events: Path) -> Section:
    """Return a meta-training run over its outer steps.

    Args:
        events: the run's folder of them.
    """
    scalars = read_scalars(events)
    charts = []
    for title, (tags, label, log) in HISTORY.items():
        series = {tag.partition("/")[2].replace("_", " "): scalars[tag] for tag in tags if tag in scalars}
        if series:
            charts.append(
                Chart(
                    title,
                    " ".join(_course(name, own) for name, own in series.items()),
                    figures.over_outer_steps(series, label=label, log=log),
                )
            )
    norms = {tag.partition("/")[2]: own for tag, own in scalars.items() if tag.startswith("meta_gradient_norm/")}
    tables = []
    if norms:
        rows = [[name, *_quartiles(values)] for name, (_, values) in norms.items()]
        headings = ["tensor of the rule", "lower quartile", "median", "upper quartile"]
        tables.append(Table("Norm of the meta-gradient by tensor, over outer steps", headings, rows))
    return Section(
        "history", "Meta-training", "As the run has logged it, outer step by outer step.", charts=charts, tables=tables
    )


def _ranking(results: Sequence[Result]) -> str:
    ordered = sorted(results, key=lambda result: result.mean)
    return "Lowest at the end: " + ", then ".join(f"{own.optimizer} ({own.mean:.3g})" for own in ordered) + "."


def _curve_table(results: Sequence[Result]) -> Table:
    horizon = results[0].horizon
    steps = sorted({min(horizon - 1, round(horizon * part)) for part in (0, 0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 1)})
    rows = [[str(step), *(f"{float(own.curves[step].mean()):.4g}" for own in results)] for step in steps]
    return Table("Mean training loss before a step", ["step", *(own.optimizer for own in results)], rows)


def _surface_table(past: np.ndarray, present: np.ndarray, updates: np.ndarray) -> Table:
    chosen = np.linspace(0, len(past) - 1, 5).astype(int)
    rows = [[f"{past[i]:.2g}", *(f"{updates[i, j]:.3g}" for j in chosen)] for i in chosen[::-1]]
    return Table("Update", ["mean gradient before / now", *(f"{present[j]:.2g}" for j in chosen)], rows)


def _trajectory(task: str, run: WatchedRun, index: int) -> Chart:
    trace = run.trace
    value, gradient, update = (own[:, index] for own in (trace.params, trace.gradients, trace.updates))
    return Chart(
        f"{trace.names[index]} of {task}",
        f"The parameter goes from {value[0]:.3g} to {value[-1] + update[-1]:.3g}; root mean square of its gradients "
        f"{_rms(gradient):.3g}, of its updates {_rms(update):.3g}.",
        figures.trajectory(trace, index),
    )


def _course(name: str, series: Series) -> str:
    steps, values = series
    return (
        f"{name[:1].upper()}{name[1:]}: {values[0]:.4g} at outer step {steps[0]}, {values[-1]:.4g} at {steps[-1]}, "
        f"between {np.nanmin(values):.4g} and {np.nanmax(values):.4g}."
    )


def _quartiles(values: np.ndarray) -> list[str]:
    return [f"{value:.3g}" for value in np.nanquantile(values, [0.25, 0.5, 0.75])]


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if len(values) else 0.0
