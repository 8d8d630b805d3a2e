"""The rule's step and the unroll timed beside others' on the same work; writes results/benchmarks/NAME.json and plots.

    python -m scripts.experiments.benchmarks.benchmark all     # one after the other:
    python -m scripts.experiments.benchmarks.benchmark drop-in   # meta-training, memory, sizes, hidden, threads, plots

Peers take turns in one process, which is bound to as many cores as it has threads; medians of at least 7 rounds.
Before any is timed, results are compared: the same parameters after 3 steps, the same losses and meta-gradients.
Needs the extra [bench].
"""
# ruff: noqa: E402 - cores are bound before libraries are imported that count them

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

THREADS = int(os.environ.get("BENCHMARK_THREADS", "1"))
CORES = os.sched_getaffinity(0)
if __name__ == "__main__":
    # Before JAX and torch are imported, since they ask how many cores they may use but once.
    os.sched_setaffinity(0, set(sorted(CORES)[:THREADS]))

import numpy as np
import torch
from torch import Tensor

from l2l_opt import LearnedOptimizer
from l2l_opt.inner_loop.unroll import InnerState, unroll
from l2l_opt.kernels import native
from l2l_opt.rules import make_rule
from l2l_opt.rules.base import UpdateRule
from scripts.experiments import records

FOLDER = records.RESULTS / "benchmarks"
WIDTHS = (784, 20, 10)
STEPS, BATCH = 20, 128


@click.group()
def group() -> None:
    torch.set_num_threads(THREADS)


def interleaved(peers: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each peer in each round; one round before them warms up and is thrown away."""
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for round_number in range(rounds + 1):
        for name, run in peers.items():
            start = time.perf_counter()
            run()
            if round_number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def table(seconds: Mapping[str, list[float]], work: float) -> list[dict[str, Any]]:
    """Nanoseconds a unit of work, and how many times our time a peer takes: the median of ratios within a round."""
    ours = next(iter(seconds))
    rows = []
    for name, own in seconds.items():
        ratios = [theirs / our for theirs, our in zip(own, seconds[ours], strict=True)]
        row = {"peer": name, "ns": statistics.median(own) / work * 1e9, "times_ours": statistics.median(ratios)}
        click.echo(f"{name:<32} {row['ns']:9.1f} ns {row['times_ours']:7.2f} times ours")
        rows.append(row | {"seconds": own})
    return rows


def write(name: str, content: dict[str, Any]) -> None:
    records.write(FOLDER / f"{name}.json", {"kernels": native.describe(), **content})


def model(count: int) -> list[Tensor]:
    """Parameters of a network of about ``count``: square matrices of at most 1,024 rows, and a bias each."""
    side = min(1024, int((count / 2) ** 0.5))
    layers = max(round(count / (side * (side + 1))), 1)
    return [0.05 * torch.randn(side, *shape) for _ in range(layers) for shape in ((side,), ())]


def gradients_of(params: list[Tensor]) -> list[Tensor]:
    return [1e-2 * torch.randn_like(p) for p in params]


class Ours:
    """The drop-in optimizer's step."""

    def __init__(self, rule: UpdateRule, params: list[Tensor], gradients: list[Tensor]):
        self.params = [p.clone().requires_grad_() for p in params]
        for p, g in zip(self.params, gradients, strict=True):
            p.grad = g.clone()
        self.optimizer = LearnedOptimizer(self.params, rule, num_steps=1000)
        self.step = self.optimizer.step

    def first(self) -> np.ndarray:
        return self.params[0].detach().numpy()


def torch_optimizer(make: Callable[..., Any], params: list[Tensor], gradients: list[Tensor], **options: Any) -> Any:
    own = [p.clone().requires_grad_() for p in params]
    for p, g in zip(own, gradients, strict=True):
        p.grad = g.clone()
    return make(own, **options).step


def agree(name: str, found: Any, expected: Any, *, within: float) -> None:
    """Stops the benchmark where a peer computes something else."""
    found, expected = np.asarray(found), np.asarray(expected)
    error = float(np.abs(found - expected).max() / np.abs(expected).max())
    click.echo(f"{name}: differs by {error:.1e} of the largest value")
    if not error <= within:
        raise click.ClickException(f"peers must compute the same to {within}; {name} differs by {error}")


@group.command("drop-in")
@click.option("--rounds", default=9)
@click.option("--parameters", default=1_070_000)
def drop_in(rounds: int, parameters: int) -> None:
    """A step of the LSTM 2x20 on a model of 1.07 million parameters."""
    from scripts.experiments.benchmarks import peers

    torch.manual_seed(0)
    params = model(parameters)
    gradients, count = gradients_of(params), sum(p.numel() for p in params)
    rule = make_rule("lstm")
    made: dict[str, Any] = {"l2l_opt": Ours(rule, params, gradients)}
    made["PyTorch, tensor by tensor"] = peers.TorchNaive(rule, params, gradients)
    made["PyTorch, compiled blocks"] = peers.TorchCompiled(rule, params, gradients)
    made["JAX, obvious"] = peers.JaxObvious(rule, params, gradients)
    made["JAX, blocks, features first"] = peers.JaxBlocked(rule, params, gradients)
    for peer in made.values():
        for _ in range(3):
            peer.step()
    for name, peer in made.items():
        change = peer.first() - params[0].numpy()
        agree(name, change, made["l2l_opt"].first() - params[0].numpy(), within=1e-4)
    runs = {name: peer.step for name, peer in made.items()}
    runs["Adam, fused"] = torch_optimizer(torch.optim.Adam, params, gradients, fused=True)
    runs["Adam, foreach"] = torch_optimizer(torch.optim.Adam, params, gradients, foreach=True)
    write("drop-in" + _suffix(), {"parameters": count, "rows": table(interleaved(runs, rounds), count)})


class Student:
    """The multilayer perceptron as a task: its batches are made beforehand."""

    def loss(self, params: dict[str, Tensor], data: Any, batch: Any) -> Tensor:
        x, labels = batch
        for layer in range(len(WIDTHS) - 1):
            x = x if layer == 0 else x.sigmoid()
            x = torch.nn.functional.linear(x, params[f"{layer}.weight"], params[f"{layer}.bias"])
        return torch.nn.functional.cross_entropy(x, labels)


def problem(students: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Weights, images and labels of some students, each with a leading axis."""
    generator = torch.Generator().manual_seed(0)
    params = {}
    for layer, (before, after) in enumerate(pairwise(WIDTHS)):
        weight = torch.randn(students, after, before, generator=generator) / before**0.5
        params |= {f"{layer}.weight": weight, f"{layer}.bias": torch.zeros(students, after)}
    images = torch.rand(students, STEPS + 1, BATCH, WIDTHS[0], generator=generator)
    labels = torch.randint(0, WIDTHS[-1], (students, STEPS + 1, BATCH), generator=generator)
    return params, images, labels


def our_meta_gradient(rule: UpdateRule, students: int) -> Callable[[], tuple[float, list[np.ndarray]]]:
    params, images, labels = problem(students)
    single = rule.init_state({name: p[0] for name, p in params.items()})
    state = {name: {k: v.expand(students, *v.shape).clone() for k, v in own.items()} for name, own in single.items()}
    inner = InnerState(params, state, None)
    batches = [(images[:, step], labels[:, step]) for step in range(STEPS + 1)]
    phi = dict(rule.named_parameters())

    def run() -> tuple[float, list[np.ndarray]]:
        _, losses = unroll(rule, Student(), {}, inner, batches)  # pyright: ignore[reportArgumentType]
        total = losses[1:].sum()
        return float(total.detach()), [g.numpy() for g in torch.autograd.grad(total, list(phi.values()))]

    return run


def naive_meta_gradient(rule: Any, students: int) -> Callable[[], tuple[float, list[np.ndarray]]]:
    from scripts.experiments.benchmarks import peers

    params, images, labels = problem(students)

    def run() -> tuple[float, list[np.ndarray]]:
        results = [
            peers.torch_meta_gradient(rule, WIDTHS, [p[s] for p in params.values()], images[s], labels[s])
            for s in range(students)
        ]
        return sum(loss for loss, _ in results), [sum(column) for column in zip(*(g for _, g in results), strict=True)]

    return run


def jax_meta_gradient(rule: Any, students: int, *, strongest: bool) -> Callable[[], tuple[Any, list[Any]]]:
    import jax.numpy as jnp

    from scripts.experiments.benchmarks import peers

    params, images, labels = problem(students)
    own = slice(None) if students > 1 else 0
    compiled = peers.jax_meta_gradient(rule, WIDTHS, strongest=strongest)
    arguments = [jnp.asarray(p[own].numpy()) for p in params.values()]
    data = jnp.asarray(images[own].numpy()), jnp.asarray(labels[own].numpy())
    return lambda: compiled(arguments, *data)


PEERS: dict[str, Callable[..., Callable[[], Any]]] = {
    "l2l_opt": our_meta_gradient,
    "PyTorch, tensor by tensor": naive_meta_gradient,
    "JAX, obvious": lambda rule, students: jax_meta_gradient(rule, students, strongest=False),
    "JAX, checkpoints, features first": lambda rule, students: jax_meta_gradient(rule, students, strongest=True),
}


@group.command("meta-training")
@click.option("--rounds", default=7)
@click.option("--students", "counts", type=int, multiple=True, default=(1, 8, 64))
def meta_training(rounds: int, counts: tuple[int, ...]) -> None:
    """A truncation of 20 steps of 784-20-10 networks under the LSTM 2x20, forward and backward."""
    torch.manual_seed(0)
    rule = make_rule("lstm")
    coordinates = sum(after * (before + 1) for before, after in pairwise(WIDTHS))
    rows = {}
    for students in counts:
        click.echo(f"{students} students")
        # Of more students peers would only need more minutes, and more memory than a machine has.
        runs = {name: make(rule, students) for name, make in PEERS.items() if students <= 8 or name == "l2l_opt"}
        loss, gradients = runs["l2l_opt"]()
        for name, run in runs.items():
            other_loss, other_gradients = run()
            agree(f"{name}, losses", other_loss, loss, within=1e-4)
            for ours, theirs in zip(gradients, other_gradients, strict=True):
                agree(f"{name}, meta-gradient", theirs, ours, within=1e-2)
        rows[students] = table(interleaved(runs, rounds), coordinates * STEPS * students)
    write("meta-training" + _suffix(), {"coordinates": coordinates, "steps": STEPS, "rows_by_students": rows})


@group.command()
@click.argument("peer", required=False)
def memory(peer: str | None) -> None:
    """Peak memory of one truncation of 20 beyond what the process held before it, each peer in a process of its own."""
    if peer is not None:
        torch.manual_seed(0)
        rule = make_rule("lstm")
        run = PEERS[peer](rule, 1)
        # A warm-up of another size would do for libraries' own buffers, but compiled peers have one size only.
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        run()
        click.echo(f"MiB {(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}")
        return
    rows = []
    for name in PEERS:
        environment = {**os.environ, "BENCHMARK_THREADS": "1"}
        command = [sys.executable, "-m", __spec__.name, "memory", name]
        found = [
            float(
                subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()[-1]
            )
            for _ in range(3)
        ]
        rows.append({"peer": name, "mib": statistics.median(found)})
        click.echo(f"{name:<32} {rows[-1]['mib']:7.1f} MiB")
    write("memory", {"rows": rows})


RULES = {"lstm": "LSTM 2x20", "rnnprop": "RNNProp", "compact": "compact"}


@group.command()
@click.option("--rounds", default=9)
@click.option("--parameters", "counts", type=int, multiple=True, default=(10_000, 100_000, 1_000_000, 10_000_000))
def sizes(rounds: int, counts: tuple[int, ...]) -> None:
    """The drop-in step of every learned rule, and Adam's, over sizes of the model."""
    rows = []
    for count in counts:
        torch.manual_seed(0)
        params = model(count)
        gradients, total = gradients_of(params), sum(p.numel() for p in params)
        click.echo(f"{total} parameters")
        runs: dict[str, Any] = {name: Ours(make_rule(name), params, gradients).step for name in RULES}
        runs["adam"] = torch_optimizer(torch.optim.Adam, params, gradients, fused=True)
        # A step of a small model ends before a clock is worth reading: several together.
        repeats = max(100_000 // count, 1)
        repeated = {name: (lambda run=run, times=repeats: [run() for _ in range(times)]) for name, run in runs.items()}
        rows.append({"parameters": total, "rows": table(interleaved(repeated, rounds), total * repeats)})
    write("sizes" + _suffix(), {"results": rows})


@group.command()
@click.option("--rounds", default=7)
def hidden(rounds: int) -> None:
    """The drop-in step over hidden sizes of one and two layers, beside JAX's strongest, on 200,000 parameters."""
    from scripts.experiments.benchmarks import peers

    rows = []
    for layers in (1, 2):
        for units in (4, 8, 16, 20, 32):
            torch.manual_seed(0)
            params = model(200_000)
            gradients, rule = gradients_of(params), make_rule("lstm", hidden_size=units, num_layers=layers)
            click.echo(f"{layers} layers of {units}")
            made = {"l2l_opt": Ours(rule, params, gradients)}
            made["JAX, blocks, features first"] = peers.JaxBlocked(rule, params, gradients)
            runs = {name: peer.step for name, peer in made.items()}
            count = sum(p.numel() for p in params)
            rows.append({"layers": layers, "units": units, "rows": table(interleaved(runs, rounds), count)})
    write("hidden", {"results": rows})


@group.command()
@click.option("--rounds", default=9)
def threads(rounds: int) -> None:
    """Two threads against one, in one process: drop-in steps and a truncation of meta-training."""
    os.sched_setaffinity(0, CORES)
    torch.manual_seed(0)
    params = model(1_070_000)
    gradients = gradients_of(params)
    works: dict[str, Callable[[], Any]] = {name: Ours(make_rule(name), params, gradients).step for name in RULES}
    works["meta-training, 8 students"] = our_meta_gradient(make_rule("lstm"), 8)

    def with_threads(run: Callable[[], Any], number: int) -> Callable[[], Any]:
        def timed() -> None:
            torch.set_num_threads(number)
            run()

        return timed

    rows = []
    for name, run in works.items():
        seconds = interleaved({f"{number} threads": with_threads(run, number) for number in (2, 1)}, rounds)
        speed_up = statistics.median(a / b for a, b in zip(seconds["1 threads"], seconds["2 threads"], strict=True))
        rows.append({"work": name, "times_faster": speed_up, "seconds": seconds})
        click.echo(f"{name}: two threads are {speed_up:.2f} times as fast as one")
    write("threads", {"rows": rows})


@group.command()
def plots() -> None:
    """Draw what has been measured."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    def bars(axes: Any, rows: list[dict[str, Any]], title: str) -> None:
        rows = sorted(rows, key=lambda row: row["ns"], reverse=True)
        axes.barh([row["peer"] for row in rows], [row["ns"] for row in rows])
        for index, row in enumerate(rows):
            axes.text(row["ns"], index, f" {row['ns']:,.0f}", va="center")
        axes.set(title=title, xlabel="ns")
        axes.margins(x=0.15)

    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4), layout="constrained")
    bars(left, _read("drop-in")["rows"], "Drop-in step, LSTM 2x20, a parameter")
    bars(right, _read("meta-training")["rows_by_students"]["1"], "Meta-training, a coordinate and inner step")
    figure.savefig(FOLDER / "peers.svg")
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    results = _read("sizes")["results"]
    for index, row in enumerate(results[0]["rows"]):
        values = [result["rows"][index]["ns"] for result in results]
        axes.plot([result["parameters"] for result in results], values, marker="o", label=row["peer"])
    axes.set(xscale="log", yscale="log", xlabel="parameters", ylabel="ns a parameter", title="Drop-in step, one thread")
    axes.legend()
    figure.savefig(FOLDER / "sizes.svg")


@group.command("all")
def everything() -> None:
    """All of the above; with two threads too where two threads matter."""
    # What it starts may use all cores again.
    os.sched_setaffinity(0, CORES)
    for number, names in {
        1: ("drop-in", "meta-training", "memory", "sizes", "hidden"),
        2: ("drop-in", "sizes"),
    }.items():
        for name in names:
            environment = {**os.environ, "BENCHMARK_THREADS": str(number)}
            subprocess.run([sys.executable, "-m", __spec__.name, name], env=environment, check=True)
    for name in ("threads", "plots"):
        subprocess.run([sys.executable, "-m", __spec__.name, name], check=True)


def _suffix() -> str:
    return "" if THREADS == 1 else f"-{THREADS}-threads"


def _read(name: str) -> dict[str, Any]:
    return json.loads(Path(FOLDER / f"{name}.json").read_text())


if __name__ == "__main__":
    group()
