"""Measures of meta-training runs as users start them; each writes results/long_horizons/NAME.json.

python -m scripts.experiments.long_horizons.measure_runs kills | ranks | plans
"""

import json
import os
import random
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import torch

from l2l_opt import TruncatedBackprop, load_rule
from l2l_opt.rules import make_rule
from l2l_opt.tasks.mixture import make_tasks
from scripts.experiments import records

FOLDER = records.RESULTS / "long_horizons"
META_TRAIN = [sys.executable, "-m", "l2l_opt.cli", "meta-train"]


@click.group()
def group() -> None:
    torch.set_num_threads(1)


def run(*arguments: Any) -> str:
    result = subprocess.run([*META_TRAIN, *map(str, arguments)], capture_output=True, text=True, check=False)
    if result.returncode:
        raise click.ClickException(result.stderr)
    return result.stdout


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


@group.command()
@click.option("--number", default=20)
@click.option("--seed", default=0)
def kills(number: int, seed: int) -> None:
    """SIGKILL a run at random moments and go on, each time from the beginning of a run; then compare digests."""
    options = [
        "--rule",
        "compact",
        "--task",
        "digits-mlp:hidden=4,batch_size=8..16 + quadratics:dim=3",
        "--estimator",
        "nres",
    ]
    options += ["--horizon", "8..32", "--truncation-length", "4", "--students", "4", "--group-size", "2"]
    options += ["--staggered", "--meta-loss", "mean", "--normalisation", "log", "--clip-loss", "2"]
    options += [
        "--outer-steps",
        "40",
        "--validate-every",
        "15",
        "--validation-students",
        "2",
        "--checkpoint-every",
        "1",
    ]
    chance = random.Random(seed)
    killed, while_writing, same = 0, 0, 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        start = time.monotonic()
        run(*options, "--out", root / "whole")
        whole_seconds = time.monotonic() - start
        expected = record_of(root / "whole")["digests"]["last"]
        for attempt in range(number):
            folder = root / f"killed-{attempt}"
            command = [*META_TRAIN, *options, "--out", str(folder), "--resume"]
            with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
                if attempt % 2:
                    writing = _wait_for_a_checkpoint_being_written(folder, process, chance)
                    while_writing += writing
                else:
                    time.sleep(chance.uniform(0.3, 0.95) * whole_seconds)
                killed += process.poll() is None
                process.send_signal(signal.SIGKILL)
            run(*options, "--out", folder, "--resume")
            same += record_of(folder)["digests"]["last"] == expected
            click.echo(f"{attempt + 1}: {same} the same, {killed} killed alive, {while_writing} while writing")
    content = {"kills": number, "alive_when_killed": killed, "while_a_file_was_being_written": while_writing}
    content |= {"same_digest": same, "options": shlex.join(options)}
    records.write(FOLDER / "kills.json", content)


def _wait_for_a_checkpoint_being_written(folder: Path, process: subprocess.Popen, chance: random.Random) -> bool:
    """Return at a moment when a checkpoint's temporary file exists, after a random number of earlier ones."""
    to_pass = chance.randint(0, 30)
    seen: set[str] = set()
    while process.poll() is None:
        try:
            names = {name for name in os.listdir(folder / "checkpoint") if name.startswith(".")}
        except FileNotFoundError:
            names = set()
        seen |= names
        if names and len(seen) > to_pass:
            return True
    return False


@group.command()
@click.option("--repeats", default=7)
def ranks(repeats: int) -> None:
    """Two ranks against one with the same total of students: phi, the first meta-gradient, and outer steps a second."""
    content: dict[str, Any] = {}
    exact = ["--rule", "rnnprop:hidden_size=8", "--task", "digits-mlp", "--students", "6", "--outer-steps", "50"]
    exact += ["--truncation-length", "10", "--validate-every", "25", "--validation-students", "4"]
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for dtype, outer_steps in (("float64", "50"), ("float32", "50"), ("float32", "1")):
            for processes in (1, 2):
                out = root / f"{dtype}-{outer_steps}-{processes}"
                extra = ["--dtype", dtype, "--outer-steps", outer_steps, "--nproc", processes, "--out", out]
                run(*exact, *extra)
            content[f"phi_difference_{dtype}_after_{outer_steps}"] = _phi_difference(
                root / f"{dtype}-{outer_steps}-1", root / f"{dtype}-{outer_steps}-2"
            )
        content["first_meta_gradient_relative_difference_float32"] = _first_meta_gradient_difference()
        click.echo(content)
        speed = ["--rule", "compact", "--task", "digits-mlp:hidden=32", "--estimator", "nres", "--horizon", "100"]
        speed += ["--validate-every", "0", "--validation-horizon", "20"]
        content["speed"] = [_speed(root, speed, students, repeats) for students in (16, 64)]
    records.write(FOLDER / "ranks.json", {**content, "options": {"exact": exact, "speed": speed}})


def _speed(root: Path, options: list[str], students: int, repeats: int) -> dict[str, Any]:
    """Outer steps a second of one process and of two, runs of both in turn."""
    outer_steps = 640 // students
    rates: dict[int, list[float]] = {1: [], 2: []}
    for repeat in range(repeats):
        for processes in (1, 2):
            out = root / f"speed-{students}-{repeat}-{processes}"
            run(*options, "--students", students, "--outer-steps", outer_steps, "--nproc", processes, "--out", out)
            rates[processes].append(outer_steps / (60 * record_of(out)["minutes"]))
    medians = {processes: statistics.median(values) for processes, values in rates.items()}
    ratio = medians[2] / medians[1]
    click.echo(f"{students} students: {medians[1]:.3f} and {medians[2]:.3f} outer steps a second, ratio {ratio:.2f}")
    return {"students": students, "outer_steps_per_second": medians, "ratio": ratio, "repeats": repeats}


def _phi_difference(one: Path, other: Path) -> float:
    """Greatest difference of any weight over the greatest weight."""
    a, b = (dict(load_rule(folder / "last.safetensors").named_parameters()) for folder in (one, other))
    greatest = max(float(value.detach().abs().max()) for value in a.values())
    return max(float((a[key] - b[key]).detach().abs().max()) for key in a) / greatest


def _first_meta_gradient_difference() -> float:
    """Of six students in one batch against two shares of three, as ranks sum them; relative to the norm."""
    torch.manual_seed(0)
    rule, tasks = make_rule("rnnprop:hidden_size=8"), make_tasks("digits-mlp")
    estimator = TruncatedBackprop(horizon=100, truncation_length=10)
    whole = estimator.estimate(rule, estimator.init(rule, tasks, num_students=6, seed=0))[0].gradients
    shares = [
        estimator.estimate(rule, estimator.init(rule, tasks, num_students=6, seed=0, numbers=numbers))[0].gradients
        for numbers in (range(3), range(3, 6))
    ]
    off = {key: 0.5 * shares[0][key] + 0.5 * shares[1][key] - value for key, value in whole.items()}
    return float(
        torch.sqrt(sum(value.square().sum() for value in off.values()))
        / torch.sqrt(sum(value.square().sum() for value in whole.values()))
    )


CONFIGURATIONS = {
    "rnnprop on digits, tbptt-20": "--rule rnnprop --task digits-mlp --outer-steps 12",
    "lstm on Fashion-MNIST, tbptt-20": "--rule lstm --task fashion-mlp --students 4 --outer-steps 5",
    "compact on digits 2 x 64, nres-50": "--rule compact --task digits-mlp:hidden=64,layers=2 --estimator nres "
    "--truncation-length 50 --horizon 1000 --outer-steps 6",
    "compact on digits 2 x 64, tbptt-100 checkpointed": "--rule compact --task digits-mlp:hidden=64,layers=2 "
    "--truncation-length 100 --gradient-checkpointing --outer-steps 4",
    "compact on a mixture, tbptt-20": "--rule compact --horizon 20 --group-size 2 --outer-steps 60 "
    "--task 'digits-mlp:hidden=8..64,layers=1..3 + quadratics:dim=5..20'",
    "lstm on digits, full-es of 40 to 120": "--rule lstm:hidden_size=8 --task digits-mlp --estimator full-es "
    "--horizon 40..120 --outer-steps 20",
}


@group.command()
def plans() -> None:
    """What --dry-run predicts against what the run takes: peak resident memory, and seconds per outer step."""
    rows = []
    for name, text in CONFIGURATIONS.items():
        options = [*shlex.split(text), "--validate-every", "0", "--validation-horizon", "20"]
        predicted = json.loads(run(*options, "--dry-run", "--json"))
        with tempfile.TemporaryDirectory() as root:
            command = [*META_TRAIN, *options, "--out", f"{root}/run"]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                raise click.ClickException(f"{name} failed")
            record = record_of(Path(root) / "run")
        measured = 60 * record["minutes"] / record["outer_step"]
        memory, taken = (
            predicted["peak_bytes"] / (1024 * usage.ru_maxrss),
            predicted["seconds_per_outer_step"] / measured,
        )
        rows.append(
            {
                "configuration": name,
                "options": text,
                "predicted_mebibytes": predicted["peak_bytes"] / 2**20,
                "measured_mebibytes": usage.ru_maxrss / 1024,
                "memory_ratio": memory,
                "predicted_seconds": predicted["seconds_per_outer_step"],
                "measured_seconds": measured,
                "seconds_ratio": taken,
                "checkpoint_predicted_bytes": predicted["checkpoint_bytes"],
            }
        )
        click.echo(f"{name}: memory {memory:.2f}, seconds {taken:.2f} of what was measured ({rows[-1]})")
    records.write(FOLDER / "plans.json", {"rows": rows})


if __name__ == "__main__":
    group()
