"""The original paper's figures (arXiv 1606.04474), and rules that correct what its rule could not do.

    python scripts/reproduce_paper.py --figure mnist                # meta-trains, tunes baselines, evaluates
    python scripts/reproduce_paper.py --figure all --artefacts      # the learned rules again, from what is committed

Writes under results/paper/: artefacts, FIGURE/evaluation.json, FIGURE/curves.npz, FIGURE/curves.svg and README.md.
Meta-training and tuning go on where an earlier call has left them in --runs.
"""

import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
import paper_report
import torch
from paper_report import Figure, Setting

from l2l_opt import load_rule
from l2l_opt.evaluation.baselines import Baseline
from l2l_opt.evaluation.protocol import Result, report, tune_and_report
from l2l_opt.tasks.mixture import make_tasks

RESULTS = Path(__file__).parent.parent / "results" / "paper"
SEEDS = 10
BASELINES = (
    Baseline("sgd", "sgd", range(-4, 3)),
    Baseline("nag", "momentum", range(-5, 2), {"momentum": 0.9, "nesterov": True}),
    Baseline("rmsprop", "rmsprop", range(-7, 0)),
    Baseline("adam", "adam", range(-7, 0)),
    Baseline("adam-cosine", "adam", range(-6, 1), {"schedule": "cosine"}),
)

QUADRATICS = Setting(
    "Quadratics", "quadratics:dim=10", 100, {"lstm": 0.042, "adam": 0.054, "rmsprop": 0.063, "nag": 0.084, "sgd": 0.22}
)
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
CONV = "cifar10-conv:channels=8,batch_size=64"
"""Half the paper's channels and batch, so that a student's step takes 20 ms instead of 62."""
CIFAR = (
    Setting("CIFAR-10", CONV, 100, {}, tuning_seeds=5, rerun=3),
    Setting("CIFAR-10, 1,000 steps", CONV, 1000, {}, tuning_seeds=2, rerun=0),
)


@dataclass(frozen=True)
class MetaTraining:
    """A run of ``l2l-opt meta-train``.

    Attributes:
        rule: a fresh rule, or the artefact of another run here to go on from.
        options: of the command.
    """

    rule: str
    options: str


ON_MNIST = "--task mnist-mlp --horizon 100 --validation-students 8"
ON_CIFAR = f"--task {CONV} --horizon 100 --validation-students 4"
ANNEALED = "--meta-lr-schedule cosine --normalisation log"
EXACT = "--second-derivatives --meta-loss linear"
"""Gradients of students are differentiated too, and late steps count more."""
WHOLE = "--truncation-length 100 --normalisation log --meta-loss mean"
"""A window is the whole run, so that no step is worth only what the next few losses gain by it."""
SAMPLED = "--estimator tbptt:coordinate_stride=9 --meta-lr-schedule cosine"


META_TRAINING = {
    "quadratics-lstm": MetaTraining(
        "lstm",
        "--task quadratics:dim=10 --horizon 100 --staggered --students 128 --meta-lr 0.003 --meta-lr-schedule cosine "
        "--outer-steps 6000 --validate-every 200 --validation-students 128",
    ),
    "mnist-lstm-window-20": MetaTraining(
        "lstm",
        f"{ON_MNIST} --staggered --students 4 --validate-every 100 --meta-lr 0.003 --meta-lr-schedule cosine "
        "--outer-steps 2800 --seed 0",
    ),
    "mnist-compact-first": MetaTraining(
        "compact:output_scale=0.3",
        f"{ON_MNIST} --students 2 --second-derivatives {ANNEALED} --seed 0 --staggered --truncation-length 50 "
        "--meta-loss mean --meta-lr 0.003 --outer-steps 80 --validate-every 20",
    ),
    "mnist-compact": MetaTraining(
        "mnist-compact-first",
        f"{ON_MNIST} --students 2 {EXACT} {ANNEALED} --seed 0 --truncation-length 100 --meta-lr 0.001 "
        "--outer-steps 350 --validate-every 25",
    ),
    "mnist-rnnprop-first": MetaTraining(
        "rnnprop:hidden_size=10,num_layers=1",
        f"{ON_MNIST} {ANNEALED} --reparametrise 0.2..5 --staggered --seed 0 --estimator tbptt:coordinate_stride=9 "
        "--students 4 --meta-loss mean --meta-lr 0.003 --outer-steps 150 --validate-every 50",
    ),
    "mnist-rnnprop": MetaTraining(
        "mnist-rnnprop-first",
        f"{ON_MNIST} {ANNEALED} --reparametrise 0.2..5 --staggered --seed 0 --students 1 --truncation-length 50 {EXACT} "
        "--meta-lr 0.001 --average-phi 0.9 --outer-steps 400 --validate-every 40",
    ),
    "cifar-lstms": MetaTraining(
        "composed",
        f"{ON_CIFAR} {ANNEALED} --seed 0 --staggered --students 2 --meta-loss mean --meta-lr 0.003 --average-phi 0.9 "
        "--outer-steps 350 --validate-every 50",
    ),
    "cifar-compact": MetaTraining(
        "compact:output_scale=0.1",
        f"{ON_CIFAR} {ANNEALED} --students 1 --seed 0 --staggered --truncation-length 50 {EXACT} --meta-lr 0.003 "
        "--outer-steps 240 --validate-every 40",
    ),
}
for seed in range(3):
    META_TRAINING[f"mnist-lstm-{seed}-first"] = MetaTraining(
        "lstm",
        f"{ON_MNIST} {SAMPLED} --staggered --students 4 --meta-lr 0.003 --outer-steps 1400 --validate-every 100 "
        f"--seed {seed}",
    )
    META_TRAINING[f"mnist-lstm-{seed}"] = MetaTraining(
        f"mnist-lstm-{seed}-first",
        f"{ON_MNIST} {SAMPLED} --students 2 {WHOLE} --meta-lr 0.0005 --average-phi 0.9 --outer-steps 300 "
        f"--validate-every 50 --seed {seed}",
    )
"""Runs of ``l2l-opt meta-train`` that artefacts come from."""
ELSEWHERE = {"compact-elsewhere": RESULTS.parent / "long_horizons" / "artefacts" / "nres.safetensors"}
"""Artefacts that were meta-trained for more than these figures: on digits and 8 x 8 Fashion-MNIST, never on MNIST."""
FIGURES = {
    "quadratics": Figure(("quadratics-lstm",), (QUADRATICS,)),
    "mnist": Figure(
        (
            *(f"mnist-lstm-{seed}" for seed in range(3)),
            "mnist-lstm-window-20",
            "mnist-rnnprop",
            "mnist-compact",
            "compact-elsewhere",
        ),
        (MNIST,),
    ),
    "mnist-shifts": Figure(("mnist-lstm-0", "mnist-rnnprop", "mnist-compact", "compact-elsewhere"), SHIFTS),
    "cifar": Figure(("cifar-lstms", "cifar-compact"), CIFAR),
}


@click.command()
@click.option("--figure", type=click.Choice([*FIGURES, "all"]), required=True)
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
    start = time.perf_counter()
    for name in FIGURES if figure == "all" else [figure]:
        if not artefacts:
            for wanted in only or FIGURES[name].artefacts:
                meta_train(wanted, minutes=minutes, runs=runs)
        evaluate(name, artefacts=artefacts, seeds=seeds, runs=runs, out=out)
    (out / "README.md").write_text(paper_report.page(out, all_artefacts(), FIGURES))
    click.echo(f"{(time.perf_counter() - start) / 60:.1f} minutes")


def meta_train(name: str, *, minutes: float | None, runs: Path) -> None:
    """Run or go on with a meta-training, after the one that it goes on from, and keep what it has so far."""
    if name not in META_TRAINING:
        return
    run = META_TRAINING[name]
    rule = run.rule
    if rule in META_TRAINING:
        meta_train(rule, minutes=minutes, runs=runs)
        rule = str(runs / rule / "rule.safetensors")
    command = [sys.executable, "-m", "l2l_opt.cli", "meta-train", "--rule", rule, *shlex.split(run.options)]
    command += ["--out", str(runs / name), "--resume"]
    subprocess.run([*command, *(["--minutes", str(minutes)] if minutes else [])], check=True)
    (RESULTS / "artefacts").mkdir(parents=True, exist_ok=True)
    shutil.copy(runs / name / "rule.safetensors", artefact(name))


def artefact(name: str) -> Path:
    return ELSEWHERE.get(name, RESULTS / "artefacts" / f"{name}.safetensors")


def all_artefacts() -> list[Path]:
    return [*(RESULTS / "artefacts").glob("*.safetensors"), *ELSEWHERE.values()]


def evaluate(name: str, *, artefacts: bool, seeds: int, runs: Path, out: Path) -> None:
    """Judge a figure's learned rules, and its baselines where they are not to be read."""
    figure, results = FIGURES[name], []
    known = paper_report.read(RESULTS / name) if artefacts else []
    for setting in figure.settings:
        here = paper_report.of(known, setting)
        results += [judge(own, setting, here, seeds) for own in figure.artefacts if artefact(own).exists()]
        read = [result for result in here if result.optimizer != "learned"]
        results += read or [tuned(baseline, setting, seeds, runs) for baseline in BASELINES]
    paper_report.write(out / name, results)
    paper_report.draw(out / name, figure.settings, results)
    for setting in figure.settings:
        for result in sorted(paper_report.of(results, setting), key=lambda result: result.mean):
            low, high = result.interval
            click.echo(f"{setting.title}: {paper_report.label(result):<20} {result.mean:.4g} ({low:.4g} to {high:.4g})")


def judge(name: str, setting: Setting, known: list[Result], seeds: int) -> Result:
    """A learned rule on the reporting students; what is known of this artefact is read where it takes long to run."""
    rule = load_rule(artefact(name))
    card = rule.card or {}
    about = {"artefact": name, "rule": rule.registry_name, "digest": card.get("digest")}
    stored = next((result for result in known if result.settings == about), None)
    rerun = seeds if stored is None or setting.rerun is None else setting.rerun
    if stored is not None and rerun == 0:
        return stored
    click.echo(f"{name} on {setting.task}, {setting.horizon} steps", err=True)
    family = make_tasks(setting.task)
    result = report(rule, family, setting.task, setting.horizon, num_seeds=rerun, seed=0, settings=about)
    if stored is None:
        return result
    compare(result, stored)
    return result if rerun >= len(stored.final_losses) else completed(result, stored)


def compare(result: Result, stored: Result) -> None:
    """Say how far losses are from the committed ones of the same students."""
    pairs = list(zip(result.final_losses, stored.final_losses, strict=False))
    apart = max(abs(own - other) / max(abs(other), 1e-12) for own, other in pairs)
    click.echo(f"  {len(pairs)} seeds as committed to {apart:.1e}", err=True)


def completed(result: Result, stored: Result) -> Result:
    """The seeds that were run, and the others as they are known."""
    count = len(result.final_losses)
    return replace(
        stored,
        final_losses=result.final_losses + stored.final_losses[count:],
        curves=np.concatenate([result.curves, stored.curves[:, count:]], axis=1),
    )


def tuned(baseline: Baseline, setting: Setting, seeds: int, runs: Path) -> Result:
    """A baseline at its best learning rate; kept under ``runs``, since hours of tuning may be interrupted."""
    task = "".join(letter if letter.isalnum() else "-" for letter in setting.task)
    folder = runs / "baselines" / f"{task}-{setting.horizon}-{baseline.name}-{setting.tuning_seeds}-{seeds}"
    kept = paper_report.read(folder)
    if kept:
        return kept[0]
    click.echo(f"tuning {baseline.name} on {setting.task}, {setting.horizon} steps", err=True)
    result = tune_and_report(
        baseline,
        make_tasks(setting.task),
        setting.task,
        setting.horizon,
        num_seeds=seeds,
        tuning_seeds=setting.tuning_seeds,
        seed=0,
    )
    paper_report.write(folder, [result])
    return result


if __name__ == "__main__":
    main()
