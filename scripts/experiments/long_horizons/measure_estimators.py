"""Measures of meta-gradient estimators; each writes results/long_horizons/NAME.json.

python -m scripts.experiments.long_horizons.measure_estimators bias | variance | norms | batching | checkpointing
"""

import copy
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import click
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from l2l_opt import NRES, PES, FullES, TruncatedBackprop, load_rule
from l2l_opt.inner_loop.unroll import InnerState, unroll
from l2l_opt.kernels import native
from l2l_opt.meta_training.estimators import MetaGradientEstimator, MetaLoss
from l2l_opt.rules import RULES, make_rule
from l2l_opt.rules.base import UpdateRule
from l2l_opt.tasks.mixture import Tasks, make_tasks
from scripts.experiments import records

FOLDER = records.RESULTS / "long_horizons"
CLIPPED = MetaLoss("mean", "log", clip=2.0)


@click.group()
def group() -> None:
    torch.set_num_threads(1)


def one_inner_run(
    estimator: MetaGradientEstimator, rule: UpdateRule, tasks: Tasks, *, num: int, seed: int
) -> list[Tensor]:
    """The meta-gradients of the outer steps of one inner run of fresh students, phi frozen, each flattened."""
    students = estimator.init(rule, tasks, num_students=num, seed=seed)
    gradients = []
    while students.members[0].inner_run == 0:
        meta_gradient, students = estimator.estimate(rule, students)
        gradients.append(torch.cat([gradient.flatten() for gradient in meta_gradient.gradients.values()]).double())
    return gradients


@group.command()
@click.option("--samples", default=20)
@click.option("--students", default=1000)
def bias(samples: int, students: int) -> None:
    """Each estimator against exact gradients: 2-d quadratics, learnable log learning rate, horizon 8, window 2."""
    rule, tasks = make_rule("sgd", lr=0.02).double(), make_tasks("quadratics:dim=2,init_scale=1.0", dtype=torch.float64)
    windows = {"horizon": 8, "truncation_length": 2}
    whole = TruncatedBackprop(horizon=8, truncation_length=8, second_derivatives=True)
    of_windows = TruncatedBackprop(**windows, second_derivatives=True)

    def means(estimator: MetaGradientEstimator) -> list[float]:
        # The same students for all, so that samples differ from what is expected of them by an estimator's noise alone.
        return [float(sum(one_inner_run(estimator, rule, tasks, num=students, seed=seed))) for seed in range(samples)]

    exact, rows = means(whole), []
    for name, estimator in {
        "full-es": FullES(**windows, sigma=0.01),
        "pes": PES(**windows, sigma=0.01),
        "nres": NRES(**windows, sigma=0.01),
        "tbptt": of_windows,
    }.items():
        found = means(estimator)
        expected = _sum_of_windows(rule, tasks, students, samples) if name == "tbptt" else exact
        off = [a - b for a, b in zip(found, expected, strict=True)]
        error = statistics.stdev(off) / math.sqrt(samples)
        target = statistics.mean(expected)
        row = {"estimator": name, "mean": statistics.mean(found), "expected": target, "standard_error": error}
        row["standard_errors_off"] = abs(statistics.mean(off)) / error if error > 0 else 0.0
        rows.append(row | {"relative_error": abs(statistics.mean(off) / target)})
        click.echo(rows[-1])
    greedy = rows[-1]["mean"] / statistics.mean(exact)
    click.echo(f"tbptt's expectation is {greedy:.3f} of the exact meta-gradient")
    content = {"samples": samples, "students": students, "tbptt_over_exact": greedy, "rows": rows}
    records.write(FOLDER / "bias.json", content)


def _sum_of_windows(rule: UpdateRule, tasks: Tasks, students: int, samples: int) -> list[float]:
    """tbptt's expectation by central differences: each window's loss alone, from where unmoved phi has led."""
    estimator = TruncatedBackprop(horizon=8, truncation_length=2)
    phi, step = {name: weight.detach() for name, weight in rule.named_parameters()}, 1e-6
    results = []
    for seed in range(samples):
        group, total = estimator.init(rule, tasks, num_students=students, seed=seed), 0.0
        for _ in range(4):
            (window,) = group.windows(2)
            with torch.no_grad():
                runs = [
                    unroll(
                        rule,
                        window.family,
                        window.data,
                        window.inner,
                        window.batches,
                        phi={name: weight + move for name, weight in phi.items()},
                    )
                    for move in (step, -step, 0.0)
                ]
            above, below, _ = (float(MetaLoss()(losses, losses[0])) for _, losses in runs)
            total += (above - below) / (2 * step)
            group.advance(window, *runs[-1])
        results.append(total)
    return results


@group.command()
@click.option("--rule", "names", default=("compact",), multiple=True, help="Registered names or artefacts.")
@click.option(
    "--task",
    "task_names",
    default=("digits-mlp:hidden=8,batch_size=32", "fashion-mlp:side=8,hidden=8,batch_size=16"),
    multiple=True,
)
@click.option("--samples", default=12)
def variance(names: tuple[str, ...], task_names: tuple[str, ...], samples: int) -> None:
    """Total variance of one outer step's meta-gradient: horizon 1,000, window 50, 16 particles, phi frozen.

    The mean over windows is that of a student at any inner step; the sum over an inner run is that of phi frozen for
    all of it.
    """
    rows = []
    for name in names:
        for task in task_names:
            rule, row = read_rule(name), {"rule": name, "task": task}
            if (card := getattr(rule, "card", None)) is not None:
                row |= {"rule": "artefact", "digest": card["digest"], "provenance": card["provenance"]}
            for estimator in (PES, NRES):
                made = estimator(horizon=1000, truncation_length=50, sigma=0.01, meta_loss=CLIPPED, group_size=8)
                inner_runs = torch.stack(
                    [
                        torch.stack(one_inner_run(made, rule, make_tasks(task), num=8, seed=seed))
                        for seed in range(samples)
                    ]
                )
                by_window = inner_runs.var(dim=0).sum(dim=1)
                row[estimator.__name__.lower()] = {
                    "mean_over_windows": float(by_window.mean()),
                    "of_the_sum_of_an_episode": float(inner_runs.sum(dim=1).var(dim=0).sum()),
                    "by_window": by_window.tolist(),
                }
            for key in ("mean_over_windows", "of_the_sum_of_an_episode"):
                row[f"nres_over_pes_{key}"] = row["nres"][key] / row["pes"][key]
            click.echo(f"{name} on {task}: {row['nres_over_pes_mean_over_windows']:.3f} in the mean over windows")
            rows.append(row)
    records.write(FOLDER / "variance.json", {"samples": samples, "sigma": 0.01, "rows": rows})


@group.command()
@click.option("--rule", "names", default=("compact", "lstm"), multiple=True)
@click.option("--task", default="digits-mlp")
@click.option("--outer-steps", default=20)
def norms(names: tuple[str, ...], task: str, outer_steps: int) -> None:
    """Norms of meta-gradients, phi frozen, students all over a horizon of 2,000 (of the window for tbptt-K)."""
    tasks, rows = make_tasks(task), []
    for name in names:
        for kind, length in (("tbptt", 20), ("tbptt", 40), ("tbptt", 80), ("nres", 50)):
            maker = TruncatedBackprop if kind == "tbptt" else NRES
            estimator = maker(horizon=2000, truncation_length=length, meta_loss=CLIPPED, staggered=True)
            rule = read_rule(name)
            students = estimator.init(rule, tasks, num_students=8, seed=0)
            found = []
            for _ in range(outer_steps):
                meta_gradient, students = estimator.estimate(rule, students)
                found.append(math.sqrt(sum(float(g.double().square().sum()) for g in meta_gradient.gradients.values())))
            row = {"rule": name, "estimator": kind, "window": length, "horizon": 2000}
            row |= {"median_norm": statistics.median(found), "greatest_norm": max(found)}
            rows.append(row)
            click.echo(row)
    records.write(FOLDER / "norms.json", {"task": task, "outer_steps": outer_steps, "rows": rows})


@group.command()
@click.option("--repeats", default=9)
@click.option("--steps", default=20)
def batching(repeats: int, steps: int) -> None:
    """16 particles with their own phi in one unroll against a loop over them, interleaved; and whether losses agree."""
    rule, tasks = make_rule("compact"), make_tasks("digits-mlp")
    estimator = NRES(horizon=100, truncation_length=steps, sigma=0.01)
    students = estimator.init(rule, tasks, num_students=8, seed=0)
    phi = {key: weight.detach() for key, weight in rule.named_parameters()}
    noise = [estimator.perturb(phi, students, student)[0] for student in students.members]
    (window,) = students.windows(steps)
    particles = [{key: phi[key] + sign * eps[key] for key in phi} for eps in noise for sign in (1, -1)]

    def alone(index: int) -> Tensor:
        def one(leaf: Tensor) -> Tensor:
            return leaf[index : index + 1]

        inner = InnerState(*tree_map(one, (window.inner.params, window.inner.state, window.inner.num_steps)))
        batches = tree_map(one, window.batches)
        return unroll(rule, window.family, tree_map(one, window.data), inner, batches, phi=particles[index])[1]

    def together() -> Tensor:
        return estimator.run_pairs(rule, phi, window, noise)[1]

    def looped() -> Tensor:
        return torch.cat([alone(index) for index in range(16)], dim=1)

    with torch.no_grad():
        difference = float((together() - looped()).abs().max())
        taken: dict[str, list[float]] = {"together": [], "looped": []}
        for _ in range(repeats):
            for name, run in (("together", together), ("looped", looped)):
                taken[name].append(seconds(run) / 16)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    content = {"steps": steps, "seconds_per_particle": medians, "ratio": medians["looped"] / medians["together"]}
    content["greatest_difference_of_losses"] = difference
    click.echo(content)
    records.write(FOLDER / "batching.json", {**content, "repeats": repeats})


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@group.command()
@click.option("--window", default=100)
def checkpointing(window: int) -> None:
    """Peak memory of one outer step of tbptt beyond what the process held, with gradient checkpointing and not.

    With compiled kernels lstm and rnnprop are replayed and keep no graph, with checkpointing or without.
    """
    rows = {}
    for rule, task, kernels in (
        ("compact", "digits-mlp:hidden=64", "compiled"),
        ("lstm", "digits-mlp:hidden=64", "compiled"),
        ("lstm", "digits-mlp:hidden=64", "PyTorch"),
        ("rnnprop", "digits-mlp", "compiled"),
        ("rnnprop", "digits-mlp", "PyTorch"),
    ):
        environment = os.environ | ({} if kernels == "compiled" else {native.DISABLED_BY: "1"})
        for flag in (False, True):
            # A process each, so that peaks do not hide one another.
            arguments = ["one-peak", rule, task, str(window), *(["--on"] if flag else [])]
            command = [sys.executable, "-m", __spec__.name, *arguments]
            peak, taken = subprocess.run(
                command, capture_output=True, text=True, check=True, env=environment
            ).stdout.split()
            rows.setdefault(f"{rule} on {task}, kernels in {kernels}", []).append(
                {"mebibytes": float(peak), "seconds": float(taken)}
            )
    content = {
        "window": window,
        "students": 8,
        "rows": [
            {"case": case, "without": off, "with": on, "memory_ratio": on["mebibytes"] / off["mebibytes"]}
            for case, (off, on) in rows.items()
        ],
    }
    for row in content["rows"]:
        click.echo(row)
    records.write(FOLDER / "checkpointing.json", content)


@group.command(hidden=True)
@click.argument("rule")
@click.argument("task")
@click.argument("window", type=int)
@click.option("--on", is_flag=True)
def one_peak(rule: str, task: str, window: int, on: bool) -> None:
    update_rule, tasks = make_rule(rule), make_tasks(task)
    estimator = TruncatedBackprop(horizon=window, truncation_length=window, gradient_checkpointing=on)
    short = copy.copy(estimator)
    short.truncation_length = 1
    short.estimate(update_rule, estimator.init(update_rule, tasks, num_students=1, seed=0))
    students = estimator.init(update_rule, tasks, num_students=8, seed=0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    taken = seconds(lambda: estimator.estimate(update_rule, students))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    click.echo(f"{(after - before) / 1024} {taken}")


def read_rule(name: str) -> UpdateRule:
    return make_rule(name) if name.partition(":")[0] in RULES.names() else load_rule(name)


if __name__ == "__main__":
    group()
