"""Antithetic pairs of one outer step: what they found, and how much each of them counts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from l2l_opt.inner_loop.student import Student
from l2l_opt.types import Params

BALANCES = ("none", "ranks", "sign")


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """S antithetic pairs after an outer step.

    Attributes:
        values: ``[S, 2]``, meta-loss under phi + eps and under phi - eps.
        losses: ``[K + 1, 2 S]``, the students' losses.
        shares: ``[S]``, the greater of the two last losses of a pair over its first loss.
        directions: of each pair what its difference is multiplied by: eps, or a sum of them.
        students: of each pair, in the inner run that this was a part of.
    """

    values: Tensor
    losses: Tensor
    shares: Tensor
    directions: Sequence[Params]
    students: Sequence[Student]

    def differences(self, balance: str, *, learned: float) -> Tensor:
        """``L_+ - L_-`` of each pair, ``[S]``, as much as it counts.

        Args:
            balance: ``"none"``: as they are; ``"ranks"``: their signs times the ranks of their sizes among pairs of one
                architecture, over the mean rank; ``"sign"``: only which of the two is better.
            learned: pairs whose ``shares`` are below this do not count: 0.
        """
        found = torch.where(self.shares < learned, 0.0, self.values[:, 0] - self.values[:, 1])
        if balance == "sign":
            return found.sign()
        if balance == "ranks":
            for places in self.by_family().values():
                found[places] = _signed_ranks(found[places])
        return found

    def by_family(self) -> dict[int, list[int]]:
        """Places of the pairs of each architecture."""
        places: dict[int, list[int]] = {}
        for place, student in enumerate(self.students):
            places.setdefault(id(student.family), []).append(place)
        return places


def _signed_ranks(differences: Tensor) -> Tensor:
    counted = differences != 0
    ranks = differences.abs()[counted].argsort().argsort() + 1.0
    return torch.zeros_like(differences).masked_scatter(
        counted, differences.sign()[counted] * ranks.to(differences) / ranks.mean().to(differences)
    )
