"""Examples that end in the measure of a chaotic run, on ten seeds: the median and the worst, which their guides state.

    python -m scripts.experiments.examples.measure_examples                         # all of them
    python -m scripts.experiments.examples.measure_examples density recommendation

Each writes results/examples/NAME.json. Runs are those of the example as a user starts it, but for the seed; rounding
differs between processors, and moves a chaotic run as another seed does. Ten seeds of the examples on fraud and on
placeholder images are in results/industry.
"""

import importlib
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import click
import torch

from l2l_opt.tasks import make_task
from scripts.experiments import records

FOLDER = records.RESULTS / "examples"

Measures = dict[str, float]


def density(example: ModuleType, seed: int) -> Measures:
    _, (sample_size, integral) = example.train(steps=1000, seed=seed)
    _, (of_short_run, _) = example.train(steps=500, batch_size=128, seed=seed)
    return {
        "effective sample size": sample_size,
        "error of the integral": abs(integral / torch.pi - 1),
        "effective sample size, 500 steps, batches of 128": of_short_run,
    }


def recommendation(example: ModuleType, seed: int) -> Measures:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ratings.csv"
        example.write_ratings(file, *example.generate_ratings(torch.Generator().manual_seed(seed), 8000))
        error, error_of_mean, _ = example.train(file, steps=1000, seed=seed)
    return {"test RMSE": error, "test RMSE over that of the mean": error / error_of_mean}


def reinforcement_learning(example: ModuleType, seed: int) -> Measures:
    learner = example.fresh_learner(
        make_task("navigation"), "sgd:lr=0.0003", outer_steps=150, inner_steps=1, environments=10, seed=seed
    )
    learner.run()
    returns = example.returns_after_steps(learner, most=3, environments=40)
    return {
        "return after 1 step": returns[1],
        "gain by 1 step": returns[1] - returns[0],
        "return after 3 steps": returns[3],
    }


def gymnasium_policy(example: ModuleType, seed: int) -> Measures:
    returns = example.train("CartPole-v1", rule="default-1", updates=100, episodes=10, steps=200, seed=seed)
    return {"return of the last tenth": sum(returns[-10:]) / 10}


@dataclass(frozen=True)
class Example:
    """Where an example is, how it is run on one seed, and which of its measures are the better the lower they are."""

    module: str
    run: Callable[[ModuleType, int], Measures]
    lower: tuple[str, ...] = ()


MEASURED = {
    "density": Example("density.importance_sampling", density, lower=("error of the integral",)),
    "recommendation": Example(
        "recommendation.matrix_factorisation", recommendation, lower=("test RMSE", "test RMSE over that of the mean")
    ),
    "reinforcement_learning": Example("reinforcement_learning.adapting_policies", reinforcement_learning),
    "gymnasium_policy": Example("reinforcement_learning.gymnasium_policy", gymnasium_policy),
}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(MEASURED)))
@click.option("--seeds", default=10, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=FOLDER, show_default="results/examples")
def main(names: tuple[str, ...], seeds: int, out: Path) -> None:
    torch.set_num_threads(1)
    for name in names or MEASURED:
        own = MEASURED[name]
        command = f"scripts.examples.{own.module}"
        module = importlib.import_module(command)
        runs = [own.run(module, seed) for seed in range(seeds)]
        measures = {}
        for measure in runs[0]:
            values = [run[measure] for run in runs]
            worst = (max if measure in own.lower else min)(values)
            measures[measure] = {"median": statistics.median(values), "worst": worst, "values": values}
            click.echo(f"{name}: {measure}: median {measures[measure]['median']:.3g}, worst {worst:.3g}")
        records.write(out / f"{name}.json", {"example": f"python -m {command}", "figures": measures})


if __name__ == "__main__":
    main()
