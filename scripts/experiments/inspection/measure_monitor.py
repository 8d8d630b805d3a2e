"""What UnrollMonitor costs at its default cadence: a training step with it over one without.

Interleaved rounds; one with a monitor attaches it anew, so that the first point counts in each. Seconds are the
processor's, in which other processes do not show and TensorBoard's writing thread does; those of a clock are kept too.

    python -m scripts.experiments.inspection.measure_monitor

Writes results/inspection/monitor.json.
"""

import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from l2l_opt import LearnedOptimizer
from l2l_opt.inspection import UnrollMonitor
from l2l_opt.tasks.layers.transformer import CharacterTransformer
from scripts.experiments import records

ROUNDS, SECONDS, LEAST_STEPS = 7, 2.0, 150
SYMBOLS, LENGTH = 1024, 128


def perceptron() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    """55,000 parameters in 6 tensors, 64 examples a step: steps so short that all that is added shows."""
    inputs, labels = torch.randn(64, 784), torch.randint(10, (64,))
    model = nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    return model, lambda model: nn.functional.cross_entropy(model(inputs), labels)


def gpt() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    """1.07 million parameters in 53 tensors, 4 texts of 128 symbols a step."""
    text = torch.randint(SYMBOLS, (4, LENGTH + 1))
    model = CharacterTransformer(SYMBOLS, LENGTH, width=128, blocks=4, heads=4)
    return model, lambda model: nn.functional.cross_entropy(model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())


MODELS = {"perceptron": perceptron, "GPT": gpt}
OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "AdamW, fused": lambda model: torch.optim.AdamW(model.named_parameters(), lr=1e-3, fused=True),
    "default rule": lambda model: LearnedOptimizer(model.named_parameters()),
}


def train(
    model: nn.Module, loss_of: Callable[[nn.Module], Tensor], optimizer: torch.optim.Optimizer, steps: int
) -> tuple[float, float]:
    """Take steps; return seconds a step, the processor's and a clock's."""
    processor, clock = time.process_time(), time.perf_counter()
    for _ in range(steps):
        loss = loss_of(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (time.process_time() - processor) / steps, (time.perf_counter() - clock) / steps


def measure(name: str, make_optimizer: Callable[[nn.Module], torch.optim.Optimizer], seconds: float) -> dict[str, Any]:
    """Train one model with and without a monitor by turns; a row of the results."""
    torch.manual_seed(0)
    model, loss_of = MODELS[name]()
    optimizer = make_optimizer(model)
    train(model, loss_of, optimizer, 20)
    steps = max(LEAST_STEPS, math.ceil(seconds / train(model, loss_of, optimizer, 20)[0]))
    plain, watched = [], []
    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
        for number in range(ROUNDS + 1):
            without = train(model, loss_of, optimizer, steps if number else 1)
            with UnrollMonitor(optimizer, writer):
                own = train(model, loss_of, optimizer, steps if number else 1)
            writer.flush()
            if number:
                plain.append(without)
                watched.append(own)
    ratios = [[w / p for w, p in zip(*pair, strict=True)] for pair in zip(watched, plain, strict=True)]
    return {
        "model": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": steps,
        "seconds": statistics.median(own for own, _ in plain),
        "ratio": statistics.median(own for own, _ in ratios),
        "ratio_by_clock": statistics.median(own for _, own in ratios),
        "ratios": [own for own, _ in ratios],
    }


@click.command()
@click.option("--seconds", default=SECONDS, show_default=True, help=f"Of a round, of at least {LEAST_STEPS} steps.")
@click.option("--out", type=click.Path(path_type=Path), default=records.RESULTS / "inspection", show_default=True)
def main(seconds: float, out: Path) -> None:
    """Time both, interleaved, and write the median of the rounds' ratios."""
    torch.set_num_threads(1)
    rows = []
    for model in MODELS:
        for name, make_optimizer in OPTIMIZERS.items():
            row = {"optimizer": name, **measure(model, make_optimizer, seconds)}
            rows.append(row)
            click.echo(
                f"{model}, {name}: {1e3 * row['seconds']:.3f} ms a step, {row['ratio']:.3f} times with a monitor"
            )
            records.write(out / "monitor.json", {"rounds": ROUNDS, "rows": rows})


if __name__ == "__main__":
    main()
