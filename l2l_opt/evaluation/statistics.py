"""Means over seeds and over tasks, and their uncertainty."""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from scipy.stats import DegenerateDataWarning, bootstrap, trim_mean

CONFIDENCE = 0.95
"""Of all intervals."""
FLOOR = 1e-6
"""Of the initial loss: losses below count as this, since float32 cannot distinguish them from zero."""
EVEN_FLOOR = 1e-3
"""Of the initial loss: in even log ratios losses below count as this, so that none is ahead by memorising further."""
CAP_OF_LOG_RATIO = 0.7
"""Even log ratios of a task lie within this of zero, so that no task rules their mean."""
CEILING = 100.0
"""Of the initial loss: losses above, and those that are not finite, count as this in ratios and are never dropped."""


def refuse_without_finite_results(what: str, values: Iterable[float]) -> None:
    """Call no comparison one where nothing in it is finite.

    Raises:
        ValueError: not a single value is.
    """
    found = list(values)
    if not any(map(math.isfinite, found)):
        raise ValueError(
            f"some final loss must be finite; got infinity or NaN in all {len(found)} runs on {what}, use a task whose "
            "loss and gradients are finite, or fewer inner steps"
        )


def mean_and_interval(values: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Compute the mean and its percentile bootstrap interval (9,999 resamples, fixed seed).

    A diverged run (not finite) makes mean and interval infinite: it is never dropped.
    """
    sample = np.asarray(values, dtype=np.float64)
    if not np.isfinite(sample).all():
        return float("inf"), (float("inf"), float("inf"))
    low, high = interval_of_mean(sample)
    return float(sample.mean()), (float(low), float(high))


def interval_of_mean(values: np.ndarray, *, resamples: int = 9999) -> tuple[np.ndarray, np.ndarray]:
    """Compute the 95 % percentile bootstrap interval of the mean over the last axis (fixed seed).

    Args:
        values: ``[..., seeds]``.
        resamples: how many.

    Returns:
        Its ends, ``[...]`` each; NaN where values are not finite.
    """
    mean = values.mean(axis=-1)
    if values.shape[-1] < 2 or np.ptp(values) == 0:
        return mean, mean
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", DegenerateDataWarning)  # rows that are not finite have none
        found = bootstrap(
            (values,),
            np.mean,
            axis=-1,
            n_resamples=resamples,
            confidence_level=CONFIDENCE,
            method="percentile",
            rng=np.random.default_rng(0),
        )
    return found.confidence_interval.low, found.confidence_interval.high


def bounded(losses: np.ndarray, initial: np.ndarray | float, *, floor: float = FLOOR) -> np.ndarray:
    """Losses between a floor and ``CEILING`` times the initial loss; those that are not finite at the ceiling.

    Args:
        losses: any shape.
        initial: the initial loss, broadcast against them.
        floor: of the initial loss.
    """
    initial = np.abs(np.asarray(initial, dtype=np.float64))
    losses = np.nan_to_num(np.asarray(losses, dtype=np.float64), nan=np.inf, posinf=np.inf, neginf=np.inf)
    return np.clip(losses, floor * initial, CEILING * initial)


def fall_below_zero(losses: np.ndarray, initial: float) -> bool:
    """Whether a finite loss is negative by more than rounding, so that ratios of losses mean nothing."""
    losses = np.asarray(losses, dtype=np.float64)
    return bool((losses[np.isfinite(losses)] < -FLOOR * abs(initial)).any())


def progress(losses: np.ndarray, first: np.ndarray, greatest: float) -> np.ndarray:
    """How far losses came down from the first ones; the scale of losses without a zero of their own.

    Args:
        losses: ``[seeds]``; one that is not finite is no progress.
        first: ``[seeds]``, before the first step.
        greatest: the greatest mean progress of all that are compared; less than 1 / ``CEILING`` of it counts as that,
            so that ratios lie within 1 / ``CEILING`` and ``CEILING`` of it.
    """
    gained = np.where(np.isfinite(losses), first - np.asarray(losses, dtype=np.float64), 0.0)
    return np.maximum(gained, greatest / CEILING)


def geometric_mean_ratio(theirs: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """Return the loss ratio: geometric mean over tasks of (mean over seeds of theirs / ours); above 1 ours is better.

    Args:
        theirs: ``[..., tasks, seeds]``, positive.
        ours: likewise.

    Returns:
        ``[...]``.
    """
    return np.exp((np.log(theirs.mean(axis=-1)) - np.log(ours.mean(axis=-1))).mean(axis=-1))


def even_log_ratios(theirs: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """Return log(mean over seeds of theirs / of ours), a task each, capped; above 0 ours is better.

    Args:
        theirs: ``[..., tasks, seeds]``, positive.
        ours: likewise.

    Returns:
        ``[..., tasks]``, within ``CAP_OF_LOG_RATIO`` of zero.
    """
    apart = np.log(theirs.mean(axis=-1)) - np.log(ours.mean(axis=-1))
    return np.clip(apart, -CAP_OF_LOG_RATIO, CAP_OF_LOG_RATIO)


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean of the middle half of all tasks and seeds together.

    Args:
        values: ``[..., tasks, seeds]``.

    Returns:
        ``[...]``.

    Source: arXiv 2108.13264, section 4.3.
    """
    flat = values.reshape(*values.shape[:-2], -1)
    return np.asarray(trim_mean(flat, 0.25, axis=-1))


def stratified_interval(
    statistic: Callable[..., np.ndarray],
    *samples: np.ndarray,
    resamples: int = 9999,
) -> tuple[float, float]:
    """Compute the 95 % percentile bootstrap interval over tasks and over seeds within tasks (fixed seed).

    Tasks are drawn with replacement, then seeds within each task drawn; paired samples are drawn alike.

    Args:
        statistic: takes resamples ``[R, tasks, seeds]`` of every sample and returns ``[R]``.
        samples: ``[tasks, seeds]`` each.
        resamples: how many.

    Source: arXiv 2108.13264, section 4.1, which draws seeds alone; tasks are drawn too here, as they are a sample.
    """
    num_tasks, num_seeds = samples[0].shape
    generator = np.random.default_rng(0)
    values = []
    for count in (min(1000, resamples - start) for start in range(0, resamples, 1000)):
        tasks = generator.integers(num_tasks, size=(count, num_tasks, 1))
        seeds = generator.integers(num_seeds, size=(count, num_tasks, num_seeds))
        values.append(statistic(*(sample[tasks, seeds] for sample in samples)))
    edge = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(values), [edge, 1 - edge])
    return float(low), float(high)


def performance_profile(losses: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """Return the fraction of tasks on which an optimizer is within a ratio of the best one.

    Args:
        losses: ``[optimizers, tasks]``, positive; NaN where an optimizer was not run.
        ratios: ``[K]``, 1 or more.

    Returns:
        ``[optimizers, K]``.

    Source: Dolan and More 2002, Mathematical Programming 91; losses stand for times here.
    """
    apart = losses / np.nanmin(losses, axis=0)
    # Rounding must not take an optimizer's 1 from it.
    return (apart[:, :, None] <= ratios * (1 + 1e-9)).mean(axis=1)
