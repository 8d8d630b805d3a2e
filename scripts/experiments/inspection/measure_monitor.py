"""What UnrollMonitor costs at its default cadence: seconds a training step with it over those without.

Interleaved rounds of some seconds each; a round with a monitor attaches it anew, so the first point counts.

    python -m scripts.experiments.inspection.measure_monitor

Writes results/inspection/monitor.json.
"""

import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from l2l_opt import LearnedOptimizer
from l2l_opt.inspection import UnrollMonitor
from scripts.experiments import records

ROUNDS, SECONDS = 7, 6.0


def mlp(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "adamw": lambda model: torch.optim.AdamW(model.named_parameters(), lr=1e-3),
    "adamw fused": lambda model: torch.optim.AdamW(model.named_parameters(), lr=1e-3, fused=True),
    "default rule": lambda model: LearnedOptimizer(model.named_parameters()),
}


def seconds_a_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, data: tuple[torch.Tensor, torch.Tensor], steps: int
) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(data[0]), data[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (time.perf_counter() - start) / steps


@click.command()
@click.option("--width", "widths", multiple=True, default=(64, 256), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=records.RESULTS / "inspection", show_default=True)
def main(widths: tuple[int, ...], out: Path) -> None:
    """Time both, interleaved, and write the ratio of medians."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = torch.randn(64, 784), torch.randint(10, (64,))
    rows = []
    for width in widths:
        for name, make in OPTIMIZERS.items():
            model = mlp(width)
            optimizer = make(model)
            seconds_a_step(model, optimizer, data, 100)
            steps = math.ceil(SECONDS / seconds_a_step(model, optimizer, data, 100))
            plain, watched = [], []
            with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
                for _ in range(ROUNDS):
                    plain.append(seconds_a_step(model, optimizer, data, steps))
                    with UnrollMonitor(optimizer, writer):
                        watched.append(seconds_a_step(model, optimizer, data, steps))
            ratio = statistics.median(w / p for w, p in zip(watched, plain, strict=True))
            row = {
                "width": width,
                "optimizer": name,
                "steps": steps,
                "seconds": statistics.median(plain),
                "ratio": ratio,
            }
            rows.append(row)
            click.echo(f"{width:>5} {name:<14} {1e3 * row['seconds']:.3f} ms a step, {ratio:.3f} times with a monitor")
    records.write(out / "monitor.json", {"rounds": ROUNDS, "rows": rows})


if __name__ == "__main__":
    main()
