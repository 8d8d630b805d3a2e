"""The original paper's figures (arXiv 1606.04474), and rules that correct what its rule could not do.

    python -m scripts.experiments.paper.reproduce_paper --figure mnist              # meta-trains, tunes, evaluates
    python -m scripts.experiments.paper.reproduce_paper --figure all --artefacts    # committed rules run again

Writes under --out (results/paper): artefacts, FIGURE/evaluation.json, FIGURE/curves.npz, FIGURE/curves.svg, README.md.
What --out lacks of artefacts is read from results/paper. Meta-training and tuning go on where an earlier call has left
them in --runs.
"""

import shlex
import shutil
import time
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch

from l2l_opt import load_rule
from l2l_opt.evaluation.baselines.tuning import Baseline, tune
from l2l_opt.evaluation.results import Result
from l2l_opt.evaluation.runs import run_rule
from l2l_opt.evaluation.statistics import mean_and_interval
from l2l_opt.rules import UpdateRule
from l2l_opt.tasks.mixture import Tasks, make_tasks
from scripts.experiments import commands, records
from scripts.experiments.paper import figures, pictures
from scripts.experiments.paper.figures import Figure, Setting
from scripts.experiments.paper.recipes import BASELINES, ELSEWHERE, FIGURES, META_TRAINING

RESULTS = records.RESULTS / "paper"


@click.command()
@click.option("--figure", type=click.Choice([*FIGURES, "all"]), required=True)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=None,
    help="For each meta-training that this call begins or goes on with.",
)
@click.option(
    "--only", multiple=True, help="Artefacts to meta-train, or to run again; all of the figure where none is named."
)
@click.option("--artefacts", is_flag=True, help="Take committed artefacts and baselines; run the learned rules again.")
@click.option("--tune", "tune_anew", is_flag=True, help="With --artefacts: tune baselines anew all the same.")
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs/paper"), show_default=True)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=RESULTS, show_default="results/paper")
def main(
    figure: str, minutes: float | None, only: tuple[str, ...], artefacts: bool, tune_anew: bool, runs: Path, out: Path
) -> None:
    torch.set_num_threads(1)
    start = time.perf_counter()
    names = list(FIGURES) if figure == "all" else [figure]
    known = sorted({artefact for name in names for artefact in FIGURES[name].artefacts})
    if others := sorted(set(only) - set(known)):
        raise click.UsageError(
            f"--only must name artefacts of --figure {figure}; got {', '.join(others)}, use one of {', '.join(known)}"
        )
    page = out / "README.md"
    if page.exists() and not page.read_text().startswith(figures.PREAMBLE.partition("\n")[0]):
        raise click.UsageError(
            f"--out must be a folder whose README.md is a page of figures or is not there; got {str(out)!r}, "
            "use a folder of its own"
        )
    try:
        for name in names:
            for wanted in [] if artefacts else only or FIGURES[name].artefacts:
                meta_train(wanted, minutes=minutes, runs=runs, out=out)
            evaluate(name, artefacts=artefacts, tune_anew=tune_anew, only=only, runs=runs, out=out)
    except FileNotFoundError as missing:
        raise click.ClickException(str(missing)) from missing
    page.write_text(figures.page(out, all_artefacts(out), FIGURES))
    click.echo(f"{(time.perf_counter() - start) / 60:.1f} minutes")


def meta_train(name: str, *, minutes: float | None, runs: Path, out: Path) -> None:
    """Run or go on with a meta-training, after the one that it goes on from, and keep what it has so far."""
    if name not in META_TRAINING:
        return
    run = META_TRAINING[name]
    rule = run.rule
    if rule in META_TRAINING:
        meta_train(rule, minutes=minutes, runs=runs, out=out)
        rule = str(runs / rule / "rule.safetensors")
    arguments = ["--rule", rule, *shlex.split(run.options), "--out", str(runs / name), "--resume"]
    commands.run("l2l_opt.cli", "meta-train", *arguments, *(["--minutes", str(minutes)] if minutes else []))
    (out / "artefacts").mkdir(parents=True, exist_ok=True)
    shutil.copy(runs / name / "rule.safetensors", out / "artefacts" / f"{name}.safetensors")


def artefact(name: str, out: Path = RESULTS) -> Path:
    """Where a rule lies: in a folder of results, or else in the committed one."""
    own = out / "artefacts" / f"{name}.safetensors"
    return ELSEWHERE.get(name, own if own.exists() else RESULTS / "artefacts" / own.name)


def all_artefacts(out: Path = RESULTS) -> list[Path]:
    names = {path.stem for folder in (out, RESULTS) for path in (folder / "artefacts").glob("*.safetensors")}
    return [*(artefact(name, out) for name in sorted(names)), *ELSEWHERE.values()]


def evaluate(name: str, *, artefacts: bool, tune_anew: bool, only: tuple[str, ...], runs: Path, out: Path) -> None:
    """Evaluate a figure's learned rules, and its baselines where they are not to be read."""
    figure, results = FIGURES[name], []
    known = figures.read(RESULTS / name) if artefacts else []
    for setting in figure.settings:
        here = figures.of(known, setting)
        for own in figure.artefacts:
            kept = [] if not only or own in only else [result for result in here if figures.label(result) == own]
            if (path := artefact(own, out)).exists():
                results += kept or [evaluate_rule(own, path, setting, here)]
        read = [result for result in here if result.optimizer != "learned" and not tune_anew]
        wanted = [own for own in BASELINES if setting.baselines is None or own.name in setting.baselines]
        results += read or [tuned(baseline, setting, runs) for baseline in wanted]
    figures.write(out / name, results)
    figures.draw(out / name, figure, results)
    for beside in figures.BESIDE:
        if out != RESULTS and (RESULTS / name / beside).exists():
            shutil.copy(RESULTS / name / beside, out / name / beside)
    if figure.shows_pictures:
        pictures.draw(out / name / "pictures.jpg", figure.settings, rules_of(figure, results, out))
    for setting in figure.settings:
        for result in sorted(figures.of(results, setting), key=lambda result: result.mean):
            low, high = result.interval
            click.echo(f"{setting.title}: {figures.label(result):<20} {result.mean:.4g} ({low:.4g} to {high:.4g})")


def rules_of(figure: Figure, results: list[Result], out: Path) -> dict[str, list[UpdateRule]]:
    """The learned rules and the tuned baselines, by name, for each setting."""
    found = {
        name: [load_rule(artefact(name, out)) for _ in figure.settings]
        for name in figure.artefacts
        if name not in figure.hidden and artefact(name, out).exists()
    }
    for baseline in BASELINES:
        own = [
            baseline.make(result.settings["lr"])
            for setting in figure.settings
            for result in figures.of(results, setting)
            if result.optimizer == baseline.name
        ]
        found |= {baseline.name: own} if len(own) == len(figure.settings) else {}
    return found


def evaluate_rule(name: str, path: Path, setting: Setting, known: list[Result]) -> Result:
    """A learned rule on the reporting students; what is known of this artefact is read where it takes long to run."""
    rule = load_rule(path).to(setting.dtype)
    card = rule.card or {}
    about = {"artefact": name, "rule": rule.registry_name, "digest": card.get("digest")}
    stored = next((own for own in known if own.settings == about and len(own.final_losses) == setting.seeds), None)
    rerun = setting.seeds if stored is None or setting.rerun is None else setting.rerun
    if stored is not None and rerun == 0:
        return stored
    click.echo(f"{name} on {setting.task}, {setting.horizon} steps", err=True)
    family = make_tasks(setting.task, dtype=setting.dtype)
    result = report(rule, family, setting, rerun, about)
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
    losses = result.final_losses + stored.final_losses[count:]
    mean, interval = mean_and_interval(losses)
    return replace(
        stored,
        final_losses=losses,
        mean=mean,
        interval=interval,
        curves=np.concatenate([result.curves, stored.curves[:, count:]], axis=1),
    )


def tuned(baseline: Baseline, setting: Setting, runs: Path) -> Result:
    """A baseline at its best learning rate; kept under ``runs``, since hours of tuning may be interrupted."""
    task = "".join(letter if letter.isalnum() else "-" for letter in setting.task)
    how = f"{setting.tuning_seeds}-{setting.halvings}-{setting.seeds}"
    folder = runs / "baselines" / f"{task}-{setting.horizon}-{baseline.name}-{how}"
    kept = figures.read(folder)
    if kept:
        return kept[0]
    click.echo(f"tuning {baseline.name} on {setting.task}, {setting.horizon} steps", err=True)
    grid = baseline.half_decades
    aside = (len(grid) - setting.rates) // 2
    tried = replace(baseline, half_decades=grid[aside : len(grid) - aside])
    family = make_tasks(setting.task, dtype=setting.dtype)
    tuning = tune(
        tried,
        family,
        horizon=setting.horizon,
        num_seeds=setting.tuning_seeds,
        seed=0,
        halvings=setting.halvings,
    )
    about = {"lr": tuning.lr, **baseline.options, "tried": {f"{lr:.3g}": loss for lr, loss in tuning.losses.items()}}
    result = report(baseline.make(tuning.lr), family, setting, setting.seeds, about, optimizer=baseline.name)
    figures.write(folder, [result])
    return result


def report(
    rule: UpdateRule, family: Tasks, setting: Setting, seeds: int, about: dict, *, optimizer: str = "learned"
) -> Result:
    """A rule as it is, on the reporting students; the paper has no test losses."""
    run = run_rule(rule, family, horizon=setting.horizon, num_seeds=seeds, seed=0)
    return replace(Result.of(run, setting.task, setting.horizon, optimizer, about), test_losses=None, accuracies=None)


if __name__ == "__main__":
    main()
