"""What decides for ``LearnedOptimizer(guard="fallback")`` when training diverges, and at which rate Adam goes on."""

import math
import statistics
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

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
"""Adam's rate, while lr is at its usual value, where the rule had no good step to match: Adam's own default."""


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
        pending: size of the last update over its lr, which the next loss will call good or not; the parameters' unit.
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

    def observe(self, loss: float, *, may_keep: bool = True) -> Literal["diverged", "best"] | None:
        """Take in a loss.

        Args:
            loss: to be made small.
            may_keep: whether it is of the parameters as they are, before the next update.

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
        if may_keep and due and loss <= self.smoothed <= self.lowest:
            self.snapshot_at = self.num_losses
            return "best"
        return None

    def fall_back(self, usual_lr: float) -> None:
        """Go on with Adam, at the rate that matches the rule's updates; where it is Adam that diverged, at a tenth.

        Args:
            usual_lr: of the group, where a schedule has it highest.
        """
        if self.rate is None:
            size = statistics.median(self.sizes) if self.sizes else 0.0
            self.rate = size if size > 0 else RATE_WITHOUT_GOOD_STEPS / (usual_lr if usual_lr > 0 else 1.0)
        else:
            self.rate /= 10
        self.smoothed, self.num_high, self.far, self.pending, self.num_adam_steps = None, 0, 0.0, None, 0

    def plain(self) -> dict[str, Any]:
        """Everything, for a parameter group."""
        return asdict(self)
