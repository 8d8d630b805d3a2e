"""The objective for phi: what a window of students' losses is worth."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NORMALISATIONS = ("none", "log")
STEP_WEIGHTS = ("ones", "linear", "last")


@dataclass(frozen=True)
class MetaLoss:
    """``L(phi) = mean over students of sum_k w_k l(losses_k)``, over the losses after each step of a window.

    Attributes:
        step_weights: w over the K steps of a window: ``"ones"``, ``"linear"`` (k / K), ``"last"`` (only the last), or
            K numbers.
        normalisation: ``"none"``, l = loss; ``"log"``, l = log(loss / initial loss of the episode), which puts tasks
            of any loss scale on one footing.

    Raises:
        ValueError: an unknown word, or weights that are not finite.

    Source: arXiv 1606.04474, equation 3 (sum, all weights one).
    """

    step_weights: str | Sequence[float] = "ones"
    normalisation: str = "none"

    def __post_init__(self) -> None:
        if self.normalisation not in NORMALISATIONS:
            raise ValueError(f"normalisation must be 'none' or 'log'; got {self.normalisation!r}, use one of these")
        if isinstance(self.step_weights, str):
            if self.step_weights not in STEP_WEIGHTS:
                raise ValueError(
                    f"step_weights must be one of {', '.join(STEP_WEIGHTS)} or numbers; got {self.step_weights!r}"
                )
        elif not self.step_weights or not all(math.isfinite(weight) for weight in self.step_weights):
            raise ValueError(f"step_weights must be finite numbers; got {list(self.step_weights)!r}, use e.g. ones")

    def __call__(self, losses: Tensor, initial_losses: Tensor) -> Tensor:
        """The meta-loss of one window.

        Args:
            losses: ``[K + 1, S]``, as ``unroll`` returns them.
            initial_losses: ``[S]``, the first loss of each student's episode.

        Returns:
            0-dim.

        Raises:
            ValueError: numbers of another count than K.
        """
        after = self.normalise(losses[1:], initial_losses)
        return (self.weights(after.shape[0]).to(after) @ after).mean()

    def normalise(self, losses: Tensor, initial_losses: Tensor) -> Tensor:
        """l(losses), ``[..., S]``, given the first loss of each student's episode, ``[S]``."""
        if self.normalisation == "none":
            return losses
        tiny = torch.finfo(losses.dtype).tiny
        return losses.clamp(min=tiny).log() - initial_losses.to(losses.dtype).clamp(min=tiny).log()

    def weights(self, length: int) -> Tensor:
        """The weights of a window's steps, ``[length]``."""
        if self.step_weights == "ones":
            return torch.ones(length, dtype=torch.float64)
        if self.step_weights == "linear":
            return torch.arange(1, length + 1, dtype=torch.float64) / length
        if self.step_weights == "last":
            return torch.eye(length, dtype=torch.float64)[-1]
        assert not isinstance(self.step_weights, str)
        if len(self.step_weights) != length:
            raise ValueError(
                f"step_weights must be as many as the truncation length; got {len(self.step_weights)} and {length}"
            )
        return torch.tensor(list(self.step_weights), dtype=torch.float64)
