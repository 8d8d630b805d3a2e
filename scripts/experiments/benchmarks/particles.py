"""Student-steps a second of meta-training, compiled and not.

    python -m scripts.experiments.benchmarks.particles              # writes results/default/particles.json and .md
    python -m scripts.experiments.benchmarks.particles --only "digits, 8"     # keeps the other rows

A student-step is one inner step of one student, in evolution under one disturbed phi: its loss and gradient, and the
rule's update; in truncated backprop their derivatives too. Noise-reuse evolution of `scale-free` with 4 and 64 pairs on
each family of default-4, and with 64 on all five as a mixture, 8 pairs an architecture; truncated backprop with 8
students. Windows of ten steps, both kinds by turns, medians of seven, seconds of the processor on one thread.
"""

import json
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


BACKPROP = {"digits, 8": "digits-mlp:hidden=20"}
"""Of 8 students."""


def cases() -> dict[str, tuple[str, str, int]]:
    """What is measured, by its name in the table: an estimator, a task, and pairs or students."""
    found = {f"{name}, {pairs}": ("nres", task, pairs) for pairs in (4, 64) for name, task in FAMILIES.items()}
    found["all five, 64"] = ("nres", " + ".join(FAMILIES.values()), 64)
    return found | {name: ("tbptt", task, 8) for name, task in BACKPROP.items()}


def seconds(name: str, task: str, students: int) -> dict[str, float]:
    """Processor's seconds a student-step, plain and compiled, and of compiling, by the clock."""
    own = {"sigma": 0.1} if name == "nres" else {}
    each = 2 * students if name == "nres" else students
    rule, runs = make_rule("scale-free"), {}
    for kind in ("plain", "compiled"):
        estimator = ESTIMATORS.make(
            name, horizon=1000, truncation_length=STEPS, compile=kind == "compiled", group_size=8, **own
        )
        drawn = estimator.init(rule, make_tasks(task), num_students=students, seed=0)
        start = time.perf_counter()
        estimator.estimate(rule, drawn)
        runs[kind] = (estimator, drawn, time.perf_counter() - start)
    taken: dict[str, list[float]] = {kind: [] for kind in runs}
    for _ in range(REPEATS):
        for kind, (estimator, drawn, _) in runs.items():
            start = time.process_time()
            estimator.estimate(rule, drawn)
            taken[kind].append((time.process_time() - start) / (each * STEPS))
    medians = {kind: statistics.median(own) for kind, own in taken.items()}
    return medians | {"first_call": runs["compiled"][2]}


def table(results: dict[str, dict[str, float]]) -> str:
    """Markdown of all that was measured."""
    lines = [
        "# Student-steps a second",
        "",
        "Written by `python -m scripts.experiments.benchmarks.particles`: meta-training of `scale-free` on one core,",
        "by noise-reuse evolution, or by truncated backprop (`tbptt`). *First call* compiles, by the clock.",
        "",
        "| estimator: tasks, pairs or students | plain | compiled | ratio | first call, s |",
        "|---|---|---|---|---|",
    ]
    for name, (estimator, _, _) in cases().items():
        if name in results:
            found = results[name]
            rates = (
                f"{1 / found['plain']:,.0f} | {1 / found['compiled']:,.0f} | {found['plain'] / found['compiled']:.2f}"
            )
            lines.append(f"| `{estimator}`: {name} | {rates} | {found['first_call']:.0f} |")
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--only", multiple=True, type=click.Choice(list(cases())))
@click.option("--out", type=click.Path(path_type=Path), default=records.RESULTS / "default", show_default=True)
def main(only: tuple[str, ...], out: Path) -> None:
    """Measure student-steps a second."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    path = out / "particles.json"
    results = json.loads(path.read_text())["results"] if only and path.exists() else {}
    for name in only or cases():
        results[name] = seconds(*cases()[name])
        click.echo(f"{name}: {results[name]}")
    records.write(path, {"results": results})
    (out / "particles.md").write_text(table(results))


if __name__ == "__main__":
    main()
