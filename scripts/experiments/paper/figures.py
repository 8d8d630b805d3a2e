"""What results/paper shows of the paper's figures: records, curves, tables."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from l2l_opt import load_rule
from l2l_opt.evaluation.results import Result

EXTRA = ("adam-cosine",)
"""Drawn and tabulated, but not among the paper's baselines."""
COLOURS = {"sgd": "C0", "nag": "C1", "rmsprop": "C2", "adam": "C3", "adam-cosine": "C5"}
LEARNED = {
    "lstm": ("lstm", "black"),
    "composed": ("lstm", "black"),
    "rnnprop": ("rnnprop", "C4"),
    "compact": ("compact", "C9"),
}
"""Rule of the registry -> its name in the paper's tables, and its colour."""

BESIDE = ("limit.json", "meta-training.json", "meta-training.png")
"""What other scripts write beside a figure, and its page shows."""

PREAMBLE = """# The paper's figures

Written by `python -m scripts.experiments.paper.reproduce_paper`. Losses are *final losses*: the mean training loss of
the last 10 steps (of the last 10 % beyond 100), mean over the reporting seeds with its 95 % bootstrap interval.
Learning rates of all baselines were tuned for each setting on other seeds, in half-decades, the grid widened where the
best sat at its edge, then in eighths of a decade around the best. A seed has diverged where its final loss is above its
first. The paper's values are read off its plots (about 5 %). `adam-cosine` is an extra: the paper has no schedules."""


@dataclass(frozen=True)
class Setting:
    """One panel: a task, for so many steps, and the paper's final losses on it.

    Attributes:
        title: of the panel.
        task: as the command line names it.
        horizon: inner steps.
        paper: optimizer -> final loss, read off the paper's plots.
        seeds: students reported on.
        tuning_seeds: students that baselines are tuned on.
        halvings: how often the steps of half a decade are halved around a baseline's best rate.
        rates: learning rates that tuning begins with, the middle of each baseline's grid.
        baselines: those that are tuned; all where None.
        dtype: of students and rules; float64 where float32.s rounding, another on each processor, shows in the end.
        rerun: reporting seeds that are run again from committed artefacts; None for all.
    """

    title: str
    task: str
    horizon: int
    paper: dict[str, float]
    seeds: int = 10
    tuning_seeds: int = 10
    halvings: int = 2
    rates: int = 7
    baselines: tuple[str, ...] | None = None
    dtype: torch.dtype = torch.float32
    rerun: int | None = None


@dataclass(frozen=True)
class Figure:
    """A figure of the paper.

    Attributes:
        artefacts: to evaluate; the first of each rule is the one in the short table.
        hidden: artefacts that are in the table and not in the drawing.
        settings: its panels.
        seeds: groups of artefacts among those that differ in the seed of their meta-training alone.
        note: what is not as in the paper.
        shows_pictures: whether a student is a picture, to be drawn as each optimizer left it.
    """

    artefacts: tuple[str, ...]
    settings: tuple[Setting, ...]
    hidden: tuple[str, ...] = ()
    seeds: tuple[tuple[str, ...], ...] = ()
    note: str = ""
    shows_pictures: bool = False


def of(results: Sequence[Result], setting: Setting) -> list[Result]:
    return [result for result in results if (result.task, result.horizon) == (setting.task, setting.horizon)]


def label(result: Result) -> str:
    return str(result.settings["artefact"]) if result.optimizer == "learned" else result.optimizer


def best_baseline(results: Sequence[Result]) -> Result:
    """Among those that the paper has."""
    return min((r for r in results if r.optimizer not in ("learned", *EXTRA)), key=lambda result: result.mean)


def write(folder: Path, results: Sequence[Result]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"results": [result.record() for result in results]}, indent=2)
    (folder / "evaluation.json").write_text(content + "\n")
    np.savez_compressed(
        folder / "curves.npz", **{str(n): result.curves.astype(np.float32) for n, result in enumerate(results)}
    )


def read(folder: Path) -> list[Result]:
    if not (folder / "evaluation.json").exists():
        return []
    records = json.loads((folder / "evaluation.json").read_text())["results"]
    with np.load(folder / "curves.npz") as curves:
        return [_from_record(record, curves[str(n)].astype(np.float64)) for n, record in enumerate(records)]


def _from_record(record: dict[str, Any], curves: np.ndarray) -> Result:
    record = {key: np.inf if key == "mean" and value is None else value for key, value in record.items()}
    low, high = (np.inf if value is None else value for value in record.pop("interval"))
    losses = [np.nan if value is None else value for value in record.pop("final_losses")]
    return Result(**record, interval=(low, high), final_losses=losses, curves=curves)


def draw(folder: Path, drawn: Figure, results: Sequence[Result]) -> None:
    """The paper's layout: loss against step on a log axis, mean over seeds, one panel a setting.

    Long runs are drawn as means of as many steps as leave 100 points.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "l2l_opt"
    import matplotlib.pyplot as plt

    settings = drawn.settings
    columns = min(len(settings), 3)
    rows = -(-len(settings) // columns)
    size = (5.2 * columns + 2.2, 4 * rows)
    figure, panels = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for panel in panels.flat[len(settings) :]:
        panel.remove()
    lines = {}
    for panel, setting in zip(panels.flat, settings, strict=False):
        seen: list[str] = []
        for result in of(results, setting):
            if label(result) in drawn.hidden:
                continue
            learned = result.optimizer == "learned"
            colour = LEARNED[result.settings["rule"]][1] if learned else COLOURS[result.optimizer]
            # Artefacts of one rule share its colour; the first is drawn through.
            first = learned and colour not in seen
            own = ("-", "-.", ":")[min(seen.count(colour), 2)]
            style = own if learned else ":" if result.optimizer in EXTRA else "--"
            parts = np.array_split(result.curves.mean(axis=1), 100)
            steps = np.cumsum([len(part) for part in parts]) - [(len(part) + 1) / 2 for part in parts]
            width, strength = (1.8, 1.0) if first else (1.1, 0.6 if learned else 1.0)
            (line,) = panel.plot(steps, [part.mean() for part in parts], style, color=colour, lw=width, alpha=strength)
            lines.setdefault(label(result), line)
            seen.append(colour)
        panel.set(yscale="log", xlabel="step", ylabel="loss", title=setting.title)
    figure.legend(list(lines.values()), list(lines), loc="outside right upper", fontsize=8)
    figure.savefig(folder / "curves.svg", metadata={"Date": None})
    plt.close(figure)


def page(out: Path, artefacts: Sequence[Path], figures: dict[str, Figure]) -> str:
    """What stands in results/paper/README.md, from the figures evaluated so far."""
    found = {name: results for name in figures if (results := read(out / name))}
    lines = [PREAMBLE, "", *_in_short(figures, found)]
    for name, results in found.items():
        lines += ["", f"## {name}", "", f"![Loss against step]({name}/curves.svg)", ""]
        if (out / name / "pictures.jpg").exists():
            lines += [f"![What becomes of the pictures]({name}/pictures.jpg)", ""]
        lines += ["| setting | optimizer | final loss | 95 % interval | seeds | diverged | paper | |"]
        lines += ["|---|---|---|---|---|---|---|---|"]
        for setting in figures[name].settings:
            lines += [_row(setting, result) for result in sorted(of(results, setting), key=lambda result: result.mean)]
        lines += [*_limit(out / name), *_spread(figures[name], results)]
        lines += ["", figures[name].note] if figures[name].note else []
        lines += [
            "",
            f"`python -m scripts.experiments.paper.reproduce_paper --figure {name}`; "
            "`--artefacts` for the learned rules alone.",
        ]
    lines += [
        "",
        "## Meta-training",
        "",
        "Commands as they were given, each of one stage; one whose `--rule` is another artefact goes on from it. The",
        "script runs the stages one after the other where `--artefacts` is not given.",
        "",
    ]
    lines += ["| artefact | minutes | outer steps | best at | seed | command |", "|---|---|---|---|---|---|"]
    lines += [_provenance(path) for path in sorted(artefacts, key=lambda path: path.name)]
    return "\n".join(lines) + "\n"


def _in_short(figures: dict[str, Figure], found: dict[str, list[Result]]) -> list[str]:
    """One line a setting: how far each kind of rule is below the best tuned baseline."""
    lines = [
        "Final loss beside that of the best tuned baseline of the paper's, which `adam-cosine` is not (1 is a tie,",
        "less is better):",
        "",
    ]
    lines += ["| figure | setting | best tuned baseline | the paper's rule | RNNProp | compact | paper: its rule |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for name, results in found.items():
        for setting in figures[name].settings:
            here = of(results, setting)
            best = best_baseline(here)
            firsts: dict[str, Result] = {}
            for result in here:
                if result.optimizer == "learned":
                    firsts.setdefault(LEARNED[result.settings["rule"]][0], result)
            ratios = [
                f"{firsts[rule].mean / best.mean:.2f} ({firsts[rule].mean:.3g})" if rule in firsts else ""
                for rule in ("lstm", "rnnprop", "compact")
            ]
            own = setting.paper.get("lstm")
            rivals = [value for rule, value in setting.paper.items() if rule != "lstm"]
            paper = "" if own is None else f"{own / min(rivals):.2f} ({own:g})"
            lines.append(
                f"| {name} | {setting.title} | {best.optimizer} {best.mean:.3g} | {' | '.join(ratios)} | {paper} |"
            )
    return lines


def _row(setting: Setting, result: Result) -> str:
    learned = result.optimizer == "learned"
    paper = setting.paper.get(LEARNED[result.settings["rule"]][0] if learned else result.optimizer)
    about = "learned, nothing tuned" if learned else f"lr {result.settings['lr']:.3g}"
    low, high = result.interval
    seeds, own = len(result.final_losses), "" if paper is None else paper
    return (
        f"| {setting.title} | {label(result)} | {result.mean:.4g} | {low:.4g} to {high:.4g} | {seeds} | "
        f"{diverged(result)} | {own} | {about} |"
    )


def diverged(result: Result) -> int:
    """Seeds whose final loss is not finite or above the first."""
    return sum(not final <= first for final, first in zip(result.final_losses, result.curves[0], strict=True))


def _limit(folder: Path) -> list[str]:
    """What one pass over the examples could give at best, where that was measured."""
    path = folder / "limit.json"
    if not path.exists():
        return []
    found = json.loads(path.read_text())
    low, high = found["interval"]
    return [
        "",
        f"For scale: the same students, trained by Adam for {found['epochs']} epochs on the {found['examples']:,} "
        f"examples that they have seen by step 95, reach {found['mean']:.4g} ({low:.4g} to {high:.4g}) on images they "
        "have not seen, the best of all rates and epochs tried "
        "(`python -m scripts.experiments.paper.measure_mnist_limit`). An optimizer of the figure sees "
        "each example once.",
    ]


def _spread(figure: Figure, results: Sequence[Result]) -> list[str]:
    """How far artefacts are apart that differ in the seed of their meta-training alone, a line a setting."""
    lines = []
    for group in figure.seeds:
        own = []
        for setting in figure.settings:
            found = {label(result): result.mean for result in of(results, setting)}
            means = [found[name] for name in group if name in found]
            if len(means) > 1:
                listed = ", ".join(f"{mean:.4g}" for mean in means)
                spread = (max(means) - min(means)) / min(means)
                own.append(f"- {setting.title}: {listed}; the worst is {spread:.1%} above the best")
        lines += ["", f"Seeds of meta-training ({', '.join(group)}):", "", *own] if own else []
    return lines


def _provenance(path: Path) -> str:
    card = load_rule(path).card or {}
    provenance, figures = card["provenance"], card["figures"]
    cells = [path.stem, f"{provenance['minutes']:.1f}", provenance["outer_steps"], figures["validation_outer_step"]]
    command = provenance["command"].replace("|", r"\|")
    cells += [provenance["seed"], f"`{command}`"]
    return "| " + " | ".join(map(str, cells)) + " |"
