"""Episodes: small tasks drawn from labelled data, each with examples to learn from and others to be evaluated on."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from l2l_opt.checks import check_finite, check_positive_integers
from l2l_opt.types import TaskData

PHASES = ("meta-train", "validation", "test")
"""What episodes are for: their classes (or rows) are disjoint."""


class EpisodeSource(Protocol):
    """A distribution of episodes of one shape.

    Attributes:
        input_shape: of one example.
        num_outputs: of a model of them: classes of an episode, or the numbers to be predicted.
        num_support: examples of a support set.
        of_classes: whether targets are classes; numbers otherwise.
    """

    input_shape: tuple[int, ...]
    num_outputs: int
    num_support: int
    of_classes: bool

    def sample(self, generator: torch.Generator) -> TaskData:
        """``support_inputs`` ``[num_support, *input_shape]``, ``support_targets``, and ``query_...`` likewise."""
        ...


def split_classes(num_classes: int, shares: Sequence[float], *, seed: int = 0) -> list[Tensor]:
    """Classes in an order drawn once, cut by shares that sum to 1: disjoint sets of class numbers.

    Raises:
        ValueError: shares that are not positive or do not sum to 1.
    """
    if any(share <= 0 for share in shares) or abs(sum(shares) - 1) > 1e-9:
        raise ValueError(f"shares of classes must be positive and sum to 1; got {list(shares)}, use e.g. .6, .2, .2")
    order = torch.randperm(num_classes, generator=torch.Generator().manual_seed(seed))
    borders = [round(num_classes * sum(shares[:count])) for count in range(len(shares) + 1)]
    return [order[start:end] for start, end in pairwise(borders)]


class ClassEpisodes:
    """N-way K-shot: N classes, of each K examples to learn from and some others to be evaluated on.

    Labels are 0 to N - 1 in an order drawn for each episode, so that nothing but the support set shows them.

    Args:
        inputs: ``[examples, *input_shape]``, of any dtype; bytes are read as 0 to 1.
        labels: ``[examples]``, integers.
        classes: the labels that episodes are made of; all where None. Phases have disjoint ones.
        ways: N.
        shots: K.
        queries: examples of each class of the query set.
        rotations: whether images turned by 90, 180 and 270 degrees are classes of their own.
        device: where episodes are made.
        dtype: of the inputs.

    Raises:
        ValueError: inputs that are not finite, too few classes, an empty class, or a class with fewer than K + queries
            examples.

    Source: episodes: arXiv 1606.04080, section 2.2; rotations as classes: arXiv 1605.06065, section 4.1.
    """

    of_classes = True

    def __init__(
        self,
        inputs: Tensor,
        labels: Tensor,
        *,
        classes: Sequence[int] | Tensor | None = None,
        ways: int = 5,
        shots: int = 1,
        queries: int = 5,
        rotations: bool = False,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        check_positive_integers(5, ways=ways, shots=shots, queries=queries)
        if ways == 1:
            raise ValueError("ways must be an integer of at least 2; got 1, use e.g. ways=5")
        check_finite(inputs=inputs)
        if len(inputs) != len(labels):
            raise ValueError(f"there must be a label for every example; got {len(labels)} for {len(inputs)}")
        if rotations and (inputs.dim() < 3 or inputs.shape[-1] != inputs.shape[-2]):
            raise ValueError(
                f"only square images can be rotated; got examples of shape {tuple(inputs.shape[1:])}, "
                "use rotations=False"
            )
        wanted = torch.unique(labels) if classes is None else torch.as_tensor(classes)
        members = {int(c): (labels == c).nonzero().squeeze(-1) for c in wanted}
        for name, indices in members.items():
            if len(indices) < shots + queries:
                raise ValueError(
                    f"a class must have at least shots + queries = {shots + queries} examples; got {len(indices)} of "
                    f"class {name}, use fewer shots or queries, or leave it out"
                )
        self.turns = 4 if rotations else 1
        if len(members) * self.turns < ways:
            raise ValueError(
                f"there must be at least as many classes as ways; got {len(members)} and {ways}, use at most "
                f"ways={len(members) * self.turns}, or add classes"
            )
        self.members, self.names = members, list(members)
        self.ways, self.shots, self.queries = ways, shots, queries
        self.inputs, self.dtype = inputs.to(device), dtype
        self.device = torch.device(device)
        self.input_shape, self.num_outputs, self.num_support = tuple(inputs.shape[1:]), ways, ways * shots

    def sample(self, generator: torch.Generator) -> TaskData:
        drawn = torch.randperm(len(self.names) * self.turns, generator=generator)[: self.ways].tolist()
        support: list[Tensor] = []
        query: list[Tensor] = []
        for number in drawn:
            indices = self.members[self.names[number // self.turns]]
            chosen = indices[torch.randperm(len(indices), generator=generator)[: self.shots + self.queries]]
            examples = self._read(self.inputs[chosen.to(self.device)])
            if number % self.turns:
                examples = examples.rot90(number % self.turns, (-2, -1))
            support.append(examples[: self.shots])
            query.append(examples[self.shots :])
        targets = torch.arange(self.ways, device=self.device)
        return {
            "support_inputs": torch.cat(support),
            "support_targets": targets.repeat_interleave(self.shots),
            "query_inputs": torch.cat(query),
            "query_targets": targets.repeat_interleave(self.queries),
        }

    def _read(self, values: Tensor) -> Tensor:
        return values.to(self.dtype) / 255 if values.dtype == torch.uint8 else values.to(self.dtype)


class SinusoidEpisodes:
    """Regression: ``y = A sin(x + phase)``, A ~ U[.1, 5], phase ~ U[0, pi], x ~ U[-5, 5].

    Args:
        shots: points to learn from.
        queries: points of the query set.
        device: where episodes are made.
        dtype: of them.

    Source: arXiv 1703.03400, section 5.1.
    """

    of_classes = False
    input_shape, num_outputs = (1,), 1

    def __init__(
        self,
        *,
        shots: int = 10,
        queries: int = 10,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        check_positive_integers(10, shots=shots, queries=queries)
        self.shots, self.queries, self.device, self.dtype = shots, queries, torch.device(device), dtype
        self.num_support = shots

    def sample(self, generator: torch.Generator) -> TaskData:
        numbers = torch.rand(2 + self.shots + self.queries, generator=generator, dtype=torch.float64)
        amplitude, phase = 0.1 + 4.9 * numbers[0], math.pi * numbers[1]
        x = 10 * numbers[2:] - 5
        y = amplitude * torch.sin(x + phase)
        x, y = (value.unsqueeze(-1).to(self.device, self.dtype) for value in (x, y))
        return {
            "support_inputs": x[: self.shots],
            "support_targets": y[: self.shots],
            "query_inputs": x[self.shots :],
            "query_targets": y[self.shots :],
        }


class ImbalancedEpisodes:
    """Binary episodes of rows in which one class is rare: stratified, with at least three of it in either set.

    Of a set of n examples ``max(3, round(n * share))`` are of the rare class, share being its share in the data.

    Args:
        inputs: ``[examples, *input_shape]``.
        labels: ``[examples]`` of 0 and 1; 1 is the rare class.
        support: examples to learn from.
        queries: examples of the query set.
        rows: indices of the examples that episodes are made of; all where None. Phases have disjoint ones.
        device: where episodes are made.
        dtype: of the inputs.

    Raises:
        ValueError: inputs that are not finite, labels that are not 0 and 1, or too few examples of a class.
    """

    of_classes = True
    num_outputs = 2
    least = 3

    def __init__(
        self,
        inputs: Tensor,
        labels: Tensor,
        *,
        support: int = 30,
        queries: int = 100,
        rows: Tensor | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        check_finite(inputs=inputs)
        if not bool(((labels == 0) | (labels == 1)).all()):
            raise ValueError(f"labels must be 0 and 1; got {labels.unique().tolist()[:5]}, name the rare class 1")
        chosen = torch.arange(len(labels)) if rows is None else rows
        self.members = [chosen[labels[chosen] == value] for value in (0, 1)]
        share = len(self.members[1]) / max(len(chosen), 1)
        self.sizes = {}
        for name, size in {"support": support, "query": queries}.items():
            rare = max(self.least, round(size * share))
            if size - rare < 1:
                raise ValueError(
                    f"a {name} set must hold at least {self.least} examples of the rare class and another; "
                    f"got {size} examples, use more"
                )
            self.sizes[name] = (size - rare, rare)
        for value, indices in enumerate(self.members):
            needed = sum(counts[value] for counts in self.sizes.values())
            if len(indices) < needed:
                raise ValueError(
                    f"class {value} must have at least {needed} examples for these episodes; got {len(indices)}, "
                    "use smaller sets"
                )
        self.inputs, self.device, self.dtype = inputs.to(device, dtype), torch.device(device), dtype
        self.input_shape, self.num_support = tuple(inputs.shape[1:]), support

    def sample(self, generator: torch.Generator) -> TaskData:
        episode: TaskData = {}
        orders = [indices[torch.randperm(len(indices), generator=generator)] for indices in self.members]
        starts = [0, 0]
        for name, counts in self.sizes.items():
            parts = [order[start : start + count] for order, start, count in zip(orders, starts, counts, strict=True)]
            starts = [start + count for start, count in zip(starts, counts, strict=True)]
            mixed = torch.randperm(sum(counts), generator=generator)
            rows = torch.cat(parts)[mixed].to(self.device)
            targets = torch.cat([torch.full((count,), value) for value, count in enumerate(counts)])[mixed]
            episode |= {f"{name}_inputs": self.inputs[rows], f"{name}_targets": targets.to(self.device)}
        return episode
