"""What an evaluation finds: one optimizer on one task at one horizon, and all optimizers beside each other."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from l2l_opt.evaluation.runs import Run
from l2l_opt.evaluation.statistics import FLOOR, bounded, fall_below_zero, mean_and_interval, progress
from l2l_opt.storage.finite_json import finite


@dataclass(frozen=True)
class Result:
    """One optimizer on one task at one horizon.

    Attributes:
        task: as the command line names it.
        horizon: inner steps.
        optimizer: ``"learned"`` for the rule that is evaluated, or the baseline's name.
        settings: how it was set; for a tuned baseline also every trial and its mean final loss.
        final_losses: one a reporting seed: mean training loss of the last 10 % of the steps, at least 10.
        mean: of final_losses.
        interval: 95 % bootstrap interval of the mean.
        seconds: wall-clock seconds a seed, all seeds being run in one batch.
        curves: ``[horizon, seeds]``, training losses.
        test_losses: one a reporting seed, where they were taken.
        accuracies: on the same test batches, where there are classes.
    """

    task: str
    horizon: int
    optimizer: str
    settings: dict[str, Any]
    final_losses: list[float]
    mean: float
    interval: tuple[float, float]
    seconds: float
    curves: np.ndarray
    test_losses: list[float] | None = None
    accuracies: list[float] | None = None

    @classmethod
    def of(cls, run: Run, task: str, horizon: int, optimizer: str, settings: Mapping[str, Any]) -> "Result":
        """Put a name to a run, and an interval to its mean."""
        losses, tests = run.final_losses.double().tolist(), run.test_losses.double().tolist()
        curves = run.curves.double().numpy()
        right = None if run.accuracies is None else run.accuracies.double().tolist()
        mean, interval = mean_and_interval(losses)
        return cls(task, horizon, optimizer, dict(settings), losses, mean, interval, run.seconds, curves, tests, right)

    def record(self) -> dict[str, Any]:
        """As ``evaluation.json`` holds it; a loss that is not finite becomes null."""
        separate = ("curves", "test_losses", "accuracies")
        record = {key: value for key, value in vars(self).items() if key not in separate}
        if self.test_losses is not None:
            mean, interval = mean_and_interval(self.test_losses)
            record |= {"test_losses": self.test_losses, "test_mean": mean, "test_interval": interval}
        if self.accuracies is not None:
            mean, interval = mean_and_interval(self.accuracies)
            record |= {"accuracies": self.accuracies, "accuracy_mean": mean, "accuracy_interval": interval}
        return finite(record)


@dataclass(frozen=True)
class TaskEvaluation:
    """One task at one horizon.

    Attributes:
        task: as the command line names it.
        horizon: inner steps.
        results: the learned rule, then each baseline.
        baseline_rates: learning rates whose lower envelope speed-ups are measured against; this and what follows is
            empty where AdamW is not among the baselines.
        baseline_steps: ``[seeds]``, steps that it needs to the rule's final loss; infinite beyond 4 times the horizon.
        speed_ups: ``[seeds]``, in steps.
        steps_to_adamw: ``[seeds]``, steps that the rule needs to tuned AdamW's final loss; infinite where it has not
            got there by its horizon.
        seconds_per_step: ``learned`` and ``adamw``, and ``adamw_kind``; empty until it is timed.
        notes: what was left out and why.
    """

    task: str
    horizon: int
    results: list[Result]
    baseline_rates: list[float] = field(default_factory=list)
    baseline_steps: list[float] = field(default_factory=list)
    speed_ups: list[float] = field(default_factory=list)
    steps_to_adamw: list[float] = field(default_factory=list)
    seconds_per_step: dict[str, float | str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def first_losses(self) -> list[float]:
        """``[seeds]``, before the first step, the same for all optimizers."""
        return self.results[0].curves[0].tolist()

    def result_of(self, optimizer: str) -> Result | None:
        """Return the result of an optimizer, where it was run."""
        return next((result for result in self.results if result.optimizer == optimizer), None)

    @cached_property
    def falls_below_zero(self) -> bool:
        """Whether some loss is negative, so that loss ratios are of progress."""
        losses = [self.first_losses, *(own.final_losses + (own.test_losses or []) for own in self.results)]
        return fall_below_zero(np.concatenate(losses), float(np.mean(self.first_losses)))

    def losses_of(self, optimizer: str, *, test: bool = False, floor: float = FLOOR) -> np.ndarray:
        """Return final (or test) losses ``[seeds]`` within ``statistics.bounded``; NaN where it was not run.

        Losses that fall below zero have no such bounds, but are infinite where they are not finite.
        """
        result = self.result_of(optimizer)
        if result is None:
            return np.full(len(self.first_losses), np.nan)
        losses = np.asarray(result.test_losses if test else result.final_losses, dtype=np.float64)
        if self.falls_below_zero:
            return np.where(np.isfinite(losses), losses, np.inf)
        return bounded(losses, float(np.mean(self.first_losses)), floor=floor)

    def compared_with(
        self, optimizer: str, *, test: bool = False, floor: float = FLOOR
    ) -> tuple[np.ndarray, np.ndarray]:
        """Positive numbers ``[seeds]`` each, whose means' ratio is the loss ratio: above 1 the rule is better.

        An optimizer's losses and the rule's; where losses fall below zero, the rule's progress and the optimizer's.
        """
        theirs, ours = (self.losses_of(name, test=test, floor=floor) for name in (optimizer, "learned"))
        if not self.falls_below_zero or self.result_of(optimizer) is None:
            return theirs, ours
        first = np.asarray(self.first_losses)
        means = [own.mean for own in self.results if np.isfinite(own.mean)]
        # Where nobody made any, all are level.
        greatest = max([first.mean() - mean for mean in means], default=0.0)
        greatest = greatest if greatest > 0 else 1.0
        return progress(ours, first, greatest), progress(theirs, first, greatest)

    def records(self) -> list[dict[str, Any]]:
        """Return the results as ``evaluation.json`` holds them, each with its loss ratio."""
        pairs = [self.compared_with(own.optimizer) for own in self.results]
        return [
            own.record() | {"loss_ratio": float(theirs.mean() / ours.mean())}
            for own, (theirs, ours) in zip(self.results, pairs, strict=True)
        ]
