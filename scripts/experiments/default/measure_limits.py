"""What a rule does where defaults fail: first weights of any size, small tables, short runs; beside AdamW.

    python -m scripts.experiments.default.measure_limits first-sizes tables short-runs

Writes results/default/limits.json. Networks here are plain PyTorch ones in a plain loop, but for the short runs, which
are of the tasks of `validation`.

first-sizes   final training losses after 400 steps; AdamW with a cosine at the best of five rates; losses below a
              thousandth of the first count as that
tables        test losses and accuracies after 500 steps of batches of 32; AdamW at 1e-3 and 1e-2
short-runs    final over first losses after 20, 50 and 100 steps; AdamW at the best of these rates, constant
"""

import itertools
import json
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from sklearn import datasets
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from l2l_opt import LearnedOptimizer
from l2l_opt.evaluation.statistics import EVEN_FLOOR
from l2l_opt.evaluation.suites import load_suite
from l2l_opt.inner_loop.training import training_losses
from l2l_opt.randomness import Stream
from l2l_opt.rules import UpdateRule, make_rule
from l2l_opt.storage.rule_file import load_rule
from l2l_opt.tasks.mixture import make_tasks
from scripts.experiments import records

PATH = records.RESULTS / "default" / "limits.json"
RATES, LENGTHS = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1), (20, 50, 100)
SIZES = [64, 64, 64, 10]
Loss = Callable[[Tensor, Tensor], Tensor]


class Factors(nn.Module):
    """Matrix factorisation of 300 users and 200 items.

    Args:
        deviation: of first weights.
    """

    def __init__(self, deviation: float):
        super().__init__()
        self.users, self.items = nn.Embedding(300, 8), nn.Embedding(200, 8)
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=deviation)

    def forward(self, pairs: Tensor) -> Tensor:
        return (self.users(pairs[:, 0]) * self.items(pairs[:, 1])).sum(-1)


def perceptron(sizes: list[int], *, deviation: float | None = None, head: float | None = None) -> nn.Sequential:
    """A ReLU network; with a deviation of all its weights and zero biases, or of its last layer alone."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    linears = [layer for layer in layers if isinstance(layer, nn.Linear)]
    if deviation is not None:
        for layer in linears:
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.zeros_(layer.bias)
    if head is not None:
        nn.init.normal_(linears[-1].weight, std=head)
    return nn.Sequential(*layers[:-1])


def optimizer_of(model: nn.Module, by: str | float, steps: int) -> torch.optim.Optimizer:
    """The rule of a name, or AdamW at a rate."""
    if isinstance(by, str):
        return LearnedOptimizer(model.parameters(), by, num_steps=steps)
    return AdamW(model.parameters(), by, weight_decay=0.0)


def trained(
    model: nn.Module,
    by: str | float,
    data: tuple[Tensor, Tensor],
    loss_fn: Loss,
    *,
    steps: int,
    batch: int,
    seed: int,
    cosine: bool = False,
) -> tuple[float, float]:
    """Train, and return the first loss and the mean of the last tenth; a cosine is for AdamW alone."""
    generator = torch.Generator().manual_seed(seed)
    optimizer, losses = optimizer_of(model, by, steps), []
    schedule = CosineAnnealingLR(optimizer, steps) if cosine and not isinstance(by, str) else None
    for _ in range(steps):
        rows = torch.randint(len(data[0]), (batch,), generator=generator)
        loss = loss_fn(model(data[0][rows]), data[1][rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()
        losses.append(loss.item())
    return losses[0], float(np.mean(losses[-steps // 10 :]))


class Case(NamedTuple):
    """A network with first weights of one size, and what it learns."""

    make: Callable[[], nn.Module]
    data: tuple[Tensor, Tensor]
    loss_fn: Loss
    batch: int

    def losses(self, by: str | float) -> tuple[float, float]:
        """First and final losses after 400 steps, means of two seeds."""
        both = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            model = self.make()
            both.append(
                trained(model, by, self.data, self.loss_fn, steps=400, batch=self.batch, seed=seed, cosine=True)
            )
        first, last = np.mean(both, axis=0)
        return float(first), float(last)


def first_sizes(rules: tuple[str, ...]) -> dict[str, Any]:
    """Final losses of networks whose first weights have other sizes."""
    x, y = datasets.load_digits(return_X_y=True)
    digits = ((inputs := torch.tensor(x).float()) - inputs.mean()) / inputs.std(), torch.tensor(y)
    generator = torch.Generator().manual_seed(0)
    users, items = torch.randn(300, 4, generator=generator), torch.randn(200, 4, generator=generator)
    pairs = torch.stack([torch.randint(count, (20_000,), generator=generator) for count in (300, 200)], 1)
    noise = 0.3 * torch.randn(len(pairs), generator=generator)
    ratings = pairs, (users[pairs[:, 0]] * items[pairs[:, 1]]).sum(-1) / 2 + noise
    cases = {
        f"digits, all weights {deviation:g}": Case(
            partial(perceptron, SIZES, deviation=deviation), digits, cross_entropy, 64
        )
        for deviation in (0.1, 0.02, 0.005, 0.001)
    }
    cases |= {
        f"digits, last layer {deviation:g}": Case(partial(perceptron, SIZES, head=deviation), digits, cross_entropy, 64)
        for deviation in (0.1, 0.001)
    }
    cases |= {
        f"ratings, factors {deviation:g}": Case(partial(Factors, deviation), ratings, mse_loss, 256)
        for deviation in (1.0, 0.1, 0.03, 0.01)
    }
    found = {}
    for name, case in cases.items():
        of_adamw = min((case.losses(rate) for rate in RATES), key=lambda pair: pair[1])
        row = {"adamw": of_adamw[1]} | {rule: case.losses(rule)[1] for rule in rules}
        floor = EVEN_FLOOR * of_adamw[0]
        ratios = {rule: max(row["adamw"], floor) / max(row[rule], floor) for rule in rules}
        found[name] = row | {"adamw_over": ratios}
        click.echo(f"{name}: {json.dumps(found[name])}")
    return found


def tables(rules: tuple[str, ...]) -> dict[str, Any]:
    """Test losses of small networks on small tables, 500 steps."""
    made = datasets.make_classification
    cases: dict[str, tuple[np.ndarray, np.ndarray]] = {
        "iris": datasets.load_iris(return_X_y=True),
        "wine": datasets.load_wine(return_X_y=True),
        "breast cancer": datasets.load_breast_cancer(return_X_y=True),
        "noisy, 300 rows": made(300, 12, n_informative=4, flip_y=0.15, random_state=0),
        "noisy, 1000 rows": made(1000, 20, n_informative=6, flip_y=0.1, random_state=1),
        "one in ten, 500 rows": made(500, 15, n_informative=5, weights=[0.9], flip_y=0.03, random_state=2),
        "moons, 150 rows": datasets.make_moons(150, noise=0.3, random_state=0),
        "digits, 300 rows": tuple(part[:300] for part in datasets.load_digits(return_X_y=True)),
        "diabetes": datasets.load_diabetes(return_X_y=True),
        "friedman, 300 rows": datasets.make_friedman1(300, 10, noise=1.0, random_state=0),
    }
    found = {}
    for name, (x, y) in cases.items():
        row = {
            by if isinstance(by, str) else f"adamw {by:g}": _of_table(
                x, y, by, name in ("diabetes", "friedman, 300 rows")
            )
            for by in (1e-3, 1e-2, *rules)
        }
        best = min(row["adamw 0.001"][0], row["adamw 0.01"][0])
        found[name] = row | {"over_adamw": {rule: row[rule][0] / best for rule in rules}}
        click.echo(f"{name}: {json.dumps(found[name])}")
    return found


def _of_table(x: np.ndarray, y: np.ndarray, by: str | float, is_regression: bool) -> list[float]:
    """Test loss and, of classes, accuracy (else 0), means of four seeds."""
    deviation = x.std(0)
    inputs = torch.tensor((x - x.mean(0)) / np.where(deviation > 0, deviation, 1)).float()
    targets = torch.tensor((y - y.mean()) / y.std()).float()[:, None] if is_regression else torch.tensor(y).long()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    test, train = order[: len(order) // 3], order[len(order) // 3 :]
    loss_fn, outputs = (mse_loss, 1) if is_regression else (cross_entropy, int(y.max()) + 1)
    scores = []
    for seed in range(4):
        torch.manual_seed(seed)
        model = perceptron([x.shape[1], 16, 16, outputs])
        trained(model, by, (inputs[train], targets[train]), loss_fn, steps=500, batch=32, seed=seed)
        with torch.no_grad():
            out = model(inputs[test])
            right = 0.0 if is_regression else float((out.argmax(1) == targets[test]).float().mean())
            scores.append((float(loss_fn(out, targets[test])), right))
    return [float(value) for value in np.mean(scores, axis=0)]


def fallen(rule: UpdateRule, task: str, length: int) -> float:
    """The final over the first loss of a short run."""
    curves = training_losses(rule, make_tasks(task), numbers=range(6), horizon=length, seed=7, stream=Stream.VALIDATION)
    return float(curves[-max(2, length // 10) :].mean() / curves[0].mean())


def short_runs(rules: tuple[str, ...]) -> dict[str, Any]:
    """Final over first losses of runs of 20, 50 and 100 steps, with num_steps given, means of six students."""
    found: dict[str, Any] = {}
    for length in LENGTHS:
        rows = {}
        for spec in load_suite("validation").tasks:
            of_adamw = min(fallen(make_rule("adamw", lr=lr), spec, length) for lr in RATES)
            rows[spec] = {"adamw": of_adamw} | {rule: fallen(load_rule(rule), spec, length) for rule in rules}
        ahead = {rule: sum(row[rule] <= row["adamw"] for row in rows.values()) for rule in rules}
        apart = {rule: float(np.mean([math.log(row["adamw"] / row[rule]) for row in rows.values()])) for rule in rules}
        found[str(length)] = {"rows": rows, "at_or_below_adamw": ahead, "mean_log_ratio": apart}
        click.echo(f"{length} steps: at or below AdamW on {ahead} of {len(rows)}; mean log ratio {apart}")
    return found


MEASURED = {"first-sizes": first_sizes, "tables": tables, "short-runs": short_runs}


@click.command()
@click.argument("parts", nargs=-1, required=True, type=click.Choice(list(MEASURED)))
@click.option(
    "--rule", "rules", multiple=True, default=("default-2", "default-3", "default-4", "small-data-1"), show_default=True
)
def main(parts: tuple[str, ...], rules: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    content = json.loads(PATH.read_text()) if PATH.exists() else {}
    for part in parts:
        content[part] = MEASURED[part](rules)
        records.write(PATH, content)


if __name__ == "__main__":
    main()
