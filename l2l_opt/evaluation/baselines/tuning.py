"""Hand-designed optimizers, each tuned on seeds of its own before it is compared with."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from l2l_opt.evaluation.baselines.muon import Muon
from l2l_opt.evaluation.runs import final_scores
from l2l_opt.inner_loop.horizon import Horizon
from l2l_opt.inner_loop.students import Students
from l2l_opt.inner_loop.training import final_losses, train
from l2l_opt.randomness import Stream
from l2l_opt.rules.base import UpdateRule, make_rule
from l2l_opt.tasks.held_out import hold_out
from l2l_opt.tasks.mixture import Tasks

WIDEST = 16
"""Half-decades from 1 that the grid is widened to at most: 1e-8 to 1e8."""


@dataclass(frozen=True)
class Baseline:
    """An optimizer and the learning rates it is tried with.

    Attributes:
        name: as tables and plots show it.
        rule: its name in the registry of rules, or ``"muon"``.
        half_decades: learning rates 10^(k/2) for k in this range, to begin with.
        options: of the rule, besides lr.
    """

    name: str
    rule: str
    half_decades: range
    options: dict[str, Any] = field(default_factory=dict)

    def make(self, lr: float) -> UpdateRule:
        return Muon(lr=lr, **self.options) if self.rule == "muon" else make_rule(self.rule, lr=lr, **self.options)


BASELINES = (
    Baseline("sgd", "sgd", range(-4, 3)),
    Baseline("momentum", "momentum", range(-5, 2), {"momentum": 0.9}),
    Baseline("rmsprop", "rmsprop", range(-7, 0)),
    Baseline("adam", "adam", range(-7, 0)),
    Baseline("adam-cosine", "adam", range(-6, 1), {"schedule": "cosine"}),
)


@dataclass(frozen=True)
class Tuning:
    """How a baseline did at every learning rate tried.

    Attributes:
        lr: the best.
        losses: learning rate -> mean loss over the tuning seeds, infinite where a run diverged.
    """

    lr: float
    losses: dict[float, float]


def tune(
    baseline: Baseline,
    family: Tasks,
    *,
    horizon: int,
    num_seeds: int,
    seed: int,
    validated: bool = False,
    halvings: int = 0,
) -> Tuning:
    """Find the learning rate of least mean loss, on students kept for tuning.

    All rates run in one batch, on the same students. Where the best sits at the grid's edge, the grid is widened. Then
    the grid's steps of half a decade are halved around the best, as often as asked for.

    Args:
        baseline: what is tuned.
        family: where students come from.
        horizon: inner steps.
        num_seeds: students for each rate.
        seed: of all students.
        validated: the loss is that of the final weights on training examples that were kept from training, in place
            of the final training loss. The test split is not touched.
        halvings: how often two rates between the best and its neighbours are tried; 2 ends with eighths of a decade.
    """
    family = hold_out(family) if validated else family
    losses: dict[float, float] = {}

    def best_with(trial: Sequence[float]) -> float:
        rule = baseline.make(1.0)
        log_lrs = torch.tensor([k / 2 for k in trial for _ in range(num_seeds)], dtype=torch.float64) * math.log(10)
        students = Students(
            rule,
            family,
            numbers=list(range(num_seeds)) * len(trial),
            horizon=Horizon(horizon, horizon),
            seed=seed,
            stream=Stream.TUNING,
            group_size=1,
        )
        curves = train(students, phi={"log_lr": log_lrs})
        found = final_scores(students, seed)[0] if validated else final_losses(curves)
        means = found.reshape(len(trial), num_seeds).double().mean(dim=1)
        for k, mean in zip(trial, means.tolist(), strict=True):
            losses[k] = mean if math.isfinite(mean) else math.inf
        return min(losses, key=lambda k: (losses[k], k))

    trial: Sequence[float] = baseline.half_decades
    best = trial[0]
    while trial:
        best = best_with(trial)
        low, high = int(min(losses)), int(max(losses))
        trial = range(low - 3, low) if best == low > -WIDEST else ()
        trial = trial or (range(high + 1, high + 4) if best == high < WIDEST else ())
    for halving in range(halvings):
        step = 0.5 ** (halving + 1)
        best = best_with([best - step, best + step])
    return Tuning(10 ** (best / 2), {10 ** (k / 2): losses[k] for k in sorted(losses)})
