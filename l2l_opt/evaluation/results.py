"""What an evaluation finds: one optimizer on one task at one horizon, and all optimizers beside each other."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from l2l_opt.evaluation.runs import Run
from l2l_opt.evaluation.statistics import mean_and_interval
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

    @classmethod
    def of(cls, run: Run, task: str, horizon: int, optimizer: str, settings: Mapping[str, Any]) -> "Result":
        """Put a name to a run, and an interval to its mean."""
        losses, tests = run.final_losses.double().tolist(), run.test_losses.double().tolist()
        curves = run.curves.double().numpy()
        return cls(
            task, horizon, optimizer, dict(settings), losses, *mean_and_interval(losses), run.seconds, curves, tests
        )

    def record(self) -> dict[str, Any]:
        """As ``evaluation.json`` holds it; a loss that is not finite becomes null."""
        record = {key: value for key, value in vars(self).items() if key not in ("curves", "test_losses")}
        if self.test_losses is not None:
            mean, interval = mean_and_interval(self.test_losses)
            record |= {"test_losses": self.test_losses, "test_mean": mean, "test_interval": interval}
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
