"""What a rule sees of a gradient: scale-free inputs, and the clock."""

import contextlib
import math
from collections.abc import Callable, Iterator
from contextvars import ContextVar

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
    sign = torch.where(magnitude >= threshold, gradients.sign(), gradients * math.exp(p))
    return torch.stack([logarithm, sign])


def moving_average(average: Tensor, value: Tensor, *, beta: float) -> Tensor:
    """One step of an exponential moving average: ``beta * average + (1 - beta) * value``."""
    return beta * average + (1 - beta) * value


def bias_correction(steps: Tensor, *, beta: float, dtype: torch.dtype) -> Tensor:
    """The mass ``1 - beta^steps`` that a moving average started at zero has gathered.

    Computed with expm1, since in float32 the plain formula loses four digits at the first step.

    Args:
        steps: 0-dim, number of values averaged (1 at the first).
    """
    return -torch.expm1(steps.to(dtype) * math.log(beta))


def safe_sqrt(value: Tensor) -> Tensor:
    """The square root with derivative zero at zero, where the true one is infinite and second derivatives NaN."""
    positive = value > 0
    return torch.where(positive, torch.where(positive, value, 1.0).sqrt(), 0.0)


def progress(step: Tensor, num_steps: Tensor | None, *, dtype: torch.dtype) -> Tensor | None:
    """The fraction of the training run that is over, ``min(t / num_steps, 1)``; None where num_steps is unknown.

    Args:
        step: 0-dim, updates already applied.
        num_steps: 0-dim, planned updates.
    """
    if num_steps is None:
        return None
    return (step.to(dtype) / num_steps.to(dtype)).clamp(max=1.0)


Reduce = Callable[[Tensor], Tensor]
"""A sum, element by element, over the devices that hold the shards of one tensor."""

_reduce: ContextVar[Reduce | None] = ContextVar("reduce", default=None)


@contextlib.contextmanager
def summed_by(reduce: Reduce | None) -> Iterator[None]:
    """While it lasts, sums over a tensor are sums over its shards too: how an optimizer runs a rule on sharded tensors.

    Args:
        reduce: the sum over shards; None for tensors that are whole.
    """
    token = _reduce.set(reduce)
    try:
        yield
    finally:
        _reduce.reset(token)


def shard_sum(value: Tensor, reduce: Reduce | None = None) -> Tensor:
    """The sum of a value, element by element, over the devices that hold the shards of one tensor.

    Args:
        value: this device's term, of any shape.
        reduce: sums over the shards; None for that of ``summed_by``, or for a tensor that is whole.
    """
    reduce = reduce or _reduce.get()
    return value if reduce is None else reduce(value)


def is_sharded() -> bool:
    """Whether what a rule sees of a tensor now may be a part of its rows (its first axis)."""
    return _reduce.get() is not None


def whole_shape(value: Tensor) -> tuple[int, ...]:
    """The shape of a tensor of which rows lie on other devices; its own where it is whole."""
    if not is_sharded() or not value.dim():
        return tuple(value.shape)
    rows = shard_sum(torch.tensor(float(value.shape[0]), device=value.device))
    return int(rows), *value.shape[1:]


def tensor_sum(value: Tensor, reduce: Reduce | None = None) -> Tensor:
    """The sum over all coordinates of one tensor, 0-dim: the only way in which a rule may look beyond a coordinate.

    Args:
        value: of any shape; where the parameter is sharded, this device's shard.
        reduce: sums over the shards; None for that of ``summed_by``, or for a tensor that is whole.
    """
    reduce = reduce or _reduce.get()
    total = value.sum()
    return total if reduce is None else reduce(total)


def tensor_rms(value: Tensor, reduce: Reduce | None = None) -> Tensor:
    """The root mean square over all coordinates of one tensor, 0-dim; 0 for an empty one.

    Args:
        value: of any shape; where the parameter is sharded, this device's shard.
        reduce: sums over the shards; None for that of ``summed_by``, or for a tensor that is whole.
    """
    reduce = reduce or _reduce.get()
    total = (value * value).sum()
    if reduce is None:
        return safe_sqrt(total / max(value.numel(), 1))
    count = reduce(total.new_tensor(float(value.numel())))
    return safe_sqrt(reduce(total) / count.clamp(min=1))
