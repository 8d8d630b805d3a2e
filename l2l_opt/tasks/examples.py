"""Training and test examples of a task, read from what a user has."""

from collections.abc import Sized
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from l2l_opt.checks import check_finite


@dataclass(frozen=True, eq=False)
class Examples:
    """Training and test examples in one pair of tensors, so that a batch is indices whatever its split.

    Attributes:
        inputs: ``[num_train + num_test, ...]``.
        targets: ``[num_train + num_test, ...]``.
        ranges: split -> its first index and the one after its last.
    """

    inputs: Tensor
    targets: Tensor
    ranges: dict[str, tuple[int, int]]
    _placed: "dict[tuple[torch.device, torch.dtype], Examples]" = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def join(cls, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor] | None) -> "Examples":
        """One pair of tensors of two splits; the test split is the training data where there is none."""
        num_train = train[0].shape[0]
        if test is None:
            return cls(*train, {"train": (0, num_train), "test": (0, num_train)})
        inputs, targets = (torch.cat(pair) for pair in zip(train, test, strict=True))
        return cls(inputs, targets, {"train": (0, num_train), "test": (num_train, inputs.shape[0])})

    @classmethod
    def parted(cls, inputs: Tensor, targets: Tensor) -> "Examples":
        """The last fifth is the test split."""
        border = len(inputs) * 4 // 5
        return cls(inputs, targets, {"train": (0, border), "test": (border, len(inputs))})

    def to(self, device: torch.device, dtype: torch.dtype) -> "Examples":
        """The same on a device, floating-point numbers in a dtype; once in memory for all families on them.

        Raises:
            ValueError: examples that are not finite.
        """
        if (device, dtype) not in self._placed:
            inputs = place(self.inputs, device, dtype)
            targets = inputs if self.targets is self.inputs else place(self.targets, device, dtype)
            check_finite(inputs=inputs, targets=targets)
            self._placed[device, dtype] = Examples(inputs, targets, self.ranges)
        return self._placed[device, dtype]


def place(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A tensor on a device; one of floating-point numbers in a dtype."""
    return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else tensor.dtype)


def read_dataset(dataset: tuple[Tensor, Tensor] | Dataset[Any]) -> tuple[Tensor, Tensor]:
    """Inputs and targets of a data set, read into memory.

    Raises:
        TypeError: another kind of data set.
        ValueError: an empty or ragged one.
    """
    if isinstance(dataset, TensorDataset):
        dataset = dataset.tensors  # type: ignore[assignment]
    elif isinstance(dataset, Dataset) and isinstance(dataset, Sized):
        examples: Any = dataset
        pairs = [examples[index] for index in range(len(dataset))]
        inputs, targets = zip(*pairs, strict=True) if pairs else ((), ())
        dataset = (
            torch.stack([torch.as_tensor(x) for x in inputs]),
            torch.stack([torch.as_tensor(y) for y in targets]),
        )
    if not (isinstance(dataset, (tuple, list)) and len(dataset) == 2 and all(torch.is_tensor(x) for x in dataset)):
        parts = [type(part).__name__ for part in dataset] if isinstance(dataset, (tuple, list)) else []
        got = " of ".join([type(dataset).__name__, *([" and ".join(parts)] if parts else [])])
        fix = "TensorDataset(inputs, targets)" + " of torch.from_numpy(array)" * ("ndarray" in parts)
        raise TypeError(
            f"dataset must be (inputs, targets) tensors or a map-style Dataset of such pairs; got {got}, use e.g. {fix}"
        )
    inputs, targets = dataset
    if inputs.shape[0] != targets.shape[0] or inputs.shape[0] == 0:
        raise ValueError(
            f"inputs and targets must have the same number of examples, at least one; "
            f"got {inputs.shape[0]} and {targets.shape[0]}"
        )
    return inputs, targets
