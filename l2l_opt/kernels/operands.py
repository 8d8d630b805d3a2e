"""What every implementation of the coordinatewise LSTM takes."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Operands(NamedTuple):
    """Coordinates of the tensors of P students, which lie beside one another as particles, and the LSTM's weights.

    Attributes:
        inputs: of each tensor ``[num_inputs, P, N]``, N its own number of coordinates.
        hidden: of each tensor ``[num_layers * hidden_size, P, N]``.
        cell: likewise.
        biases: of each tensor ``[P, 4 * hidden_size * num_layers + num_outputs]``.
        weights: of each layer ``[1 or P, 4 * hidden_size, num_inputs]`` and ``[1 or P, 4 * hidden_size, hidden_size]``,
            then those of the read-out.
    """

    inputs: Sequence[Tensor]
    hidden: Sequence[Tensor]
    cell: Sequence[Tensor]
    biases: Sequence[Tensor]
    weights: Sequence[Tensor]

    def new_outputs(self) -> list[Tensor]:
        """Memory for ``[num_outputs, P, N]`` of each tensor."""
        return [x.new_empty(self.weights[-1].shape[-2], *x.shape[1:]) for x in self.inputs]

    def one_by_one(self) -> Iterator["Operands"]:
        """Yield the operands of each tensor alone."""
        for x, h, c, bias in zip(*self[:4], strict=True):
            yield Operands([x], [h], [c], [bias], list(self.weights))


def new_like(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Contiguous memory for as many numbers."""
    return [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in tensors]


def thirds(results: Sequence[T]) -> tuple[list[T], list[T], list[T]]:
    """Results of a step, one list after the other, as these lists: outputs, next hidden and next cell states."""
    count = len(results) // 3
    return list(results[:count]), list(results[count : 2 * count]), list(results[2 * count :])
