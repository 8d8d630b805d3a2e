"""Features of a gradient, whatever its scale, and of the clock."""

import math

import torch
from torch import Tensor


def log_sign(gradients: Tensor, *, p: float = 10.0) -> Tensor:
    """Gradients of any magnitude as two numbers of order one.

        (log|g| / p, sign g)   where |g| >= e^-p
        (-1, e^p g)            elsewhere

    Args:
        gradients: ``[*shape]``.
        p: dimensionless; gradients below e^-p are treated as linear.

    Returns:
        ``[2, *shape]``.

    Source: arXiv 1606.04474, appendix A.
    """
    threshold = math.exp(-p)
    magnitude = gradients.abs()
    # The clamp keeps log's derivative finite at zero gradients, where second derivatives would be NaN.
    logarithm = (magnitude.clamp(min=threshold).log() / p).clamp(min=-1.0)
    # Clamping is exact: e^p g is within 1 just where |g| is below e^-p.
    return torch.stack([logarithm, (gradients * math.exp(p)).clamp(-1.0, 1.0)])


def moving_average(average: Tensor, value: Tensor, *, beta: float | Tensor) -> Tensor:
    """One step of an exponential moving average: ``beta * average + (1 - beta) * value``."""
    return beta * average + (1 - beta) * value


def bias_correction(steps: Tensor, *, beta: float, dtype: torch.dtype) -> Tensor:
    """Return what a moving average started at zero is divided by: ``1 - beta^steps``.

    Computed with expm1, since in float32 the plain formula loses four digits at the first step.

    Args:
        steps: 0-dim, number of values averaged (1 at the first).
        beta: the average's decay.
        dtype: of the result.
    """
    return -torch.expm1(steps.to(dtype) * math.log(beta))


def safe_sqrt(value: Tensor) -> Tensor:
    """Take the square root with derivative zero at zero, where the true one is infinite."""
    positive = value > 0
    return torch.where(positive, torch.where(positive, value, 1.0).sqrt(), 0.0)


def progress(step: Tensor, num_steps: Tensor | None, *, dtype: torch.dtype) -> Tensor | None:
    """Return the fraction of the training run that is over, ``min(t / num_steps, 1)``; None where num_steps is unknown.

    Args:
        step: 0-dim, updates already applied.
        num_steps: 0-dim, planned updates.
        dtype: of the result.
    """
    if num_steps is None:
        return None
    return (step.to(dtype) / num_steps.to(dtype)).clamp(max=1.0)


TIMESCALES = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)
"""Steps around which the features of the clock change."""


def time_features(step: Tensor, timescales: Tensor) -> Tensor:
    """Return the clock as numbers from -1 to 1, ``tanh(t / s - 1)`` for each s of ``TIMESCALES``.

    Args:
        step: 0-dim, updates already applied.
        timescales: ``[11]``, these on the step's device, in the dtype of the result.

    Source: arXiv 2203.11860, appendix.
    """
    return torch.tanh(step.to(timescales.dtype) / timescales - 1)
