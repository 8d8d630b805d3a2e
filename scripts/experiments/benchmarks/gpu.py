"""What the drop-in's step and meta-training cost on a GPU, in under four minutes; prints one JSON.

    python -m scripts.experiments.benchmarks.gpu                       # on a machine with a CUDA device
    python -m scripts.experiments.benchmarks.gpu --out results/benchmarks/gpu.json

Without a CUDA device it counts what a step would launch there, and states of all else that it was left out.
Needs the extra [dev]; the training step of ResNet-18 needs timm, of the extra [frameworks].
"""

import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from l2l_opt import LearnedOptimizer
from l2l_opt.kernels import native, triton
from l2l_opt.storage.rule_file import load_rule
from l2l_opt.storage.safetensors_file import digest
from scripts.experiments import records
from scripts.experiments.benchmarks import launches

SECONDS = 220.0
"""After which nothing more is begun, and runs of meta-training are ended."""
ROUNDS, WARM_UP = 20, 3
OUTER_STEPS = 20
DEVICES = 8
"""Among which FSDP2 is taken to divide rows."""
META_TRAIN = ("--rule", "lstm:hidden_size=8", "--task", "digits-mlp", "--students", "64", "--horizon", "40")


def timed(run: Callable[[], Any], device: torch.device) -> dict[str, float]:
    """Return the median milliseconds of a call, by the clock, the device's work included; and its peak of memory."""
    for _ in range(WARM_UP):
        run()
    waits = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    waits()
    before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    milliseconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        run()
        waits()
        milliseconds.append(1e3 * (time.perf_counter() - start))
    peak = torch.cuda.max_memory_allocated() - before if device.type == "cuda" else 0
    return {"milliseconds": statistics.median(milliseconds), "peak_bytes": float(peak)}


def optimizers(params: list[Tensor]) -> dict[str, Callable[[], list[torch.optim.Optimizer]]]:
    """Makers of what is compared, the rules first; Muon takes matrices, and AdamW all else beside it."""
    matrices = [param for param in params if param.dim() == 2]
    others = [param for param in params if param.dim() != 2]
    fused = params[0].is_cuda
    rules = {
        name: lambda rule=rule, options=options: [
            LearnedOptimizer(params, launches.rule_of(rule), num_steps=1000, **options)
        ]
        for name, (rule, options) in launches.OPTIMIZERS.items()
    }
    return rules | {
        "AdamW": lambda: [torch.optim.AdamW(params, fused=fused)],
        "Muon": lambda: [torch.optim.Muon(matrices), torch.optim.AdamW(others, fused=fused)],
    }


def steps(shapes: list[launches.Shape], device: torch.device) -> dict[str, dict[str, float]]:
    """Time an optimizer's step alone."""
    params: list[Tensor] = [torch.nn.Parameter(0.02 * torch.randn(shape, device=device)) for shape in shapes]
    found = {}
    for name, make in optimizers(params).items():
        for param in params:
            param.grad = 1e-2 * torch.randn_like(param)
        made = make()
        found[name] = timed(lambda made=made: [optimizer.step() for optimizer in made], device)
    return found


def training_steps(model: torch.nn.Module, loss: Callable[[], Tensor], device: torch.device) -> dict[str, Any]:
    """Time forward, backward and step."""
    found = {}
    for name, make in optimizers(list(model.parameters())).items():
        made = make()

        def step(made: list[torch.optim.Optimizer] = made) -> None:
            loss().backward()
            for optimizer in made:
                optimizer.step()
                optimizer.zero_grad()

        found[name] = timed(step, device)
    return found


def gpt2(device: torch.device) -> dict[str, Any]:
    """Time training steps of GPT-2 small on 4 sequences of 512 tokens drawn at random."""
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config()).to(device)
    tokens = torch.randint(0, 50257, (4, 512), device=device)
    return training_steps(model, lambda: model(tokens, labels=tokens).loss, device)


def resnet18(device: torch.device) -> dict[str, Any]:
    """Time training steps of ResNet-18 on 32 images of 224 pixels drawn at random."""
    if importlib.util.find_spec("timm") is None:
        return {"left_out": "timm is not installed: pip install timm"}
    import timm

    model = timm.create_model("resnet18").to(device)
    images, labels = torch.randn(32, 3, 224, 224, device=device), torch.randint(0, 1000, (32,), device=device)
    return training_steps(model, lambda: torch.nn.functional.cross_entropy(model(images), labels), device)


@contextlib.contextmanager
def meta_train(folder: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a small meta-training run, which ends with the block at the latest."""
    command = [sys.executable, "-m", "l2l_opt.cli", "meta-train", *META_TRAIN, "--out", str(folder), *options]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **quiet, cwd=records.ROOT) as run:
        try:
            yield run
        finally:
            run.kill()


def meta_training(device: str, seconds: float) -> dict[str, Any]:
    """Seconds of some outer steps of two estimators, on a device, for at most so long each."""
    found = {}
    for estimator in ("tbptt", "nres"):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            options = ("--estimator", estimator, "--device", device, "--outer-steps", str(OUTER_STEPS))
            with meta_train(Path(folder) / "run", *options) as run:
                status = run.wait(timeout=seconds)
            found[estimator] = {"seconds": time.perf_counter() - start, "exit_status": status}
    return found


def _outer_step(folder: Path) -> int:
    """Return the outer step of a run's last checkpoint."""
    path = folder / "run.json"
    return json.loads(path.read_text())["outer_step"] if path.exists() else 0


def killed_and_resumed(device: str, seconds: float) -> dict[str, Any]:
    """Whether a run that is killed after a checkpoint ends with the weights of one that was not."""
    options = ("--device", device, "--outer-steps", "12", "--checkpoint-every", "4")
    with tempfile.TemporaryDirectory() as parent:
        whole, broken = Path(parent) / "whole", Path(parent) / "broken"
        with meta_train(whole, *options) as run:
            run.wait(timeout=seconds)
        with meta_train(broken, *options) as run:
            while run.poll() is None and _outer_step(broken) < 4:
                time.sleep(0.05)
            was_running = run.poll() is None
        with meta_train(broken, *options, "--resume") as run:
            run.wait(timeout=seconds)
        weights = [
            digest(dict(load_rule(folder / "last.safetensors").named_parameters())) for folder in (whole, broken)
        ]
    return {"was_killed": was_running, "same_weights": weights[0] == weights[1]}


def measured(device: str) -> dict[str, Any]:
    """Measure everything there is time for, on a device; what fails is recorded, and all else goes on."""
    target, begun = torch.device(device), time.perf_counter()
    parts: dict[str, Callable[[float], Any]] = {
        f"step of {name}": lambda _, shapes=shapes: steps(shapes(), target) for name, shapes in launches.MODELS.items()
    }
    parts |= {
        "training step of GPT-2 small": lambda _: gpt2(target),
        "training step of ResNet-18": lambda _: resnet18(target),
        f"meta-training on {device}": lambda seconds: meta_training(device, seconds / 2),
        "meta-training on cpu": lambda seconds: meta_training("cpu", seconds / 2),
        "killed and resumed": lambda seconds: killed_and_resumed(device, seconds / 2),
    }
    found: dict[str, Any] = {}
    for name, run in parts.items():
        left = SECONDS - (time.perf_counter() - begun)
        if left <= 0:
            found[name] = {"left_out": f"{SECONDS:.0f} seconds were over"}
            continue
        try:
            found[name] = run(left)
        except Exception as error:  # noqa: BLE001  # a short loan of a device must not end with nothing
            found[name] = {"failed": f"{type(error).__name__}: {error}"}
        click.echo(f"{name}: {json.dumps(found[name])}", err=True)
    return found


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="Write the JSON there too.")
def main(out: Path | None) -> None:
    """Print one JSON: launches counted, and times where there is a CUDA device."""
    has_cuda = torch.cuda.is_available()
    content: dict[str, Any] = {
        "kernels": {"cpu": native.describe(), "cuda": triton.describe()},
        "device": torch.cuda.get_device_name() if has_cuda else None,
        "a steady step, counted": {
            model: {
                name: launches.count(rule, shapes(), **options) for name, (rule, options) in launches.OPTIMIZERS.items()
            }
            for model, shapes in launches.MODELS.items()
        },
        f"a steady step, rows divided among {DEVICES} devices, counted": {
            model: {
                name: launches.count(rule, shapes(), devices=DEVICES, **options)
                for name, (rule, options) in launches.OPTIMIZERS.items()
                if rule not in launches.UNDIVIDED
            }
            for model, shapes in launches.MODELS.items()
        },
        "measured": measured("cuda") if has_cuda else "left out: times need a CUDA device, and torch sees none here",
    }
    click.echo(json.dumps(content, indent=2))
    if out is not None:
        records.write(out, content)


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    main()
