"""Sums over a tensor, its shards included: the only way in which a rule reads beyond a coordinate."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar

import torch
from torch import Tensor

from l2l_opt.contexts import holding
from l2l_opt.rules.features import safe_sqrt

Reduce = Callable[[Tensor], Tensor]
"""A sum, element by element, over the devices that hold the shards of one tensor."""

_reduce: ContextVar[Reduce | None] = ContextVar("reduce", default=None)


def summed_by(reduce: Reduce | None) -> AbstractContextManager[None]:
    """While it lasts, sums over a tensor are sums over its shards too: how an optimizer runs a rule on sharded tensors.

    Args:
        reduce: the sum over shards; None for tensors that are whole.
    """
    return holding(_reduce, reduce)


def shard_sum(value: Tensor, reduce: Reduce | None = None) -> Tensor:
    """Return the sum of a value, element by element, over the devices that hold the shards of one tensor.

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
    """Return the shape of a tensor of which rows lie on other devices; its own where it is whole."""
    if not is_sharded() or not value.dim():
        return tuple(value.shape)
    rows = shard_sum(torch.full((), float(value.shape[0]), device=value.device))
    return int(rows), *value.shape[1:]


def tensor_sum(value: Tensor, reduce: Reduce | None = None) -> Tensor:
    """Sum over all coordinates of one tensor, 0-dim: the only way in which a rule may read beyond a coordinate.

    Args:
        value: of any shape; where the parameter is sharded, this device's shard.
        reduce: sums over the shards; None for that of ``summed_by``, or for a tensor that is whole.
    """
    reduce = reduce or _reduce.get()
    total = value.sum()
    return total if reduce is None else reduce(total)


def tensor_rms(value: Tensor, reduce: Reduce | None = None) -> Tensor:
    """Return the root mean square over all coordinates of one tensor, 0-dim; 0 for an empty one.

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
