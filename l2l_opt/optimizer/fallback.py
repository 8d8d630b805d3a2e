"""The fallback of ``LearnedOptimizer(guard="fallback")``: notices divergence, goes back, goes on with Adam."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from l2l_opt.optimizer import sharding
from l2l_opt.optimizer.local_parameters import LocalParameter, finite_over_shards, is_finite, plain, widened
from l2l_opt.optimizer.stepping import Options
from l2l_opt.rules.sharded_sums import Reduce

SMOOTHING = 0.95
"""Decay of the moving average that is the smoothed loss."""
LARGEST = 4
"""Times the first loss by which a single loss counts above it, so that a few bad batches are no divergence."""
PATIENCE = 50
"""Steps that the smoothed loss must stay too high, those of which far losses are counted, and between snapshots."""
MOST_FAR = 0.3
"""Share of the last losses that may lie far out."""
NUM_SIZES = 51
RATE_WITHOUT_GOOD_STEPS = 1e-3
"""Adam's rate where the rule had no good step to match: Adam's own default."""
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8
SAMPLE = 1024
"""Coordinates of a tensor whose change measures an update."""


@dataclass
class Fallback:
    """Decides by the losses so far when to fall back on Adam, and at which rate; all that it keeps are plain values.

    A loss that is not finite is divergence, and so is a smoothed loss that lies above its minimum by half of what had
    been gained, ``(first - lowest) / 2``, for 50 steps. Where little has been gained, noise alone would do that: the
    margin is at least a twentieth of the first loss, and at least twice the noise, since a loss that falls below zero
    may begin near it. Losses that leap hide in that noise, and gross divergence need not last so long: it is
    divergence too where more than three in ten of the last 50 losses or so are far out, by four times the noise beyond
    the most that a single loss counts, which is five times the first loss and what had been gained.

    Attributes:
        first: the first loss.
        lowest: the least smoothed loss.
        smoothed: the moving average of losses; None before the first, and after going back.
        noise: the moving average of how far losses are from it.
        num_losses: losses seen.
        num_high: losses in a row at which the smoothed loss was too high.
        far: the moving average of whether a loss was far out.
        snapshot_at: the number of the loss at which parameters were last kept.
        pending: size of the last update, which the next loss will call good or not; the parameters' unit.
        sizes: of the rule's last good updates.
        rate: Adam's, as a multiple of the group's lr; None as long as the rule goes on.
        num_adam_steps: steps of Adam since it was last begun.
    """

    first: float | None = None
    lowest: float = math.inf
    smoothed: float | None = None
    noise: float = 0.0
    num_losses: int = 0
    num_high: int = 0
    far: float = 0.0
    snapshot_at: int = 0
    pending: float | None = None
    sizes: list[float] = field(default_factory=list[float])
    rate: float | None = None
    num_adam_steps: int = 0

    def observe(self, loss: float) -> Literal["diverged", "best"] | None:
        """Take in a loss of the parameters as they are before the next update.

        Args:
            loss: to be made small.

        Returns:
            ``"diverged"``; ``"best"`` where the parameters are worth keeping; None otherwise.
        """
        self.num_losses += 1
        if not math.isfinite(loss):
            # Adam is not given up for one bad batch.
            self.num_high, self.pending = self.num_high + 1, None
            return "diverged" if self.rate is None or self.num_high >= PATIENCE else None
        self.first = loss if self.first is None else self.first
        most = 2 * self.first - min(self.lowest, self.first) + LARGEST * abs(self.first)
        self.far += ((loss > most + LARGEST * self.noise) - self.far) / PATIENCE
        counted = min(loss, most)
        before = counted if self.smoothed is None else self.smoothed
        self.noise = SMOOTHING * self.noise + (1 - SMOOTHING) * abs(counted - before)
        self.smoothed = SMOOTHING * before + (1 - SMOOTHING) * counted
        self.lowest = min(self.lowest, self.smoothed)
        half = (self.first - self.lowest) / 2
        is_high = self.smoothed > self.lowest + max(half, abs(self.first) / 20, 2 * self.noise)
        self.num_high = self.num_high + 1 if is_high else 0
        if self.pending is not None and self.rate is None and not is_high and loss <= self.lowest + half:
            self.sizes = [*self.sizes, self.pending][-NUM_SIZES:]
        self.pending = None
        if self.num_high >= PATIENCE or self.far > MOST_FAR:
            return "diverged"
        due = self.num_losses == 1 or self.num_losses - self.snapshot_at >= PATIENCE
        if due and loss <= self.smoothed <= self.lowest:
            self.snapshot_at = self.num_losses
            return "best"
        return None

    def fall_back(self, lr: float) -> None:
        """Go on with Adam, at the rate that matches the rule's updates; where it is Adam that diverged, at a tenth.

        Args:
            lr: of the group, of which the rate is a multiple.
        """
        if self.rate is None:
            size = statistics.median(self.sizes) if self.sizes else RATE_WITHOUT_GOOD_STEPS
            self.rate = size / lr if lr > 0 else RATE_WITHOUT_GOOD_STEPS
        else:
            self.rate /= 10
        self.smoothed, self.num_high, self.far, self.pending, self.num_adam_steps = None, 0, 0.0, None, 0

    def plain(self) -> dict[str, Any]:
        """Everything, for a parameter group."""
        return asdict(self)


def snapshot(param: Tensor) -> Tensor:
    """Return a parameter as it is, to go back to, and room for Adam's two moments; ``[3, *param.shape]``."""
    value = widened(plain(param))
    kept = value.new_zeros(3, *value.shape)
    kept[0].copy_(value)
    return sharding.state_like(param, kept)


States = Sequence[tuple[Tensor, dict[str, Any]]]
"""Parameters, each with ``optimizer.state[param]``."""


def settle(fallback: Fallback, loss: float, states: States, *, lr: float) -> bool:
    """Take in a loss; keep the parameters where it is the best so far, go back to those kept where training diverges.

    Args:
        fallback: changed.
        loss: of the parameters as they are, to be made small.
        states: all parameters that have been stepped.
        lr: of the group whose multiple Adam's rate will be.

    Returns:
        Whether it has gone back, so that the gradients belong to other parameters than these.
    """
    verdict = fallback.observe(loss)
    for param, own in states if verdict else ():
        kept = sharding.local(own["fallback"])
        if verdict == "best":
            kept[0].copy_(plain(param))
        else:
            plain(param).copy_(kept[0])
            kept[1:].zero_()
    if verdict == "diverged":
        fallback.fall_back(lr)
    return verdict == "diverged"


def sample(param: LocalParameter) -> Tensor:
    """Return a copy of some of a parameter's coordinates, evenly spaced."""
    flat = param.value.reshape(-1)
    return widened(flat[:: max(1, flat.numel() // SAMPLE)]).clone()


def size_of_update(params: Sequence[LocalParameter], before: Sequence[Tensor], reduce: Reduce | None) -> Tensor:
    """Sum of squares of what a step has changed, and the number of coordinates, from samples: ``[2]``, float64.

    Args:
        params: after the step.
        before: their samples before it.
        reduce: sums over the parameters' shards; None where they are whole.
    """
    total = torch.zeros(2, dtype=torch.float64, device=params[0].value.device)
    for param, old in zip(params, before, strict=True):
        if old.numel():
            total[0] += (sample(param) - old).double().square().mean() * param.value.numel()
            total[1] += param.value.numel()
    return total if reduce is None else reduce(total)


def adam_step(params: Sequence[LocalParameter], options: Options, fallback: Fallback, *, reduce: Reduce | None) -> None:
    """One step of Adam, in place; a tensor whose gradient or new value is not finite is left as it is.

    Source: arXiv 1412.6980, algorithm 1.
    """
    assert fallback.rate is not None
    steps = fallback.num_adam_steps + 1
    for param in params:
        gradient = widened(param.grad) * options.sign
        kept = sharding.local(param.own["fallback"])
        moments = torch.stack(
            [torch.lerp(kept[1], gradient, 1 - BETA1), torch.lerp(kept[2], gradient * gradient, 1 - BETA2)]
        )
        root = (moments[1] / (1 - BETA2**steps)).sqrt() + EPS
        value = widened(param.value)
        change = options.lr * fallback.rate * moments[0] / (1 - BETA1**steps) / root + options.decay * value
        new = (value - change).to(param.value.dtype)
        (finite,) = finite_over_shards([is_finite([new, moments])], reduce)
        param.value.copy_(torch.where(finite, new, param.value))
        kept[1:].copy_(torch.where(finite, moments, kept[1:]))
        param.state["step"] += finite
        param.own["skipped"] += ~finite
