"""What is seen of a specialisation in TensorBoard: one student under the rule as it was and as it is, side by side.

DIR/before/learned, DIR/specialised/learned    runs of the same charts, so that each shows both
DIR                                            both responses in one scale of colours, losses, how the rule was chosen
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from l2l_opt.inspection.pictures import figures
from l2l_opt.inspection.tensorboard.dashboard import Gallery, inspect_rule, surfaces_of
from l2l_opt.inspection.tensorboard.layout import unroll_layout
from l2l_opt.rules.base import UpdateRule
from l2l_opt.specialising.selection import Selection
from l2l_opt.tasks.mixture import Tasks

MOST_POINTS = 250
"""Of a chart over inner steps."""


def write_events(
    folder: Path,
    rules: Mapping[str, UpdateRule],
    tasks: Tasks,
    *,
    task: str,
    horizon: int,
    seed: int,
    selection: Selection,
) -> None:
    """Train one student under each rule, watched, and write what there is to see.

    Args:
        folder: of the events; made if need be.
        rules: by name, the names of their runs.
        tasks: where the student comes from.
        task: its name.
        horizon: steps.
        seed: of the student.
        selection: how the rule was chosen.
    """
    how: dict[str, Any] = {"task": task, "horizon": horizon, "seed": seed, "histogram_every": 0}
    how["every"] = max(horizon // MOST_POINTS, 1)
    runs = [
        replace(run, optimizer=name)
        for name, rule in rules.items()
        for run in inspect_rule(rule, tasks, folder=folder / name, **how)
    ]
    surfaces = {name: surfaces_of(rule) for name, rule in rules.items()}
    largest = max(figures.largest_update(own) for own in surfaces.values())
    with SummaryWriter(str(folder)) as writer:
        writer.add_custom_scalars(unroll_layout())
        gallery = Gallery(writer)
        gallery.add_figure("student/losses", figures.loss_curves(runs, title=f"{task}, {horizon} steps"), 0)
        for name, own in surfaces.items():
            gallery.add_figure(f"rule/response/{name}", figures.response_surfaces(own, largest=largest), 0)
        writer.add_text("selection", selection_table(selection), 0)


def selection_table(selection: Selection) -> str:
    """Write what rules were scored, with their intervals, as Markdown."""
    lines = ["| rule | log of its final loss over the old rule's | 95 % interval |", "|---|---|---|"]
    for name, score in selection.scores.items():
        low, high = score.interval
        kept = " (kept)" if name == selection.kept else ""
        lines.append(f"| {name}{kept} | {score.change:.4f} | {low:.4f} to {high:.4f} |")
    return "\n".join(lines)
