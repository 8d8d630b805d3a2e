"""Core-hours that all baselines take on the held-out suite, estimated from timed steps.

    python -m scripts.experiments.held_out.estimate_cost

Of each task and each kind of optimizer a few steps are timed (the process's own time), in batches as tuning runs them
and in a plain loop as the untuned ones run; the rest is counted. Writes cost.json. No learned rule is run.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch

from l2l_opt.evaluation.baselines.entries import ENTRIES, Entry, entries_for
from l2l_opt.evaluation.baselines.torch_optimizers import run_torch_optimizer
from l2l_opt.evaluation.baselines.tuning import Baseline
from l2l_opt.evaluation.speed_up import CAP, NEIGHBOURS
from l2l_opt.evaluation.suites import load_suite
from l2l_opt.evaluation.task import SuiteConfig
from l2l_opt.inner_loop.training import training_losses
from l2l_opt.randomness import Stream
from l2l_opt.tasks import TaskFamily, make_task
from scripts.experiments import records

WIDENED = 3 / 7
"""Of a grid, that is tried more: once where the best rate sits at its edge, which is taken to be so of every grid."""
BATCH = 21
"""Students of one call of tuning."""


def seconds_a_step(run: Callable[[int], Any], *, students: int, steps: int) -> float:
    """Seconds of this process a step and student, beginning and end taken out."""
    times = []
    for length in (2, 2 + steps):
        start = time.process_time()
        run(length)
        times.append(time.process_time() - start)
    return max(times[1] - times[0], 0.0) / steps / students


def batched(baseline: Baseline, family: TaskFamily, steps: int) -> float:
    def run(horizon: int) -> None:
        numbers = list(range(BATCH))
        training_losses(
            baseline.make(1e-3), family, numbers=numbers, horizon=horizon, seed=0, stream=Stream.TUNING, group_size=1
        )

    return seconds_a_step(run, students=BATCH, steps=steps)


def student_horizons(entry: Entry, config: SuiteConfig) -> float:
    """Trainings over one horizon that an entry takes: trials, reports, and the long runs that speed-ups are against."""
    if entry.make is not None:
        return config.num_seeds
    trials = sum(len(variant.half_decades) for variant in entry.variants) * (1 + WIDENED) * config.tuning_seeds
    own = trials + config.num_seeds
    return own + (1 + len(NEIGHBOURS) * CAP) * config.num_seeds if entry.name == "adamw" else own


def of_task(task: str, horizons: tuple[int, ...], config: SuiteConfig, steps: int) -> dict[str, Any]:
    family = make_task(task)
    entries, _ = entries_for(family, task, list(ENTRIES.values()))
    rates: dict[str, float] = {}
    hours: dict[str, float] = {}
    for entry in entries:
        if entry.make is not None:
            make = entry.make
            own = seconds_a_step(
                lambda length, make=make: run_torch_optimizer(make, family, horizon=length, num_seeds=1, seed=0),
                students=1,
                steps=steps,
            )
        else:
            rule = entry.variants[0].rule
            own = rates[rule] = rates[rule] if rule in rates else batched(entry.variants[0], family, steps)
        hours[entry.name] = own * student_horizons(entry, config) * sum(horizons) / 3600
    return {
        "task": task,
        "horizons": list(horizons),
        "milliseconds_a_step": {rule: round(1000 * value, 3) for rule, value in rates.items()},
        "core_hours": {name: round(value, 3) for name, value in hours.items()},
        "total": round(sum(hours.values()), 3),
    }


@click.command()
@click.option("--suite", "name", default="held-out", show_default=True)
@click.option("--steps", default=4, show_default=True, help="That are timed.")
@click.option("--out", type=click.Path(path_type=Path), default=records.RESULTS / "held_out", show_default="results")
def main(name: str, steps: int, out: Path) -> None:
    """Estimate the core-hours of all baselines."""
    torch.set_num_threads(1)
    suite, config = load_suite(name), SuiteConfig()
    rows = []
    for task in suite.tasks:
        rows.append(of_task(task, suite.horizons_of(task, suite.own_horizons or config.horizons), config, steps))
        click.echo(f"{rows[-1]['total']:7.3f} core-hours  {task}")
    total = round(sum(row["total"] for row in rows), 2)
    records.write(out / "cost.json", {"suite": name, "core_hours": total, "tasks": rows})
    click.echo(f"{total} core-hours in all")


if __name__ == "__main__":
    main()
