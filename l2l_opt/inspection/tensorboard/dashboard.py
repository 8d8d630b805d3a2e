"""An inspection: the rule and tuned baselines train the same student, watched, in one folder of TensorBoard's.

    DIR/learned/    the rule: records of the tab "Unrolls", charts, histograms, pictures, card, hparams
    DIR/adam/ ...   a run of the same charts for each baseline, at its best learning rate

and the layout of the custom-scalars tab.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from l2l_opt.evaluation.baselines.tuning import Baseline, Tuning
from l2l_opt.inspection.measures.response import ResponseSurface, response_surface
from l2l_opt.inspection.pictures import figures
from l2l_opt.inspection.pictures.watched_run import WatchedRun, watch
from l2l_opt.inspection.tensorboard.layout import unroll_layout
from l2l_opt.inspection.tensorboard.scalars import write_scalars
from l2l_opt.rules.base import UpdateRule
from l2l_opt.tasks.mixture import Tasks

NOISES = (0.0, 1.0)
"""Of the histories behind response surfaces."""
POINTS, CHARTED, HISTOGRAMS, RESPONSES = 1000, 100, 20, 10
"""At most, of a run: points in the tab, those in charts too, those with histograms, and those with responses."""


def inspect_rule(
    rule: UpdateRule,
    tasks: Tasks,
    *,
    task: str,
    horizon: int,
    seed: int,
    folder: Path,
    baselines: Sequence[tuple[Baseline, Tuning]] = (),
    every: int | None = None,
    histogram_every: int | None = None,
    pictures_folder: Path | None = None,
) -> Iterator[WatchedRun]:
    """Train one student under a rule and under each baseline, and write all that can be seen.

    Args:
        rule: that is inspected.
        tasks: where the student comes from.
        task: its name.
        horizon: steps.
        seed: of the student.
        folder: of the events; made if need be.
        baselines: each with the learning rate it was tuned to.
        every: steps between points; None for a thousand points at most in the tab, a hundred of them in charts.
        histogram_every: steps between histograms, 0 for none; None for twenty at most.
        pictures_folder: for the pictures as SVG files too; made if need be.

    Yields:
        The rule's run, then the baselines', each when it is over.
    """
    subjects: list[tuple[str, UpdateRule, Mapping[str, Any]]] = [
        ("learned", rule, {"rule": rule.registry_name or type(rule).__name__, **rule.config})
    ]
    for baseline, tuning in baselines:
        options = {"rule": baseline.rule, "lr": tuning.lr, **baseline.options}
        subjects.append((baseline.name, baseline.make(tuning.lr), options))
    runs, how = [], {"horizon": horizon, "seed": seed}
    cadences = cadences_of(horizon) | ({} if every is None else {"every": every, "charts_every": every})
    cadences |= {} if histogram_every is None else {"histogram_every": histogram_every}
    for name, own, options in subjects:
        with SummaryWriter(str(folder / name)) as writer:
            run = watch(name, own, tasks, writer=writer, **cadences, **how)
            for step in range(0, horizon, cadences["charts_every"]):
                write_scalars(writer, {f"step_size/{kind}": own[step] for kind, own in run.step_sizes.items()}, step)
            write_hparams(writer, {"optimizer": name, "task": task, **how, **options}, run)
            if name == "learned":
                writer.add_custom_scalars(unroll_layout())
                write_rule(Gallery(writer, pictures_folder), rule, run, step=0)
        runs.append(run)
        yield run
    with SummaryWriter(str(folder / "learned")) as writer:
        picture = figures.loss_curves(runs, title=f"{task}, {horizon} steps")
        Gallery(writer, pictures_folder).add_figure("student/losses", picture, 0)


def cadences_of(horizon: int) -> dict[str, int]:
    """How often a run of so many steps is looked at: options of ``UnrollMonitor``."""
    most = {"every": POINTS, "charts_every": CHARTED, "histogram_every": HISTOGRAMS, "responses_every": RESPONSES}
    return {option: -(-horizon // times) for option, times in most.items()}


class Gallery:
    """Where pictures go.

    Args:
        writer: TensorBoard's.
        folder: for ``TAG.svg`` too, with - for what is no letter or digit; None for no files.
    """

    def __init__(self, writer: SummaryWriter, folder: Path | None = None):
        self.writer, self.folder = writer, folder

    def add_figure(self, tag: str, figure: Figure, step: int) -> None:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            with matplotlib.rc_context({"svg.hashsalt": tag}):
                name = re.sub(r"[^\w.]+", "-", tag).strip("-")
                figure.savefig(self.folder / f"{name}.svg", metadata={"Date": None})
        self.writer.add_figure(tag, figure, step)


def write_rule(gallery: Gallery, rule: UpdateRule, run: WatchedRun, *, step: int) -> None:
    """Write what a rule is and what it did in a run.

    Its card, its response surfaces, hidden state over time, and a coordinate's way in each of up to three tensors.
    """
    about = {"rule": rule.registry_name or type(rule).__name__, "options": rule.config}
    about["weights"] = sum(weight.numel() for weight in rule.parameters())
    text = json.dumps(about | dict(rule.card or {}), indent=2, default=str)
    gallery.writer.add_text("rule/card", f"```json\n{text}\n```", step)
    gallery.add_figure("rule/response", figures.response_surfaces(surfaces_of(rule)), step)
    heat_map = figures.hidden_heat_map(run.trace)
    if heat_map is not None:
        gallery.add_figure("hidden/over_time", heat_map, step)
    for index in one_a_tensor(run.trace.names)[:3]:
        gallery.add_figure(f"trajectory/{run.trace.names[index]}", figures.trajectory(run.trace, index), step)


def surfaces_of(rule: UpdateRule) -> list[ResponseSurface]:
    """Measure a rule's response after histories with and without noise."""
    return [response_surface(rule, noise=noise) for noise in NOISES]


def write_hparams(writer: SummaryWriter, options: Mapping[str, Any], run: WatchedRun) -> None:
    """Write what the run was, and its final loss, for the hparams tab."""
    plain = {key: value if isinstance(value, (bool, int, float, str)) else str(value) for key, value in options.items()}
    # In the run's own folder, and not one below it that would be a run of its own.
    writer.add_hparams(plain, {"hparam/final_loss": run.final_loss}, run_name=".")


def one_a_tensor(names: Sequence[str]) -> list[int]:
    """Places of the middle coordinate of each tensor."""
    places: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        places.setdefault(name.partition("[")[0], []).append(index)
    return [own[len(own) // 2] for own in places.values()]
