"""What kernels of the perceptrons' step are given, beside what all kernels are: sides of tensors, weights, options."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Sides(NamedTuple):
    """Sums of squares of each tensor along its longer axis, by row, and along its shorter, by column.

    ``[2 * tensors]`` int64 each, rows and columns of a tensor one after the other; zeros of one that has neither.

    Attributes:
        tensor: of which they are.
        length: of the axis.
        stride: of a coordinate's neighbour along it.
        number: of sums.
        inner: of rows, the stride along the tensor's shorter axis among them.
        span: coordinates of the axis that a piece adds up.
        pieces: of the axis.
        partial: where the first piece's sums are in ``PerceptronBuffers.partial``.
        following: where the next mean squares are in ``PerceptronBuffers.following``, and behind them rows' factors.
        state: address of the mean squares of the last step.
    """

    tensor: Tensor
    length: Tensor
    stride: Tensor
    number: Tensor
    inner: Tensor
    span: Tensor
    pieces: Tensor
    partial: Tensor
    following: Tensor
    state: Tensor


class Pieces(NamedTuple):
    """Work on sides, cut up, one program each: ``[pieces]`` each.

    Attributes:
        side: which.
        block: number of a block of its sums, or of a group that a mean is made over.
        piece: of the axis.
    """

    side: Tensor
    block: Tensor
    piece: Tensor

    @classmethod
    def of(cls, across: Sequence[int], along: Sequence[int], device: torch.device) -> "Pieces":
        """Cut each side into so many blocks or groups across, times so many pieces along the axis."""
        numbers = torch.tensor([a * b for a, b in zip(across, along, strict=True)])
        owners = torch.repeat_interleave(torch.arange(len(across)), numbers)
        places = torch.arange(owners.numel()) - (numbers.cumsum(0) - numbers)[owners]
        lengths = torch.tensor(along)[owners]
        return cls(owners.to(device), (places // lengths).to(device), (places % lengths).to(device))


class Perceptron(NamedTuple):
    """Weights and decays of a perceptron's rule.

    Attributes:
        first: weight of the first layer, ``[units, features + times]``.
        bias: its bias.
        upper: weight ``[inputs, outputs]`` and bias of each layer above, one after the other.
        betas: decays of three averages, of squares, and of three mean squares by row and column.
        timescales: of the features of the clock.
        rule_times_zero: NaN where any of these is not finite.
    """

    first: Tensor
    bias: Tensor
    upper: Tensor
    betas: Tensor
    timescales: Tensor
    rule_times_zero: Tensor


class PerceptronLaw(NamedTuple):
    """Options of ``mlp`` and ``celo2``, by the names in their ``CompiledPerceptron``.

    Attributes:
        num_steps: planned; negative where unknown.
        features: inputs of the first layer, and ``units`` of those above: not compiled for, since loops over them
            would be unrolled and take too many registers.
    """

    eps: float
    input_eps: float
    output_scale: float
    magnitude_scale: float
    most_gradient: float
    clipped: float
    warm_up: float
    num_steps: float
    features: int
    units: int


class PerceptronBuffers(NamedTuple):
    """What launches of ``perceptron`` hand one another.

    Attributes:
        partial: sums of squares by row and by column, of each piece.
        following: the next mean squares by row and by column.
        sums: ``[chunks, LANES]``, of squared features, and whether all is finite.
        squares: ``[chunks]``, of directions.
        heads: a row for each tensor.
        marks: ``[tensors]`` int32, whether a block was left out already.
        scratch: ``[programs, LANES, block]``, which layers hand one another.
    """

    partial: Tensor
    following: Tensor
    sums: Tensor
    squares: Tensor
    heads: Tensor
    marks: Tensor
    scratch: Tensor
