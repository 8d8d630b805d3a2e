"""Trainings of the same student under AdamW and under rules, with all that they cost: what both examples compare."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from l2l_opt import LearnedOptimizer, ModuleTask, UpdateRule
from l2l_opt.tasks.base import updated_data

RATES = tuple(10 ** (k / 2) for k in range(-7, 0))
"""Seven trials of AdamW, half a decade apart."""

Optimizers = tuple[torch.optim.Optimizer, Any]
"""An optimizer, and a scheduler or None."""


@dataclass(frozen=True)
class Training:
    """What came of one training.

    Attributes:
        seconds: of this process on its core, so that others on the machine do not count.
        losses: on each step's training batch.
        held_out: the loss on all held-out rows, at the end.
    """

    seconds: float
    losses: list[float]
    held_out: float

    @property
    def final_loss(self) -> float:
        """The mean of the last tenth of the steps."""
        tail = self.losses[-max(len(self.losses) // 10, 1) :]
        return sum(tail) / len(tail)

    def steps_to(self, loss: float, *, window: int = 10) -> int | None:
        """Count the steps until the mean of so many losses is at or below another; None where it never is."""
        curve = torch.tensor(self.losses).unfold(0, min(window, len(self.losses)), 1).mean(1)
        reached = (curve <= loss).nonzero()
        return int(reached[0]) + window if len(reached) else None


def train(
    family: ModuleTask, make: Callable[[Iterable[Tensor], int], Optimizers], *, steps: int, seed: int
) -> Training:
    """Train a fresh student; first weights and batches hang on the seed alone.

    Args:
        family: of the student.
        make: makes an optimizer, and perhaps a scheduler, of parameters and the number of steps.
        steps: of the training.
        seed: of weights and batches.
    """
    generator = torch.Generator().manual_seed(seed)
    data = family.sample(generator)
    params = {name: value.requires_grad_() for name, value in family.init_params(data, generator).items()}
    began = time.process_time()
    optimizer, scheduler = make(params.values(), steps)
    losses: list[Tensor] = []
    for _ in range(steps):
        batch = family.sample_batch(data, generator)
        loss = family.loss(params, data, batch)
        optimizer.zero_grad()
        loss.backward()
        data = updated_data(family, params, data, batch)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        losses.append(loss.detach())
    seconds = time.process_time() - began
    with torch.no_grad():
        held_out = float(family.loss(params, data, {"index": torch.arange(*family.examples.ranges["test"])}))
    return Training(seconds, torch.stack(losses).tolist(), held_out)


def adamw(rate: float) -> Callable[[Iterable[Tensor], int], Optimizers]:
    """AdamW at a rate that comes down to zero by a cosine."""

    def make(params: Iterable[Tensor], steps: int) -> Optimizers:
        optimizer = torch.optim.AdamW(params, lr=rate)
        return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    return make


def learned(rule: str | UpdateRule) -> Callable[[Iterable[Tensor], int], Optimizers]:
    """A learned rule, with nothing to tune."""
    return lambda params, steps: (LearnedOptimizer(params, rule, num_steps=steps), None)


@dataclass(frozen=True)
class Tuned:
    """AdamW's rate, and what finding it has cost.

    Attributes:
        rate: the best.
        losses: that each rate came to.
        seconds: of all trials.
    """

    rate: float
    losses: dict[float, float]
    seconds: float


def tune(families: Sequence[ModuleTask], *, steps: int, seed: int) -> Tuned:
    """Find the rate of AdamW that is best on held-out rows, a training of each family for each rate."""
    trials = {rate: [train(own, adamw(rate), steps=steps, seed=seed) for own in families] for rate in RATES}
    losses = {rate: sum(own.held_out for own in found) / len(found) for rate, found in trials.items()}
    # A loss that is not a number is the worst.
    best = min(losses, key=lambda rate: losses[rate] if losses[rate] == losses[rate] else float("inf"))
    return Tuned(best, losses, sum(own.seconds for found in trials.values() for own in found))
