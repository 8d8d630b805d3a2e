"""The original paper's figures (arXiv 1606.04474), and rules that correct what its rule could not do.

    python scripts/reproduce_paper.py --figure mnist                # meta-trains, tunes baselines, evaluates
    python scripts/reproduce_paper.py --figure mnist --artefacts    # the learned rules again, from what is committed

Writes under results/paper/: artefacts, FIGURE/evaluation.json, FIGURE/curves.npz, FIGURE/curves.svg and README.md.
Meta-training goes on where an earlier run in --runs has ended.
"""

import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from l2l_opt import load_rule
from l2l_opt.evaluation.baselines import Baseline
from l2l_opt.evaluation.protocol import Result, report, tune_and_report
from l2l_opt.tasks.mixture import make_tasks

RESULTS = Path(__file__).parent.parent / "results" / "paper"
SEEDS, TUNING_SEEDS = 10, 10
BASELINES = (
    Baseline("sgd", "sgd", range(-4, 3)),
    Baseline("nag", "momentum", range(-5, 2), {"momentum": 0.9, "nesterov": True}),
    Baseline("rmsprop", "rmsprop", range(-7, 0)),
    Baseline("adam", "adam", range(-7, 0)),
    Baseline("adam-cosine", "adam", range(-6, 1), {"schedule": "cosine"}),
)
EXTRA = ("adam-cosine",)
"""Drawn and tabulated, but not among the paper's baselines."""
COLOURS = {"sgd": "C0", "nag": "C1", "rmsprop": "C2", "adam": "C3", "adam-cosine": "C5"}
LEARNED_COLOURS = {"lstm": "black", "rnnprop": "C4", "compact": "C9"}


@dataclass(frozen=True)
class Setting:
    """One panel: a task, for so many steps, and the paper's final losses on it."""

    title: str
    task: str
    horizon: int
    paper: dict[str, float]


MNIST = Setting("MNIST", "mnist-mlp", 100, {"lstm": 0.26, "adam": 0.36, "rmsprop": 0.36, "nag": 0.33, "sgd": 0.47})
SHIFTS = (
    Setting("200 steps", "mnist-mlp", 200, {"lstm": 0.21, "adam": 0.30, "rmsprop": 0.29, "nag": 0.26, "sgd": 0.33}),
    Setting(
        "40 units", "mnist-mlp:hidden=40", 100, {"lstm": 0.19, "adam": 0.33, "rmsprop": 0.32, "nag": 0.31, "sgd": 0.45}
    ),
    Setting(
        "2 layers", "mnist-mlp:layers=2", 100, {"lstm": 0.33, "adam": 0.71, "rmsprop": 0.74, "nag": 0.77, "sgd": 1.78}
    ),
    Setting(
        "ReLU", "mnist-mlp:activation=relu", 100, {"lstm": 2.6, "adam": 0.37, "rmsprop": 0.40, "nag": 0.37, "sgd": 0.44}
    ),
    Setting("1,000 steps", "mnist-mlp", 1000, {}),
)
QUADRATICS = Setting(
    "Quadratics", "quadratics:dim=10", 100, {"lstm": 0.042, "adam": 0.054, "rmsprop": 0.063, "nag": 0.084, "sgd": 0.22}
)

ON_MNIST = "--task mnist-mlp --horizon 100 --staggered --students 4 --validate-every 100 --validation-students 8"
ANNEALED = "--meta-lr 0.003 --meta-lr-schedule cosine"
META_TRAINING = {
    "quadratics-lstm": "--rule lstm --task quadratics:dim=10 --horizon 100 --staggered --students 128 "
    f"{ANNEALED} --outer-steps 6000 --validate-every 200 --validation-students 128",
    **{
        f"mnist-lstm-{seed}": f"--rule lstm {ON_MNIST} {ANNEALED} --outer-steps 2800 --seed {seed}" for seed in range(3)
    },
    "mnist-rnnprop": "--rule rnnprop:hidden_size=10,num_layers=1 --task mnist-mlp --horizon 100 --staggered "
    "--truncation-length 50 --students 4 --validate-every 50 --validation-students 8 --reparametrise 0.2..5 "
    "--meta-loss mean --normalisation log --meta-lr 0.002 --meta-lr-schedule cosine --outer-steps 800 --seed 0",
}
"""Options of ``l2l-opt meta-train`` for each artefact."""
ELSEWHERE = {"compact": RESULTS.parent / "long_horizons" / "artefacts" / "nres.safetensors"}
"""Artefacts that were meta-trained for more than these figures: on digits and 8 x 8 Fashion-MNIST, never on MNIST."""
FIGURES = {
    "quadratics": (("quadratics-lstm",), (QUADRATICS,)),
    "mnist": (("mnist-lstm-0", "mnist-lstm-1", "mnist-lstm-2", "mnist-rnnprop", "compact"), (MNIST,)),
    "mnist-shifts": (("mnist-lstm-0", "mnist-rnnprop", "compact"), SHIFTS),
}
"""Artefacts and settings of each figure."""


PREAMBLE = """# The paper's figures

Written by `scripts/reproduce_paper.py`. Losses are *final losses*: the mean training loss of the last 10 steps (of the
last 10 % beyond 100), mean over {seeds} seeds with its 95 % bootstrap interval. Learning rates of all baselines were
tuned for each setting on {tuning_seeds} other seeds, in half-decades, the grid widened where the best sat at its edge.
The paper's values are read off its plots (about 5 %). `adam-cosine` is an extra: the paper has no schedules."""


@click.command()
@click.option("--figure", type=click.Choice(list(FIGURES)), required=True)
@click.option(
    "--minutes", type=float, default=None, help="For each meta-training that this call begins or goes on with."
)
@click.option("--only", multiple=True, help="Artefacts to meta-train; all of the figure where none is named.")
@click.option("--artefacts", is_flag=True, help="Take committed artefacts and baselines; run the learned rules again.")
@click.option("--seeds", default=SEEDS, show_default=True, help="Students reported on.")
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs/paper"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default="results/paper")
def main(
    figure: str, minutes: float | None, only: tuple[str, ...], artefacts: bool, seeds: int, runs: Path, out: Path
) -> None:
    torch.set_num_threads(1)
    names, settings = FIGURES[figure]
    if not artefacts:
        for name in [name for name in only or names if name in META_TRAINING]:
            meta_train(name, minutes=minutes, runs=runs)
    known = read_results(RESULTS / figure) if artefacts else []
    available = [name for name in names if artefact(name).exists()]
    results = []
    for setting in settings:
        results += [judge(name, setting, seeds) for name in available]
        results += [result for result in known if is_baseline_of(result, setting)] or tune_all(setting, seeds)
    write(out / figure, results)
    draw(out / figure, settings, results)
    (out / "README.md").write_text(readme(out))
    for setting in settings:
        for result in sorted(of(results, setting), key=lambda result: result.mean):
            low, high = result.interval
            click.echo(f"{setting.title}: {label(result):<14} {result.mean:.4g} ({low:.4g} to {high:.4g})")


def meta_train(name: str, *, minutes: float | None, runs: Path) -> None:
    """Run or go on with a meta-training, and keep what it has so far."""
    command = [sys.executable, "-m", "l2l_opt.cli", "meta-train", *shlex.split(META_TRAINING[name])]
    command += ["--out", str(runs / name), "--resume"]
    subprocess.run([*command, *(["--minutes", str(minutes)] if minutes else [])], check=True)
    (RESULTS / "artefacts").mkdir(parents=True, exist_ok=True)
    shutil.copy(runs / name / "rule.safetensors", artefact(name))


def artefact(name: str) -> Path:
    return ELSEWHERE.get(name, RESULTS / "artefacts" / f"{name}.safetensors")


def judge(name: str, setting: Setting, seeds: int) -> Result:
    rule = load_rule(artefact(name))
    card = rule.card or {}
    about = {"artefact": name, "rule": rule.registry_name, "digest": card.get("digest")}
    click.echo(f"{name} on {setting.task}, {setting.horizon} steps", err=True)
    family = make_tasks(setting.task)
    return report(rule, family, setting.task, setting.horizon, num_seeds=seeds, seed=0, settings=about)


def tune_all(setting: Setting, seeds: int) -> list[Result]:
    results, family = [], make_tasks(setting.task)
    for baseline in BASELINES:
        click.echo(f"tuning {baseline.name} on {setting.task}, {setting.horizon} steps", err=True)
        results.append(
            tune_and_report(
                baseline, family, setting.task, setting.horizon, num_seeds=seeds, tuning_seeds=TUNING_SEEDS, seed=0
            )
        )
    return results


def of(results: list[Result], setting: Setting) -> list[Result]:
    return [result for result in results if (result.task, result.horizon) == (setting.task, setting.horizon)]


def is_baseline_of(result: Result, setting: Setting) -> bool:
    return result.optimizer != "learned" and bool(of([result], setting))


def label(result: Result) -> str:
    return str(result.settings["artefact"]) if result.optimizer == "learned" else result.optimizer


def write(folder: Path, results: list[Result]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"results": [result.record() for result in results]}, indent=2)
    (folder / "evaluation.json").write_text(content + "\n")
    np.savez_compressed(
        folder / "curves.npz", **{str(n): result.curves.astype(np.float32) for n, result in enumerate(results)}
    )


def read_results(folder: Path) -> list[Result]:
    records = json.loads((folder / "evaluation.json").read_text())["results"]
    with np.load(folder / "curves.npz") as curves:
        return [from_record(record, curves[str(n)].astype(np.float64)) for n, record in enumerate(records)]


def from_record(record: dict[str, Any], curves: np.ndarray) -> Result:
    record = {key: np.inf if key == "mean" and value is None else value for key, value in record.items()}
    low, high = (np.inf if value is None else value for value in record.pop("interval"))
    losses = [np.nan if value is None else value for value in record.pop("final_losses")]
    return Result(**record, interval=(low, high), final_losses=losses, curves=curves)


def draw(folder: Path, settings: tuple[Setting, ...], results: list[Result]) -> None:
    """The paper's layout: loss against step on a log axis, mean over seeds, one panel a setting."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "l2l_opt"
    import matplotlib.pyplot as plt

    columns = min(len(settings), 3)
    rows = -(-len(settings) // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(5.2 * columns, 4 * rows), squeeze=False, layout="constrained")
    for panel in panels.flat[len(settings) :]:
        panel.remove()
    for panel, setting in zip(panels.flat, settings, strict=False):
        for result in of(results, setting):
            learned = result.optimizer == "learned"
            colour = LEARNED_COLOURS[result.settings["rule"]] if learned else COLOURS[result.optimizer]
            style = "-" if learned else (":" if result.optimizer in EXTRA else "--")
            panel.plot(result.curves.mean(axis=1), style, color=colour, label=label(result), lw=1.8 if learned else 1.2)
        panel.set(yscale="log", xlabel="step", ylabel="loss", title=setting.title)
        panel.legend(fontsize=7)
    figure.savefig(folder / "curves.svg", metadata={"Date": None})
    plt.close(figure)


def readme(out: Path) -> str:
    """What stands in results/paper/README.md, from the figures evaluated so far."""
    lines = [PREAMBLE.format(seeds=SEEDS, tuning_seeds=TUNING_SEEDS)]
    for name, (_, settings) in FIGURES.items():
        if not (out / name / "evaluation.json").exists():
            continue
        results = read_results(out / name)
        lines += ["", f"## {name}", "", f"![Loss against step]({name}/curves.svg)", ""]
        lines += ["| setting | optimizer | final loss | 95 % interval | paper | |", "|---|---|---|---|---|---|"]
        for setting in settings:
            for result in sorted(of(results, setting), key=lambda result: result.mean):
                rule = result.settings["rule"] if result.optimizer == "learned" else result.optimizer
                paper = setting.paper.get(rule)
                about = f"lr {result.settings['lr']:.3g}" if "lr" in result.settings else "learned, nothing tuned"
                low, high = result.interval
                lines.append(
                    f"| {setting.title} | {label(result)} | {result.mean:.4g} | {low:.4g} to {high:.4g} | "
                    f"{'' if paper is None else paper} | {about} |"
                )
        lines += [
            "",
            f"`python scripts/reproduce_paper.py --figure {name}`; `--artefacts` for the learned rules alone.",
        ]
    lines += [
        "",
        "## Meta-training",
        "",
        "| artefact | minutes | outer steps | best at | seed | command |",
        "|---|---|---|---|---|---|",
    ]
    for path in [*sorted((RESULTS / "artefacts").glob("*.safetensors")), *ELSEWHERE.values()]:
        card = load_rule(path).card or {}
        provenance, figures = card["provenance"], card["figures"]
        cells = [path.stem, f"{provenance['minutes']:.1f}", provenance["outer_steps"], figures["validation_outer_step"]]
        cells += [provenance["seed"], f"`{provenance['command']}`"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
