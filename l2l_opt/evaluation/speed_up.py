"""How many times sooner a rule is where the tuned baseline gets to.

    speed-up = steps that AdamW at a constant rate needs to reach the rule's final loss / steps that the rule used

AdamW runs up to ``CAP`` times as long as the rule. Both losses are running means over the window of the final loss.
"""

import numpy as np

CAP = 4
"""Times the rule's steps that the baseline is given; also the speed-up where it does not get there at all."""
NEIGHBOURS = (-2, -1, 0, 1)
"""Half-decades around the rate tuned for the horizon: the lower envelope over these is the baseline. A run that is
four times as long wants the same rate or a smaller one."""
DIVERGED = 0.2
"""Of the first loss, by which a final loss above it counts as divergence; less is left to the noise of one batch."""
TIE = 1e-6
"""Relative; losses that are closer are equal, since they are means taken in different orders."""


def running_mean(curves: np.ndarray, length: int) -> np.ndarray:
    """Return means over the last ``length`` losses: ``[steps - length + 1, ...]``, row i after ``length + i`` steps."""
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(curves, dtype=np.float64), length, axis=0)
    return windows.mean(axis=-1)


def steps_to_reach(curves: np.ndarray, targets: np.ndarray, length: int) -> np.ndarray:
    """Return steps until the lower envelope of the running means is at or below a student's target.

    Args:
        curves: ``[steps, rates, seeds]``, training losses; those that are not finite count as infinite.
        targets: ``[seeds]``, losses.
        length: steps, of the running mean.

    Returns:
        ``[seeds]``, steps; infinite where no rate gets there.
    """
    means = running_mean(curves, length)
    envelope = np.where(np.isnan(means), np.inf, means).min(axis=1)
    targets = np.asarray(targets, dtype=np.float64)
    there = envelope <= targets * (1 + TIE * np.sign(targets))
    first = there.argmax(axis=0) + length
    return np.where(there.any(axis=0), first, np.inf)


def speed_ups(final_losses: np.ndarray, first_losses: np.ndarray, steps: np.ndarray, *, horizon: int) -> np.ndarray:
    """Speed-ups in steps, 0 to ``CAP``: 0 where the rule diverged, ``CAP`` where the baseline does not get there.

    Args:
        final_losses: ``[seeds]``, of the rule. One that is not finite, or above the first loss by more than
            ``DIVERGED`` of its magnitude, has diverged.
        first_losses: ``[seeds]``, before the first step.
        steps: ``[seeds]``, that the baseline needs, infinite where it does not get there.
        horizon: steps that the rule used.
    """
    final, first = np.asarray(final_losses, dtype=np.float64), np.asarray(first_losses, dtype=np.float64)
    diverged = ~np.isfinite(final) | (final > first + DIVERGED * np.abs(first))
    return np.where(diverged, 0.0, np.minimum(np.asarray(steps, dtype=np.float64) / horizon, CAP))
