"""What judgements over a suite come to: ratios, speed-ups, wins, a profile; and all of it as one JSON value."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from l2l_opt.evaluation import provenance
from l2l_opt.evaluation.baselines.entries import ADAMW_CONSTANT
from l2l_opt.evaluation.results import Result, finite
from l2l_opt.evaluation.speed_up import CAP
from l2l_opt.evaluation.statistics import (
    CEILING,
    FLOOR,
    bounded,
    geometric_mean_ratio,
    interquartile_mean,
    performance_profile,
    stratified_interval,
)
from l2l_opt.evaluation.suites import Suite
from l2l_opt.evaluation.task import Protocol, TaskJudgement

PROFILE_RATIOS = np.geomspace(1, 10, 41)


def seconds_speed_ups(judgement: TaskJudgement) -> list[float]:
    """Speed-ups in steps, times how much longer a step of AdamW takes than one of the rule: one a seed."""
    times = judgement.seconds_per_step
    return [value * float(times["adamw"]) / float(times["learned"]) for value in judgement.speed_ups]


def result_of(judgement: TaskJudgement, optimizer: str) -> Result | None:
    return next((result for result in judgement.results if result.optimizer == optimizer), None)


def losses_of(judgements: Sequence[TaskJudgement], optimizer: str, *, test: bool = False) -> np.ndarray:
    """Final (or test) losses ``[tasks, seeds]`` within the bounds of ``statistics.bounded``; NaN where not run."""
    rows = []
    for judgement in judgements:
        result = result_of(judgement, optimizer)
        initial = float(np.mean(judgement.first_losses))
        if result is None:
            rows.append(np.full(len(judgement.first_losses), np.nan))
        else:
            rows.append(bounded(np.asarray(result.test_losses if test else result.final_losses), initial))
    return np.stack(rows)


def summarise(judgements: Sequence[TaskJudgement]) -> list[dict[str, Any]]:
    """One summary a horizon."""
    horizons = list(dict.fromkeys(judgement.horizon for judgement in judgements))
    return [_of_horizon([own for own in judgements if own.horizon == horizon]) for horizon in horizons]


def _of_horizon(judgements: Sequence[TaskJudgement]) -> dict[str, Any]:
    names = list(dict.fromkeys(result.optimizer for own in judgements for result in own.results))
    ours, ours_in_test = losses_of(judgements, "learned"), losses_of(judgements, "learned", test=True)
    ratios, test_ratios, wins = {}, {}, {}
    for name in names[1:]:
        theirs, in_test = losses_of(judgements, name), losses_of(judgements, name, test=True)
        run = ~np.isnan(theirs).any(axis=1)
        ratios[name] = _ratio(theirs[run], ours[run])
        test_ratios[name] = _ratio(in_test[run], ours_in_test[run])
        better = ours[run].mean(axis=1) <= theirs[run].mean(axis=1)
        wins[name] = {"wins": int(better.sum()), "tasks": int(run.sum())}
    steps = np.asarray([own.speed_ups for own in judgements])
    seconds = np.asarray([seconds_speed_ups(own) for own in judgements])
    adamw = losses_of(judgements, "adamw").mean(axis=1)
    return {
        "horizon": judgements[0].horizon,
        "tasks": len(judgements),
        "diverged": int((steps == 0).sum()),
        "speed_up_steps": _interquartile(steps),
        "speed_up_seconds": _interquartile(seconds),
        "ratio": ratios,
        "ratio_by_task": {own.task: float(value) for own, value in zip(judgements, adamw / ours.mean(1), strict=True)},
        "test_ratio": test_ratios,
        "wins": wins,
        "profile": _profile(judgements, [name for name in names if name != ADAMW_CONSTANT.name]),
    }


def _ratio(theirs: np.ndarray, ours: np.ndarray) -> dict[str, Any]:
    return {
        "geometric_mean": float(geometric_mean_ratio(theirs, ours)),
        "interval": list(stratified_interval(geometric_mean_ratio, theirs, ours)),
    }


def _interquartile(values: np.ndarray) -> dict[str, Any]:
    return {
        "interquartile_mean": float(interquartile_mean(values)),
        "interval": list(stratified_interval(interquartile_mean, values)),
    }


def _profile(judgements: Sequence[TaskJudgement], names: Sequence[str]) -> dict[str, Any]:
    losses = np.stack([losses_of(judgements, name).mean(axis=1) for name in names])
    fractions = performance_profile(losses, PROFILE_RATIOS)
    return {
        "ratios": [round(float(ratio), 4) for ratio in PROFILE_RATIOS],
        "fractions": {name: row.tolist() for name, row in zip(names, fractions, strict=True)},
    }


def as_json(
    judgements: Sequence[TaskJudgement], suite: Suite, protocol: Protocol, rule: Mapping[str, Any]
) -> dict[str, Any]:
    """What ``evaluation.json`` holds of a suite."""
    return {
        "suite": {"name": suite.name, "tasks": list(suite.tasks)},
        "rule": dict(rule),
        "protocol": {
            "horizons": list(protocol.horizons),
            "seeds": protocol.num_seeds,
            "tuning_seeds": protocol.tuning_seeds,
            "seed": protocol.seed,
            "planned_steps": protocol.planned_steps,
            "dtype": str(protocol.dtype).removeprefix("torch."),
            "loss_floor": FLOOR,
            "loss_ceiling": CEILING,
            "speed_up_cap": CAP,
        },
        "versions": provenance.versions(),
        "summary": finite(summarise(judgements)),
        "speed_up": [
            finite(
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
            )
            for own in judgements
        ],
        "notes": list(dict.fromkeys(note for own in judgements for note in own.notes)),
        "results": [result.record() for own in judgements for result in own.results],
    }
