"""What LearnedOptimizer promises, measured; each writes results/optimizer/NAME.json.

python -m scripts.experiments.optimizer.measure_optimizer sharding | divergence | memory | halved
"""

import gc
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn

from l2l_opt import LearnedOptimizer, list_pretrained
from l2l_opt.evaluation.suites import load_suite
from l2l_opt.kernels import native
from l2l_opt.pretrained import DEFAULT
from l2l_opt.randomness import Stream, make_generator
from l2l_opt.rules import make_rule
from l2l_opt.tasks.mixture import draw_family, make_tasks
from scripts.experiments import records
from scripts.experiments.optimizer.sharded_training import rule_of, run_jobs

FOLDER = records.RESULTS / "optimizer"
AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_TOP_PAD_": "0"}
"""Has the C library give freed memory back, so that what one step leaves does not hide what the next takes."""


@click.group()
def group() -> None:
    torch.set_num_threads(1)


def difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Largest difference of any coordinate."""
    return max(float((ours[name] - theirs[name]).abs().max()) for name in theirs)


@group.command()
@click.option("--steps", default=50)
def sharding(steps: int) -> None:
    """DDP and FSDP2 on two gloo ranks beside one process, and a checkpoint of two that goes through one and back."""
    with tempfile.TemporaryDirectory() as name:
        folder, rows = Path(name), []
        rules = [*list_pretrained(), "compact"]
        jobs: list[dict[str, Any]] = []
        for rule in rules:
            for dtype in ("float64", "float32"):
                for kind in ("alone", "ddp", "fsdp"):
                    out = str(folder / f"{rule} {dtype} {kind}")
                    jobs.append({"kind": kind, "rule": rule, "dtype": dtype, "steps": steps, "out": out})
            half = {"rule": rule, "dtype": "float32"}
            two, one = str(folder / f"{rule} two"), str(folder / f"{rule} one")
            jobs += [
                {"kind": "fsdp", "steps": steps // 2, "save": two, **half},
                {"kind": "alone", "steps": 0, "load": two, "save": one, **half},
                {"kind": "fsdp", "steps": steps - steps // 2, "load": one, "out": str(folder / f"{rule} back"), **half},
            ]
        run_jobs(2, jobs)
        for rule in rules:
            back, straight = (torch.load(folder / f"{rule} {which}") for which in ("back", "float32 fsdp"))
            resumed = all(torch.equal(back["last"][key], straight["last"][key]) for key in straight["last"])
            for kind in ("ddp", "fsdp"):
                row: dict[str, Any] = {"rule": rule, "kind": kind}
                for dtype in ("float64", "float32"):
                    ours, theirs = (torch.load(folder / f"{rule} {dtype} {which}") for which in (kind, "alone"))
                    for when in ("first", "last"):
                        row[f"{dtype} {when} step"] = difference(ours[when], theirs[when])
                if kind == "fsdp":
                    row["resumed through one rank bit for bit"] = resumed
                rows.append(row)
                click.echo(json.dumps(row))
    records.write(FOLDER / "sharding.json", {"ranks": 2, "steps": steps, "largest differences of parameters": rows})


def student(task: str, seed: int) -> tuple[dict[str, nn.Parameter], Any]:
    """Parameters of a fresh student, and its loss on the next batch."""
    generator = make_generator(seed, Stream.REPORTING, 0, 0)
    family = draw_family(make_tasks(task), generator)
    data = family.sample(generator)
    params = {name: nn.Parameter(p) for name, p in family.init_params(data, generator).items()}
    return params, lambda: family.loss(dict(params), data, family.sample_batch(data, generator))


def train(optimizer: torch.optim.Optimizer, params: dict[str, nn.Parameter], loss_of: Any, steps: int) -> Any:
    """Losses of all steps, and whether every parameter was finite after each."""
    losses, finite = [], True
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        if isinstance(optimizer, LearnedOptimizer):
            optimizer.step(loss=loss)
        else:
            optimizer.step()
        losses.append(loss.item())
        finite = finite and all(bool(torch.isfinite(p).all()) for p in params.values())
    return losses, finite


def final(losses: list[float]) -> float:
    """The mean of the last 10 % of the steps, at least 10."""
    last = losses[-max(10, len(losses) // 10) :]
    return sum(last) / len(last)


@group.command()
@click.option("--task", default="digits-mlp")
@click.option("--steps", default=10_000)
@click.option("--seeds", default=3)
@click.option("--lr", default=100.0)
def divergence(task: str, steps: int, seeds: int, lr: float) -> None:
    """RNNProp with updates a hundred times too large, caught by the guard, beside Adam(1e-3)."""
    rows = []
    for seed in range(seeds):
        params, loss_of = student(task, seed)
        adam = final(train(torch.optim.Adam(params.values(), lr=1e-3), params, loss_of, steps)[0])
        for name in ("default-1", "rnnprop"):
            params, loss_of = student(task, seed)
            optimizer = LearnedOptimizer(params.items(), rule_of(name), lr=lr, guard="fallback")
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                losses, finite = train(optimizer, params, loss_of, steps)
            row = {"seed": seed, "rule": name, "adam": adam, "fallback": final(losses), "always finite": finite}
            row["times adam"] = row["fallback"] / adam
            row["warnings"] = [str(w.message) for w in caught if "diverged" in str(w.message)]
            row["rate"] = lr * (optimizer.param_groups[0]["watch"]["rate"] or 0)
            rows.append(row)
            click.echo(json.dumps(row))
    records.write(FOLDER / "divergence.json", {"task": task, "steps": steps, "lr": lr, "rows": rows})


def peak_beyond(run: Any) -> int:
    """Bytes by which the resident memory of this process rises while something runs."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    run()
    return max(0, resident("VmHWM") - before)


def resident(key: str) -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key + ":")]
    return int(line.split()[1]) * 1024


@group.command()
@click.option("--parameters", default=10_000_000)
@click.option("--rule", "only", help="Measure this rule alone; rows of others stay as they are.")
def memory(parameters: int, only: str | None) -> None:
    """Peak resident bytes of a step beside parameters, gradients and state."""
    if not set(AT_ONCE) <= set(os.environ):
        command = [sys.executable, "-m", __spec__.name, *sys.argv[1:]]
        raise SystemExit(subprocess.run(command, env={**os.environ, **AT_ONCE}, check=False).returncode)
    path, rows = FOLDER / "memory.json", []
    side = 1000
    shapes = {
        "layers": [(side, side), (side,)] * -(-parameters // (side * side + side)),
        "one tensor": [(parameters // side, side)],
        "one embedding": [(50257, 768)],
    }
    for rule, options, dtype, layout in [
        ("lstm", {}, torch.float32, "layers"),
        ("lstm", {"state_dtype": torch.bfloat16}, torch.float32, "layers"),
        ("lstm", {"state_dtype": torch.bfloat16}, torch.float32, "one tensor"),
        ("rnnprop", {"state_dtype": torch.bfloat16}, torch.float32, "layers"),
        ("compact", {}, torch.float32, "one tensor"),
        ("lstm:hidden_size=8,num_layers=1", {}, torch.bfloat16, "one tensor"),
        ("rnnprop:hidden_size=8,num_layers=1", {}, torch.bfloat16, "layers"),
        ("adam", {}, torch.float32, "one tensor"),
        ("compact", {}, torch.bfloat16, "layers"),
        ("scale-free", {}, torch.float32, "layers"),
        ("scale-free", {"state_dtype": torch.bfloat16}, torch.float32, "one tensor"),
        ("scale-free", {}, torch.bfloat16, "layers"),
        ("scale-free", {}, torch.float32, "one embedding"),
        ("scale-free", {"state_dtype": torch.bfloat16}, torch.float32, "one embedding"),
        ("scale-free", {"state_dtype": torch.bfloat16}, torch.bfloat16, "one embedding"),
    ]:
        if only not in (None, rule):
            continue
        params = [nn.Parameter(0.1 * torch.randn(shape, dtype=dtype)) for shape in shapes[layout]]
        optimizer = LearnedOptimizer(params, make_rule(rule), **options)
        for p in params:
            p.grad = 0.1 * torch.randn_like(p)
        first, peak = peak_beyond(optimizer.step), peak_beyond(optimizer.step)
        kept = sum(value.nbytes for p in params for value in optimizer.state[p].values())
        row = {
            "rule": rule,
            "parameters": sum(p.numel() for p in params),
            "as": layout,
            "dtype": str(dtype).removeprefix("torch."),
            "state_dtype": str(options.get("state_dtype")).removeprefix("torch."),
            "state_MiB": round(kept / 2**20, 1),
            "temporary_MiB": round(peak / 2**20, 1),
            "temporary_first_step_MiB": round((first - kept) / 2**20, 1),
        }
        rows.append(row)
        click.echo(json.dumps(row))
        del optimizer, params
    if only is not None:
        rows = [row for row in json.loads(path.read_text())["rows"] if row["rule"] != only] + rows
    records.write(path, {"kernels": native.describe(), "rows": rows})


KINDS = ("float32", "bfloat16", "float32, first weights moved by 1e-6")


@group.command()
@click.argument("option", type=click.Choice(["state-dtype", "whitening-dtype"]))
@click.option("--rule", default=DEFAULT)
@click.option("--suite", default="validation")
@click.option("--only", multiple=True, help="Measure tasks that begin so alone and keep the others' rows.")
@click.option("--steps", default=500)
@click.option("--seeds", default=3)
def halved(option: str, rule: str, suite: str, only: tuple[str, ...], steps: int, seeds: int) -> None:
    """Final losses with an option in bfloat16 beside float32, on the same students and batches.

    The third kind is a control: how far final losses come apart where nothing but rounding differs.
    """
    path = FOLDER / f"{option}.json"
    rows = json.loads(path.read_text())["rows"] if only else []
    for task in load_suite(suite).tasks:
        if only and not task.startswith(only):
            continue
        found = {kind: [final_loss(rule, task, option, kind, steps, seed) for seed in range(seeds)] for kind in KINDS}
        rows = [row for row in rows if row["task"] != task] + [{"task": task, "final_losses": found}]
        click.echo(f"{task}: {ratios(found)}")
    rows = [{"task": row["task"], **ratios(row["final_losses"]), "final_losses": row["final_losses"]} for row in rows]
    content = {"rule": rule, "steps": steps, "over float32": over_tasks(rows), "rows": rows}
    click.echo(json.dumps(content["over float32"]))
    records.write(path, {"kernels": native.describe(), **content})


def final_loss(rule: str, task: str, option: str, kind: str, steps: int, seed: int) -> float:
    """Of one student, trained with one kind of an option."""
    params, loss_of = student(task, seed)
    if kind == KINDS[2]:
        generator = torch.Generator().manual_seed(seed)
        for p in params.values():
            p.data *= 1 + 1e-6 * torch.randn(p.shape, generator=generator)
    chosen: dict[str, Any] = {option.replace("-", "_"): torch.bfloat16} if kind == KINDS[1] else {}
    optimizer = LearnedOptimizer(params.items(), rule_of(rule), num_steps=steps, **chosen)
    return final(train(optimizer, params, loss_of, steps)[0])


def ratios(found: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Final losses over those of the same students in float32, the geometric mean; and its standard error, a share."""
    over: dict[str, dict[str, float]] = {}
    for kind in KINDS[1:]:
        logs = [math.log(a / b) for a, b in zip(found[kind], found[KINDS[0]], strict=True)]
        error = statistics.stdev(logs) / len(logs) ** 0.5
        over[kind] = {"ratio": math.exp(statistics.fmean(logs)), "standard error": error}
    return over


def over_tasks(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The geometric mean over tasks, its standard error, and the tasks within 2 %."""
    summary: dict[str, dict[str, float]] = {}
    for kind in KINDS[1:]:
        values = [row[kind]["ratio"] for row in rows]
        error = math.sqrt(sum(row[kind]["standard error"] ** 2 for row in rows)) / len(rows)
        within = sum(abs(value - 1) <= 0.02 for value in values)
        mean = statistics.geometric_mean(values)
        summary[kind] = {"ratio": mean, "standard error": error, "tasks within 2 %": within}
    return summary


if __name__ == "__main__":
    group()
