"""The objective of meta-training: one number of a student's losses over some inner steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from l2l_opt.tasks.base import Split

NORMALISATIONS = ("none", "log")
OVER_STEPS = ("sum", "mean", "linear", "progress", "last", "best-so-far")
SPLITS = ("train", "test")
NOT_ROUNDING = 1e-6
"""Of the first loss: a loss that is negative by more is so by its definition."""


@dataclass(frozen=True)
class MetaLoss:
    """``L(phi) = mean over students of sum_k w_k l(losses_k)``, over the losses after each step.

    Attributes:
        over_steps: w over the K steps: ``"sum"`` (1), ``"mean"`` (1 / K), ``"linear"`` (k / K), ``"progress"``
            (2 f / K, f the fraction of the horizon that is over after the step), ``"last"`` (only the last), K numbers;
            or ``"best-so-far"``, the mean over steps of the least loss of the inner run until there.
        normalisation: ``"none"``, l = loss; ``"log"``, l = log(loss / initial loss of the inner run), which puts tasks
            of any loss scale on one footing; only for losses that do not fall below zero.
        clip: l is at most this, and is this where a student has diverged; None for no bound.
        loss_on: the split of the batches whose losses these are.
        floor: of the initial loss; with ``"log"``, l = log(loss / initial loss + floor), so that a student who is all
            but done does not outweigh those who are not.

    Raises:
        ValueError: an unknown word, or a number that is not finite.

    Source: arXiv 1606.04474, equation 3 (sum, all weights one).
    """

    over_steps: str | Sequence[float] = "sum"
    normalisation: str = "none"
    clip: float | None = None
    loss_on: Split = "train"
    floor: float = 0.0

    def __post_init__(self) -> None:
        if self.normalisation not in NORMALISATIONS:
            raise ValueError(f"normalisation must be 'none' or 'log'; got {self.normalisation!r}, use one of these")
        if isinstance(self.over_steps, str):
            if self.over_steps not in OVER_STEPS:
                raise ValueError(
                    f"over_steps must be one of {', '.join(OVER_STEPS)} or numbers; got {self.over_steps!r}"
                )
        elif not self.over_steps or not all(math.isfinite(weight) for weight in self.over_steps):
            raise ValueError(f"over_steps must be finite numbers; got {list(self.over_steps)!r}, use e.g. sum")
        if self.clip is not None and not math.isfinite(self.clip):
            raise ValueError(f"clip must be a finite number or None; got {self.clip!r}, use e.g. 2.0")
        if not 0 <= self.floor < math.inf:
            raise ValueError(
                f"floor must be a number and not negative; got {self.floor!r}, use e.g. 0.001, or 0 for none"
            )
        if self.loss_on not in SPLITS:
            raise ValueError(f"loss_on must be 'train' or 'test'; got {self.loss_on!r}, use one of these")

    def __call__(self, *losses: Any, **more: Any) -> Tensor:
        """Return the meta-loss, 0-dim: the mean of ``per_student``, whose arguments these are."""
        return self.per_student(*losses, **more).mean()

    def per_student(
        self,
        losses: Tensor,
        initial_losses: Tensor,
        best_losses: Tensor | None = None,
        progress: Tensor | None = None,
    ) -> Tensor:
        """Return the meta-loss of each student over K steps.

        Args:
            losses: ``[K + 1, S]``, as ``unroll`` returns them.
            initial_losses: ``[S]``, the first loss of each student's inner run.
            best_losses: ``[S]``, the least loss of each inner run before these steps; None at its beginning.
            progress: ``[K, S]``, the fraction of the horizon that is over after each step; where None, these K steps
                are the whole horizon.

        Returns:
            ``[S]``.

        Raises:
            ValueError: numbers of another count than K.
        """
        after = losses[1:]
        if self.over_steps == "best-so-far":
            after = after.nan_to_num(nan=math.inf, posinf=math.inf).cummin(dim=0).values
            after = after if best_losses is None else torch.minimum(after, best_losses.to(after))
        after = self.normalise(after, initial_losses)
        if self.clip is not None:
            after = torch.where(after.isnan(), self.clip, after).clamp(max=self.clip)
        if self.over_steps == "progress" and progress is not None:
            return (2 * progress.to(after) * after).mean(dim=0)
        return self.weights(after.shape[0]).to(after) @ after

    def normalise(self, losses: Tensor, initial_losses: Tensor) -> Tensor:
        """l(losses), ``[..., S]``, given the first loss of each student's inner run, ``[S]``.

        Raises:
            ValueError: a loss below zero, by more than rounding, whose logarithm is to be taken.
        """
        if self.normalisation == "none":
            return losses
        least = torch.minimum(losses.detach(), initial_losses.to(losses))
        if bool((least < -NOT_ROUNDING * initial_losses.to(losses).abs()).any()):
            raise ValueError(
                "losses must not fall below zero with the normalisation 'log', which takes their logarithm; got "
                f"{float(least.nan_to_num(nan=0.0).min()):.4g}, use --normalisation none, with --clip-loss in "
                "the loss's own unit"
            )
        tiny = torch.finfo(losses.dtype).tiny
        initial = initial_losses.to(losses.dtype).clamp(min=tiny)
        if self.floor:
            return (losses.clamp(min=0) / initial + self.floor).log()
        return losses.clamp(min=tiny).log() - initial.log()

    def weights(self, length: int) -> Tensor:
        """Return the weights of steps, ``[length]``."""
        if not isinstance(self.over_steps, str):
            if len(self.over_steps) != length:
                raise ValueError(f"over_steps must be as many as the steps; got {len(self.over_steps)} and {length}")
            return torch.tensor(list(self.over_steps), dtype=torch.float64)
        ones = torch.ones(length, dtype=torch.float64)
        steps = ones.cumsum(0)
        return {
            "sum": ones,
            "mean": ones / length,
            "best-so-far": ones / length,
            "linear": steps / length,
            "progress": 2 * steps / length**2,
            "last": (steps == length).double(),
        }[self.over_steps]
