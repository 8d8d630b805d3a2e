"""Where batches lie that were drawn: on their family's device, or on the host, until many are moved there at once."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from l2l_opt.contexts import holding
from l2l_opt.types import Batch

_left: ContextVar[bool] = ContextVar("left", default=False)


def left_on_host() -> AbstractContextManager[None]:
    """While it lasts, families may leave what they draw where it was drawn; whoever draws moves it (``moved``).

    A copy to a GPU waits for it, so copies of every student's batch of every step would take longer than the steps.
    """
    return holding(_left, True)


def placed(value: Tensor, device: torch.device) -> Tensor:
    """Return a part of a batch as a family hands it out: on its device, or within ``left_on_host`` where it is."""
    return value if _left.get() else value.to(device)


def moved(batches: Sequence[Batch], device: torch.device) -> list[Batch]:
    """Move batches of one kind to a device by one copy of each of their tensors, for which nothing waits."""
    leaves, structure = tree_flatten(list(batches))
    if all(leaf.device.type == device.type for leaf in leaves):
        return list(batches)
    own = [tree_flatten(batch)[0] for batch in batches]
    joined = [sent(torch.stack(steps), device) for steps in zip(*own, strict=True)]
    return tree_unflatten([leaf[step] for step in range(len(batches)) for leaf in joined], structure)


def sent(value: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device, by a copy for which nothing waits."""
    on_its_way = value.pin_memory() if device.type == "cuda" and value.device.type == "cpu" else value
    return on_its_way.to(device, non_blocking=True)
