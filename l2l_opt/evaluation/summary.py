"""What evaluations over a suite come to: loss ratios, speed-ups, wins, a profile; and all of it as one JSON value."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from l2l_opt.evaluation import provenance
from l2l_opt.evaluation.baselines.entries import ADAMW_CONSTANT, VALIDATED
from l2l_opt.evaluation.results import TaskEvaluation
from l2l_opt.evaluation.speed_up import CAP
from l2l_opt.evaluation.statistics import (
    CAP_OF_LOG_RATIO,
    CEILING,
    EVEN_FLOOR,
    FLOOR,
    even_log_ratios,
    geometric_mean_ratio,
    interquartile_mean,
    performance_profile,
    stratified_interval,
)
from l2l_opt.evaluation.suites import Suite
from l2l_opt.evaluation.task import SuiteConfig
from l2l_opt.storage.finite_json import finite

PROFILE_RATIOS = np.geomspace(1, 10, 41)
NEARLY = 0.02
"""Of a loss: a test loss so little above another one is level with it."""


def seconds_speed_ups(evaluation: TaskEvaluation) -> list[float]:
    """Speed-ups in steps, times how much longer a step of AdamW takes than one of the rule: one a seed."""
    times = evaluation.seconds_per_step
    return [value * float(times["adamw"]) / float(times["learned"]) for value in evaluation.speed_ups]


def losses_of(evaluations: Sequence[TaskEvaluation], optimizer: str) -> np.ndarray:
    """Return final losses ``[tasks, seeds]``, as ``TaskEvaluation.losses_of``."""
    return np.stack([own.losses_of(optimizer) for own in evaluations])


def compared(
    evaluations: Sequence[TaskEvaluation], optimizer: str, *, test: bool = False, floor: float = FLOOR
) -> np.ndarray:
    """Return what ratios are of, ``[2, tasks, seeds]``, as ``TaskEvaluation.compared_with``; NaN where not run."""
    return np.stack([own.compared_with(optimizer, test=test, floor=floor) for own in evaluations], axis=1)


def even(evaluations: Sequence[TaskEvaluation], optimizer: str, *, test: bool = False) -> dict[str, Any]:
    """Compare the rule with an optimizer on an even footing: floored losses, capped log ratios.

    Args:
        evaluations: of one horizon, on all of which the optimizer was run.
        optimizer: its name.
        test: compare test losses.

    Returns:
        ``mean`` of the log ratios, above 0 where the rule is better, its ``interval``, and ``at_or_below``: tasks on
        which the rule's loss is at or below the optimizer's, of test losses also where it is within ``NEARLY``.
    """
    pairs = compared(evaluations, optimizer, test=test, floor=EVEN_FLOOR)
    mean = lambda *samples: even_log_ratios(*samples).mean(axis=-1)  # noqa: E731
    ratios = even_log_ratios(*pairs)
    level = -np.log1p(NEARLY) if test else -1e-9
    return _with_interval("mean", mean, *pairs) | {"at_or_below": int((ratios >= level).sum()), "tasks": len(ratios)}


def _against_best(evaluations: Sequence[TaskEvaluation], names: Sequence[str]) -> dict[str, Any]:
    """Count tasks on which the rule's test loss is at or below, within ``NEARLY``, the best of several optimizers."""
    level, best = -np.log1p(NEARLY), []
    for own in evaluations:
        run = [name for name in names if own.result_of(name) is not None]
        best.append(min(even_log_ratios(*own.compared_with(name, test=True, floor=EVEN_FLOOR)) for name in run))
    return {"of": list(names), "at_or_below": int((np.asarray(best) >= level).sum()), "tasks": len(best)}


def _ratios(evaluations: Sequence[TaskEvaluation], optimizer: str) -> np.ndarray:
    """Return loss ratios, one a task."""
    theirs, ours = compared(evaluations, optimizer).mean(axis=-1)
    return theirs / ours


def summarise(evaluations: Sequence[TaskEvaluation]) -> list[dict[str, Any]]:
    """One summary a horizon."""
    horizons = list(dict.fromkeys(own.horizon for own in evaluations))
    return [_of_horizon([own for own in evaluations if own.horizon == horizon]) for horizon in horizons]


def _of_horizon(evaluations: Sequence[TaskEvaluation]) -> dict[str, Any]:
    names = list(dict.fromkeys(result.optimizer for own in evaluations for result in own.results))
    ratios, test_ratios, wins, log_ratios, test_log_ratios = {}, {}, {}, {}, {}
    for name in names[1:]:
        run = [own for own in evaluations if own.result_of(name) is not None]
        ratios[name] = _with_interval("geometric_mean", geometric_mean_ratio, *compared(run, name))
        test_ratios[name] = _with_interval("geometric_mean", geometric_mean_ratio, *compared(run, name, test=True))
        better = losses_of(run, "learned").mean(axis=1) <= losses_of(run, name).mean(axis=1)
        log_ratios[name], test_log_ratios[name] = even(run, name), even(run, name, test=True)
        wins[name] = {"wins": int(better.sum()), "tasks": len(run)}
    profiled = [name for name in names if name != ADAMW_CONSTANT.name]
    summary = {
        "horizon": evaluations[0].horizon,
        "tasks": len(evaluations),
        **(_speed_ups(evaluations) if evaluations[0].speed_ups else {}),
        "ratio": ratios,
        "test_ratio": test_ratios,
        "wins": wins,
        "log_ratio": log_ratios,
        "test_log_ratio": test_log_ratios,
    }
    if validated := [name for name in names if name.endswith(VALIDATED)]:
        summary["test_against_best"] = _against_best(evaluations, validated)
    fractions = performance_profile(np.stack([_ratios(evaluations, name) for name in profiled]), PROFILE_RATIOS)
    summary["profile"] = {
        "ratios": [round(float(ratio), 4) for ratio in PROFILE_RATIOS],
        "fractions": dict(zip(profiled, fractions.tolist(), strict=True)),
    }
    return summary


def _speed_ups(evaluations: Sequence[TaskEvaluation]) -> dict[str, Any]:
    """Return what is measured against AdamW, where it was run."""
    steps = np.asarray([own.speed_ups for own in evaluations])
    seconds = np.asarray([seconds_speed_ups(own) for own in evaluations])
    ratios = zip(evaluations, _ratios(evaluations, "adamw"), strict=True)
    return {
        "diverged": int((steps == 0).sum()),
        "speed_up_steps": _with_interval("interquartile_mean", interquartile_mean, steps),
        "speed_up_seconds": _with_interval("interquartile_mean", interquartile_mean, seconds),
        "ratio_by_task": {own.task: float(value) for own, value in ratios},
    }


def _with_interval(name: str, statistic: Callable[..., np.ndarray], *samples: np.ndarray) -> dict[str, Any]:
    return {name: float(statistic(*samples)), "interval": stratified_interval(statistic, *samples)}


def as_json(
    evaluations: Sequence[TaskEvaluation], suite: Suite, config: SuiteConfig, rule: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what ``evaluation.json`` holds."""
    content = {
        "suite": {"name": suite.name, "tasks": suite.tasks},
        "rule": dict(rule),
        "protocol": {
            "horizons": config.horizons,
            "seeds": config.num_seeds,
            "tuning_seeds": config.tuning_seeds,
            "seed": config.seed,
            "planned_steps": config.planned_steps,
            "dtype": str(config.dtype).removeprefix("torch."),
            "loss_floor": FLOOR,
            "loss_ceiling": CEILING,
            "even_loss_floor": EVEN_FLOOR,
            "log_ratio_cap": CAP_OF_LOG_RATIO,
            "speed_up_cap": CAP,
        },
        "versions": provenance.versions(),
        "summary": summarise(evaluations),
        "speed_up": [
            {
                "task": own.task,
                "horizon": own.horizon,
                "steps": own.speed_ups,
                "seconds": seconds_speed_ups(own),
                "baseline_steps": own.baseline_steps,
                "baseline_rates": own.baseline_rates,
                "steps_to_adamw": own.steps_to_adamw,
                "seconds_per_step": own.seconds_per_step,
            }
            for own in evaluations
            if own.speed_ups
        ],
        "notes": list(dict.fromkeys(note for own in evaluations for note in own.notes)),
        "results": [record for own in evaluations for record in own.records()],
    }
    return finite(content)
