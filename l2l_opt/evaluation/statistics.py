"""Means and their uncertainty over seeds."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import bootstrap


def mean_and_interval(values: Sequence[float], *, confidence: float = 0.95) -> tuple[float, tuple[float, float]]:
    """The mean, and its percentile bootstrap interval (9,999 resamples, fixed seed).

    A diverged run (not finite) makes mean and interval infinite: it is never dropped.
    """
    sample = np.asarray(values, dtype=np.float64)
    if not np.isfinite(sample).all():
        return float("inf"), (float("inf"), float("inf"))
    mean = float(sample.mean())
    if len(sample) < 2 or np.ptp(sample) == 0:
        return mean, (mean, mean)
    result = bootstrap(
        (sample,), np.mean, confidence_level=confidence, method="percentile", rng=np.random.default_rng(0)
    )
    return mean, (float(result.confidence_interval.low), float(result.confidence_interval.high))
