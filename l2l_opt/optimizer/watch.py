"""Watching a run for ``LearnedOptimizer(guard="fallback")``: its losses, its updates, and parameters to go back to."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from l2l_opt.optimizer import sharding
from l2l_opt.optimizer.fallback import Fallback
from l2l_opt.optimizer.habits import warn
from l2l_opt.optimizer.local_parameters import LocalParameter, plain, widened
from l2l_opt.rules.sharded_sums import Reduce

HOSTS = {"cpu"}
"""Devices whose losses are looked at as they come."""
READ_EVERY = 10
"""Losses on another device that are looked at together, since it has to be waited for."""
SAMPLE = 1024
"""Coordinates of a tensor whose change measures an update."""


def snapshot(param: Tensor) -> Tensor:
    """Return a parameter as it is, to go back to, and room for Adam's two moments; ``[3, *param.shape]``."""
    value = widened(plain(param))
    kept = value.new_zeros(3, *value.shape)
    kept[0].copy_(value)
    return sharding.state_like(param, kept)


class Watch:
    """Looks at a run through the losses that its steps are given, on the device where they lie.

    Args:
        group: of the optimizer, in which ``entries()`` were kept; None for a run that begins.

    Attributes:
        fallback: what decides.
        measures: whether the size of the next update is wanted, since the loss after it will be looked at.
    """

    def __init__(self, group: Mapping[str, Any] | None = None):
        self.fallback = Fallback() if group is None else Fallback(**group["watch"])
        self._unread: list[float | Tensor] = [] if group is None else [*group.get("unread", ())]
        self._size: Tensor | None = None
        self.measures = False

    @property
    def is_read(self) -> bool:
        """Whether every loss has been looked at, so that ``entries`` waits for none."""
        return not self._unread

    def entries(self) -> dict[str, Any]:
        """Everything as plain values, for a parameter group; a loss that is not finite as infinity."""
        self._settle_size()
        unread = [loss if math.isfinite(loss) else math.inf for loss in map(float, self._unread)]
        return {"watch": self.fallback.plain(), "unread": unread}

    def take(self, loss: Tensor, states: Sequence[tuple[Tensor, dict[str, Any]]], group: Mapping[str, Any]) -> bool:
        """Take in a loss; keep the parameters where it is the best so far, go back to those kept if training diverges.

        Args:
            loss: of the parameters as they are, 0-dim, to be made small.
            states: all parameters that have been stepped, each with ``optimizer.state[param]``.
            group: the optimizer's first, with its lr.

        Returns:
            Whether it has gone back, so that the gradients belong to other parameters than these.
        """
        every = 1 if loss.device.type in HOSTS else READ_EVERY
        self._unread.append(loss.clone())
        verdict = self._look(loss, group) if len(self._unread) >= every else None
        self.measures = len(self._unread) + 1 >= every
        for param, own in states if verdict else ():
            kept = sharding.local(own["fallback"])
            if verdict == "best":
                kept[0].copy_(plain(param))
            else:
                plain(param).copy_(kept[0])
                kept[1:].zero_()
        return verdict == "diverged"

    def after_step(self, sizes: Sequence[Tensor]) -> None:
        """Take in what was measured of an update, each by ``size_of_update``; none where it was not."""
        if sizes:
            self._size = torch.stack([size.to(sizes[0].device) for size in sizes]).sum(0)
        self.measures = False
        self.fallback.num_adam_steps += self.fallback.rate is not None

    def _look(self, loss: Tensor, group: Mapping[str, Any]) -> Literal["diverged", "best"] | None:
        """Look at all losses up to this one: one wait for a GPU, and one more where an update was measured."""
        losses = torch.stack([torch.as_tensor(one, dtype=loss.dtype, device=loss.device) for one in self._unread])
        self._settle_size()
        pending, self.fallback.pending = self.fallback.pending, None
        self._unread = []
        *before, last = map(float, losses.cpu())
        bad = next((number for number in before if self.fallback.observe(number, may_keep=False) == "diverged"), None)
        if bad is None:
            self.fallback.pending = pending
            verdict = self.fallback.observe(last)
            if verdict != "diverged":
                return verdict
            bad = last
        was_adam = self.fallback.rate is not None
        lr = float(group["lr"])
        self.fallback.fall_back(max(lr, *(float(group.get(key, 0.0)) for key in ("initial_lr", "max_lr"))))
        if not was_adam:
            warn(
                f"training with the rule {group['rule']!r} diverged at its step {self.fallback.num_losses} "
                f"(loss {bad:g}): parameters are those of step {self.fallback.snapshot_at} again, and Adam goes on at "
                f"a rate of {lr * (self.fallback.rate or 0):.2g}"
            )
        return "diverged"

    def _settle_size(self) -> None:
        if self._size is not None:
            total, count = map(float, self._size.cpu())
            self._size, self.fallback.pending = None, math.sqrt(total / count) if count else None


def sample(params: Sequence[LocalParameter]) -> Tensor:
    """Return some coordinates of each parameter, evenly spaced, one after another; by one launch on a GPU."""
    return widened(torch.cat(_some_of_each(params)))


def size_of_update(
    params: Sequence[LocalParameter], before: Tensor, *, lr: float | Tensor, reduce: Reduce | None
) -> Tensor:
    """Sum of squares of what a step has changed over lr, and the number of coordinates, from samples: ``[2]``, float64.

    Args:
        params: after the step.
        before: their sample before it.
        lr: of their group; with zero nothing is measured.
        reduce: sums over the parameters' shards; None where they are whole.
    """
    counts = [(param.value.numel(), some.numel()) for param, some in zip(params, _some_of_each(params), strict=True)]
    changes = torch.split(sample(params) - before, [seen for _, seen in counts])  # pyright: ignore
    norms = torch._foreach_norm(changes)  # pyright: ignore
    torch._foreach_mul_(norms, [math.sqrt(own / max(seen, 1)) for own, seen in counts])  # pyright: ignore
    total = torch.stack(norms).double().square().sum()
    result = torch.stack([total, torch.full_like(total, sum(own for own, _ in counts))])
    if isinstance(lr, Tensor):
        result = torch.where(lr > 0, result, 0.0)
        result[0] /= torch.where(lr > 0, lr, 1.0).double().square()
    else:
        result *= lr > 0
        result[0] /= lr**2 or 1.0
    return result if reduce is None else reduce(result)


def _some_of_each(params: Sequence[LocalParameter]) -> list[Tensor]:
    flat = [param.value.reshape(-1) for param in params]
    return [value[:: max(1, value.numel() // SAMPLE)] for value in flat]
