"""One protocol for every optimizer: the same students, the same batches, seeds that nothing was tuned on."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from l2l_opt.evaluation.baselines.tuning import BASELINES, Baseline, tune
from l2l_opt.evaluation.statistics import mean_and_interval
from l2l_opt.inner_loop.training import final_losses, training_losses
from l2l_opt.randomness import Stream
from l2l_opt.rules.base import UpdateRule
from l2l_opt.tasks.mixture import Tasks


@dataclass(frozen=True)
class Result:
    """One optimizer on one task at one horizon.

    Attributes:
        task: as the command line names it.
        horizon: inner steps.
        optimizer: ``"learned"`` for the rule under judgement, or the baseline's name.
        settings: how it was set; for a baseline also every learning rate tried and its tuning figure.
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

    def record(self) -> dict[str, Any]:
        """As ``evaluation.json`` holds it; a loss that is not finite becomes null."""
        record = {
            "task": self.task,
            "horizon": self.horizon,
            "optimizer": self.optimizer,
            "settings": finite(self.settings),
            "final_losses": finite(self.final_losses),
            "mean": finite(self.mean),
            "interval": finite(list(self.interval)),
            "seconds": self.seconds,
        }
        if self.test_losses is not None:
            mean, interval = mean_and_interval(self.test_losses)
            record["test_losses"] = finite(self.test_losses)
            record["test_mean"], record["test_interval"] = finite(mean), finite(list(interval))
        return record


def evaluate(
    rule: UpdateRule,
    family: Tasks,
    *,
    task: str,
    horizons: list[int],
    num_seeds: int,
    tuning_seeds: int,
    seed: int,
    settings: dict[str, Any],
    baselines: tuple[Baseline, ...] = BASELINES,
    on_progress: Callable[[str], Any] = lambda message: None,
) -> list[Result]:
    """Judge a rule against tuned baselines.

    Args:
        rule: under judgement; nothing of it is tuned.
        family: the task.
        task: its name, for the record.
        horizons: inner steps; baselines are tuned for each.
        num_seeds: students reported on.
        tuning_seeds: students, others than those, that baselines are tuned on.
        seed: of all students.
        settings: of the rule, for the record.
        baselines: what to compare with.
        on_progress: told what is about to be done.

    Returns:
        For each horizon the learned rule, then the baselines.
    """
    results = []
    for horizon in horizons:
        on_progress(f"learned, {horizon} steps")
        results.append(report(rule, family, task, horizon, num_seeds=num_seeds, seed=seed, settings=settings))
        for baseline in baselines:
            on_progress(f"tuning {baseline.name}, {horizon} steps")
            results.append(
                tune_and_report(
                    baseline, family, task, horizon, num_seeds=num_seeds, tuning_seeds=tuning_seeds, seed=seed
                )
            )
    return results


def tune_and_report(
    baseline: Baseline, family: Tasks, task: str, horizon: int, *, num_seeds: int, tuning_seeds: int, seed: int
) -> Result:
    """A baseline with the learning rate that is best on the tuning students, on the reporting ones."""
    tuning = tune(baseline, family, horizon=horizon, num_seeds=tuning_seeds, seed=seed)
    tuned = {"lr": tuning.lr, **baseline.options, "tried": {f"{lr:.3g}": v for lr, v in tuning.figures.items()}}
    rule = baseline.make(tuning.lr)
    return report(rule, family, task, horizon, num_seeds=num_seeds, seed=seed, settings=tuned, optimizer=baseline.name)


def report(
    rule: UpdateRule,
    family: Tasks,
    task: str,
    horizon: int,
    *,
    num_seeds: int,
    seed: int,
    settings: dict[str, Any],
    optimizer: str = "learned",
) -> Result:
    """A rule as it is, on the reporting students."""
    start = time.perf_counter()
    curves = training_losses(
        rule, family, numbers=range(num_seeds), horizon=horizon, seed=seed, stream=Stream.REPORTING, group_size=1
    )
    seconds = (time.perf_counter() - start) / num_seeds
    losses = final_losses(curves).double().tolist()
    mean, interval = mean_and_interval(losses)
    return Result(task, horizon, optimizer, settings, losses, mean, interval, seconds, curves.double().numpy())


def finite(value: Any) -> Any:
    """A value that JSON can hold: numbers that are not finite become null."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
