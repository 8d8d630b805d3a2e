"""The coordinates of all tensors of S students, one after the other: whatever takes each by itself is one operation."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Size, Tensor

from l2l_opt.kernels import native
from l2l_opt.types import Params


@dataclass(frozen=True)
class CoordinateSample:
    """The coordinates of a large tensor through which a window is differentiated: every n-th, each counted n times.

    With an offset that is uniform in 0 ... n - 1 the meta-gradient's expectation is that of all coordinates, and the
    backward pass, most of a window's work, takes an n-th of the time. Tensors too small for that are taken whole.

    Attributes:
        stride: n, of coordinates; 1 for all.
        offset: the first.
    """

    stride: int = 1
    offset: int = 0

    def of(self, count: int) -> tuple[int, int]:
        """Stride and offset for a tensor of so many coordinates."""
        return (self.stride, self.offset) if count >= self.stride * native.TILE else (1, 0)


@dataclass(frozen=True)
class Piece:
    """Coordinates of one tensor that a backward pass goes through together.

    Attributes:
        name: of the tensor.
        own: its coordinates.
        flat: the same among those of all tensors.
    """

    name: str
    own: slice
    flat: slice

    @property
    def stride(self) -> int:
        """How many coordinates each of them stands for."""
        return self.own.step

    def __len__(self) -> int:
        return len(range(self.own.start, self.own.stop, self.own.step))


class SideBySide:
    """Where the tensors of students lie when they lie one after the other.

    Args:
        params: parameter name -> ``[S, *shape]``.

    Attributes:
        shapes: of each tensor of one student.
        students: S.
    """

    def __init__(self, params: Params):
        self.shapes: Mapping[str, Size] = {name: value.shape[1:] for name, value in params.items()}
        self.students = next(iter(params.values())).shape[0]
        self.counts = [shape.numel() for shape in self.shapes.values()]

    def join(self, values: Params, out: Tensor | None = None) -> Tensor:
        """``[S, *shape]`` of each tensor as ``[S, N]``."""
        return torch.cat([values[name].reshape(self.students, -1) for name in self.shapes], 1, out=out)

    def views(self, joined: Tensor) -> Params:
        """``join`` undone, in the same memory."""
        parts = zip(self.shapes.items(), self.split(joined), strict=True)
        return {name: own.reshape(self.students, *shape) for (name, shape), own in parts}

    def split(self, joined: Tensor) -> Sequence[Tensor]:
        """``[..., N]`` of all tensors as that of each, in the same memory."""
        return joined.split(self.counts, -1)

    def blocks(self, sample: CoordinateSample, most: int) -> Iterator[list[Piece]]:
        """Yield the sampled coordinates in blocks of at most so many."""
        block: list[Piece] = []
        begin, room = 0, most
        for name, count in zip(self.shapes, self.counts, strict=True):
            stride, start = sample.of(count)
            while start < count:
                end = min(start + stride * room, count)
                block.append(Piece(name, slice(start, end, stride), slice(begin + start, begin + end, stride)))
                room -= len(block[-1])
                start += stride * len(block[-1])
                if not room:
                    yield block
                    block, room = [], most
            begin += count
        if block:
            yield block


def take(joined: Tensor, block: Sequence[Piece]) -> Tensor:
    """Coordinates of a block, ``[..., n]`` of ``[..., N]``; a view where they lie one after the other."""
    if len(block) == 1 and block[0].stride == 1:
        return joined[..., block[0].flat]
    return torch.cat([joined[..., piece.flat] for piece in block], -1)


def rows(value: Tensor) -> Tensor:
    """``[S, rows, *shape]`` as ``[rows, S, N]``; clocks, ``[S]``, as they are."""
    if value.dim() == 1:
        return value
    return value.reshape(*value.shape[:2], value.shape[2:].numel()).movedim(0, 1)
