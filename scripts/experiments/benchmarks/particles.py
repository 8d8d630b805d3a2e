"""Particle-steps a second of evolution, with students' losses and gradients compiled and not.

    python -m scripts.experiments.benchmarks.particles                  # writes results/default/particles.json and .md

A particle-step is one inner step of one student under one disturbed phi: its loss and gradient, and the rule's update.
Noise-reuse evolution of `scale-free` with 4 and 64 pairs on each family of default-4, and with 64 on all five as a
mixture, 8 pairs an architecture; windows of ten steps, both kinds by turns, medians of seven, seconds of the processor
on one thread.
"""

import statistics
import time
from pathlib import Path

import click
import torch

from l2l_opt.meta_training.estimators import ESTIMATORS
from l2l_opt.rules import make_rule
from l2l_opt.tasks.mixture import make_tasks
from scripts.experiments import records
from scripts.experiments.default.meta_train_default import FAMILIES

STEPS, REPEATS = 10, 7


def seconds(task: str, pairs: int) -> dict[str, float]:
    """Processor's seconds a particle-step, plain and compiled, and of compiling, by the clock."""
    rule, runs = make_rule("scale-free"), {}
    for kind in ("plain", "compiled"):
        estimator = ESTIMATORS.make(
            "nres", sigma=0.1, horizon=1000, truncation_length=STEPS, compile=kind == "compiled", group_size=8
        )
        students = estimator.init(rule, make_tasks(task), num_students=pairs, seed=0)
        start = time.perf_counter()
        estimator.estimate(rule, students)
        runs[kind] = (estimator, students, time.perf_counter() - start)
    taken: dict[str, list[float]] = {kind: [] for kind in runs}
    for _ in range(REPEATS):
        for kind, (estimator, students, _) in runs.items():
            start = time.process_time()
            estimator.estimate(rule, students)
            taken[kind].append((time.process_time() - start) / (2 * pairs * STEPS))
    medians = {kind: statistics.median(own) for kind, own in taken.items()}
    return medians | {"first_call": runs["compiled"][2]}


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=records.RESULTS / "default", show_default=True)
def main(out: Path) -> None:
    """Measure particle-steps a second."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    lines = [
        "# Particle-steps a second",
        "",
        "Written by `python -m scripts.experiments.benchmarks.particles`: noise-reuse evolution, one core.",
        "*First call* compiles, by the clock.",
        "",
        "| students, pairs | plain | compiled | ratio | first call, s |",
        "|---|---|---|---|---|",
    ]
    results = {}
    every = {f"{name}, {pairs}": (task, pairs) for pairs in (4, 64) for name, task in FAMILIES.items()}
    for name, (task, pairs) in {**every, "all five, 64": (" + ".join(FAMILIES.values()), 64)}.items():
        found = results[name] = seconds(task, pairs)
        ratio = found["plain"] / found["compiled"]
        row = f"| {name} | {1 / found['plain']:,.0f} | {1 / found['compiled']:,.0f} | {ratio:.2f} "
        lines.append(f"{row}| {found['first_call']:.0f} |")
        click.echo(lines[-1])
    records.write(out / "particles.json", {"results": results})
    (out / "particles.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
