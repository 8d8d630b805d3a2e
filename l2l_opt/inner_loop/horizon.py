"""Horizons of students: how many inner steps each takes, drawn or growing over a run."""

import math
from dataclasses import dataclass

import torch

from l2l_opt.checks import check_positive_integers

GROWING = ":growing"


@dataclass(frozen=True)
class Horizon:
    """Inner steps from fresh params to reset, drawn for each inner run.

    Fixed; log-uniform between two bounds; or growing from the one to the other in equal ratios over the run,
    ``shortest * (longest / shortest)^u`` at the fraction u of the planned outer steps.

    Attributes:
        shortest: inner steps.
        longest: inner steps, inclusive; equal to shortest for a fixed horizon.
        multiple: every horizon is a multiple of this (the truncation length).
        growing: whether it grows over the run instead of being drawn.
    """

    shortest: int
    longest: int
    multiple: int = 1
    growing: bool = False

    @classmethod
    def parse(cls, text: str | int, *, truncation_length: int = 1) -> "Horizon":
        """Read ``100``, ``100..2000`` (log-uniform) or ``100..2000:growing``.

        Raises:
            ValueError: no such form, bounds that are not positive or not in order, a truncation length that does not
                divide them.
        """
        growing = str(text).endswith(GROWING)
        low, dots, high = str(text).removesuffix(GROWING).partition("..")
        try:
            shortest, longest = int(low), int(high if dots else low)
        except ValueError:
            raise ValueError(
                f"horizon must be a number or a range; got {text!r}, use e.g. 100, 100..2000 or 100..2000{GROWING}"
            ) from None
        if not 0 < shortest <= longest:
            raise ValueError(f"horizon must be positive and in order; got {text!r}, use e.g. 100 or 100..2000")
        check_positive_integers(20, truncation_length=truncation_length)
        if truncation_length > shortest:
            raise ValueError(
                f"truncation_length must not exceed horizon; got {truncation_length} and {shortest}, "
                f"use a truncation_length of at most {shortest}"
            )
        for bound in (shortest, longest):
            if bound % truncation_length:
                divisors = [d for d in range(1, bound + 1) if bound % d == 0]
                near = sorted(sorted(divisors, key=lambda d: abs(d - truncation_length))[:3])
                raise ValueError(
                    f"truncation_length must divide horizon; got {truncation_length} and {bound}, "
                    f"use {', '.join(map(str, near[:-1]))}{' or ' if near[:-1] else ''}{near[-1]}"
                )
        return cls(shortest, longest, truncation_length, growing)

    @property
    def mean(self) -> float:
        """Inner steps of an inner run in the mean, of a log-uniform horizon."""
        if self.shortest == self.longest:
            return self.shortest
        return (self.longest - self.shortest) / math.log(self.longest / self.shortest)

    def draw(self, generator: torch.Generator, *, progress: float = 0.0) -> int:
        """One inner run's horizon, for one that starts at this fraction of the planned outer steps."""
        if self.shortest == self.longest:
            return self.shortest
        position = progress if self.growing else float(torch.rand((), generator=generator, dtype=torch.float64))
        drawn = self.shortest * (self.longest / self.shortest) ** position
        return min(max(round(drawn / self.multiple), 1) * self.multiple, self.longest)

    def __str__(self) -> str:
        bounds = str(self.shortest) if self.shortest == self.longest else f"{self.shortest}..{self.longest}"
        return bounds + GROWING * self.growing
