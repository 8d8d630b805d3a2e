"""The shipped rule, untuned, beside tuned Adam on recommendation and on density estimation with importance sampling.

    python -m scripts.experiments.other_tasks.measure_other_tasks recommendation
    python -m scripts.experiments.other_tasks.measure_other_tasks density
    python -m scripts.experiments.other_tasks.measure_other_tasks bounds

Each writes results/other_tasks/NAME.json. Adam has seven half-decade learning rates, constant and cosine, widened while
the best is at the edge, tuned on students of their own by the final training loss, for each task and horizon.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch

from l2l_opt import load_rule
from l2l_opt.evaluation.baselines.tuning import BASELINES, tune
from l2l_opt.evaluation.runs import reporting_students, scores_on_test_batches
from l2l_opt.evaluation.statistics import mean_and_interval
from l2l_opt.inner_loop.student import Student
from l2l_opt.inner_loop.training import final_losses, train, training_losses
from l2l_opt.pretrained import DEFAULT
from l2l_opt.randomness import Stream, make_generator
from l2l_opt.rules import UpdateRule, make_rule
from l2l_opt.storage.finite_json import finite
from l2l_opt.tasks.base import make_task
from l2l_opt.tasks.module_task import ModuleTask
from l2l_opt.tasks.synthetic.flow_sampler import FlowSampler, effective_sample_size, log_normaliser
from l2l_opt.tasks.tables.recommendation import generate_ratings, rating_error, write_ratings
from scripts.experiments import records

FOLDER = records.RESULTS / "other_tasks"
ADAM = tuple(baseline for baseline in BASELINES if baseline.rule == "adam")
SEED, DRAWS = 0, 10_000
FILE = {"users": 943, "items": 1682, "number": 100_000}
"""Of the ratings file: the numbers of MovieLens 100K."""

BOUNDS: tuple[dict[str, float], ...] = ({}, {"growth": 10.0}, {"caution": 0.0}, {"growth": 10.0, "caution": 0.0})
"""Of a ``scale-free`` rule."""

Scores = Callable[[Student], dict[str, float]]


def common(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--rule", "rule_name", default=DEFAULT, show_default=True),
        click.option("--horizon", "horizons", type=int, multiple=True, default=(500, 2000), show_default=True),
        click.option("--seeds", default=10, show_default=True, help="Students reported on."),
        click.option("--tuning-seeds", default=5, show_default=True, help="Others, that Adam is tuned on."),
        click.option("--out", type=click.Path(path_type=Path), default=FOLDER, show_default=True),
    ):
        command = option(command)
    return command


@click.group()
def group() -> None:
    torch.set_num_threads(1)


@group.command()
@common
@click.option("--ratings", type=int, default=FILE["number"], show_default=True, help="In the file that is generated.")
def recommendation(
    rule_name: str, horizons: tuple[int, ...], seeds: int, tuning_seeds: int, out: Path, ratings: int
) -> None:
    """Matrix factorisation: ratings of each student's own, and one file of ratings for all; test RMSE."""

    def scores(own: Student) -> dict[str, float]:
        assert isinstance(own.family, ModuleTask)
        return {"test_rmse": float(rating_error(own.family, params_of(own), own.data))}

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ratings.csv"
        write_ratings(path, *generate_ratings(torch.Generator().manual_seed(0), **{**FILE, "number": ratings}))
        specs = ["recommendation", f"recommendation:file={path},batch_size=512"]
        rows = [
            row
            for spec in specs
            for horizon in horizons
            for row in compare(rule_name, spec, horizon, seeds, tuning_seeds, scores, name=spec.replace(folder, "."))
        ]
    content = {"file": {**FILE, "number": ratings}, "rmse_unit": "standard deviations of the training ratings"}
    records.write(out / "recommendation.json", {"rule": rule_name, **content, "results": rows})


@group.command()
@common
@click.option("--task", default="flow-sampler", show_default=True)
def density(rule_name: str, horizons: tuple[int, ...], seeds: int, tuning_seeds: int, out: Path, task: str) -> None:
    """A normalising flow fitted by its own draws; effective sample size, and the log of the integral (truly 0)."""

    def scores(own: Student) -> dict[str, float]:
        assert isinstance(own.family, FlowSampler)
        generator = make_generator(SEED, Stream.TEST, own.number)
        weights = own.family.draw_log_weights(params_of(own), own.data, generator, number=DRAWS)
        return {
            "effective_sample_size": float(effective_sample_size(weights)),
            "log_normaliser": float(log_normaliser(weights)),
        }

    rows = [row for horizon in horizons for row in compare(rule_name, task, horizon, seeds, tuning_seeds, scores)]
    records.write(out / "density.json", {"rule": rule_name, "draws": DRAWS, "results": rows})


@group.command()
@common
def bounds(rule_name: str, horizons: tuple[int, ...], seeds: int, tuning_seeds: int, out: Path) -> None:
    """Why the rule is where it is: its weights with the bounds on growth and the first step scale set otherwise.

    On the students that Adam is tuned on, since what comes of it might suggest another rule.
    """
    del seeds
    rule, rows = load_rule(rule_name), []
    for spec in ("recommendation", "flow-sampler"):
        family = make_task(spec)
        for horizon in horizons:
            losses = {}
            for changes in BOUNDS:
                other = make_rule(str(rule.registry_name), **{**rule.config, **changes})
                other.load_state_dict(rule.state_dict())
                curves = training_losses(
                    other, family, numbers=range(tuning_seeds), horizon=horizon, seed=SEED, stream=Stream.TUNING
                )
                name = ", ".join(f"{key} {value:g}" for key, value in changes.items()) or "as shipped"
                losses[name] = float(final_losses(curves).double().mean())
            rows.append({"task": spec, "horizon": horizon, "final_losses": finite(losses)})
            click.echo(f"{spec} {horizon}: " + ", ".join(f"{name} {loss:.4g}" for name, loss in losses.items()))
    records.write(out / "bounds.json", {"rule": rule_name, "students": tuning_seeds, "rows": rows})


def compare(
    rule_name: str, spec: str, horizon: int, seeds: int, tuning_seeds: int, scores: Scores, *, name: str | None = None
) -> list[dict[str, Any]]:
    """The rule, then tuned Adam, on the same students: every metric, its mean and its interval."""
    family, name = make_task(spec), name or spec
    trials = [(own, tune(own, family, horizon=horizon, num_seeds=tuning_seeds, seed=SEED)) for own in ADAM]
    best, tuning = min(trials, key=lambda trial: trial[1].losses[trial[1].lr])
    tried = {own.name: {f"{lr:.3g}": loss for lr, loss in tuning.losses.items()} for own, tuning in trials}
    adam: dict[str, Any] = {"lr": tuning.lr, "schedule": "constant", **best.options, "tried": tried}
    rules = {"learned": (load_rule(rule_name), {"rule": rule_name}), "adam": (best.make(tuning.lr), adam)}
    rows, metrics = [], {}
    for optimizer, (rule, settings) in rules.items():
        metrics[optimizer] = run(rule, spec, horizon, seeds, scores)
        row = {"task": name, "horizon": horizon, "optimizer": optimizer, "settings": settings}
        for key, values in metrics[optimizer].items():
            mean, interval = mean_and_interval(values)
            row[key] = {"mean": mean, "interval": list(interval), "values": values}
        rows.append(finite(row))
        shown = ", ".join(f"{key} {row[key]['mean']:.4g}" for key in metrics[optimizer])
        click.echo(f"{name} {horizon} {optimizer}: {shown}")
    for key, values in metrics["learned"].items():
        mean, interval = mean_and_interval([a - b for a, b in zip(values, metrics["adam"][key], strict=True)])
        rows[0].setdefault("above_adam", {})[key] = finite({"mean": mean, "interval": list(interval)})
    return rows


def run(rule: UpdateRule, spec: str, horizon: int, seeds: int, scores: Scores) -> dict[str, list[float]]:
    """Final training losses, test losses and scores of the reporting students."""
    students = reporting_students(rule, make_task(spec), numbers=range(seeds), horizon=horizon, seed=SEED)
    curves = train(students)
    metrics = {"final_loss": final_losses(curves).double().tolist()}
    for own in students.members:
        test_loss = float(scores_on_test_batches(own.family, params_of(own), own.data, SEED, own.number)[0])
        for key, value in {"test_loss": test_loss, **scores(own)}.items():
            metrics.setdefault(key, []).append(value)
    return metrics


def params_of(own: Student) -> dict[str, torch.Tensor]:
    return {name: param[0] for name, param in own.inner.params.items()}


if __name__ == "__main__":
    group()
