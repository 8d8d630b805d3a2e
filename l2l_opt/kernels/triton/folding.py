"""Sums over chunks made sums over devices, of tensors that are divided among these: one reduction for all tensors."""

# pyright: reportGeneralTypeIssues=false

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from l2l_opt.kernels.spread import Spread
from l2l_opt.kernels.triton.language import total


@triton.jit
def fold_kernel(chunks, partial, folded, num_rows: tl.constexpr):
    """Sum each of so many rows over the chunks of each tensor, as if each had one chunk."""
    t, number = tl.program_id(0), tl.load(chunks.number)
    for row in tl.static_range(num_rows):
        tl.store(folded + row * tl.num_programs(0) + t, total(partial + row * number, chunks, t))


class Reduction(NamedTuple):
    """A sum over devices, in its place among launches."""

    value: Tensor
    spread: Spread

    def run(self) -> None:
        """Make it, in place."""
        self.spread.add_up(self.value)
