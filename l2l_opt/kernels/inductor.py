"""``portable`` compiled by torch.compile, which on a GPU means Triton.

One tensor at a time and of any size, so that a model of a hundred tensors compiles no more than another.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._triton import has_triton

from l2l_opt.kernels import portable
from l2l_opt.kernels.operands import Operands

BACKEND = "inductor"


def serves(operands: Operands) -> bool:
    """Whether these lie on a GPU that Triton compiles for, outside of a graph that is being compiled already."""
    inputs = operands.inputs
    return bool(inputs) and inputs[0].is_cuda and not torch.compiler.is_compiling() and has_triton()


@functools.cache
def _compiled(function: Callable[..., list[Tensor]]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True, fullgraph=True, backend=BACKEND)


def forward(operands: Operands) -> list[Tensor]:
    """As ``portable.forward``."""
    run = _compiled(portable.forward)
    results = [run(one) for one in operands.one_by_one()]
    return [tensor for kind in zip(*results, strict=True) for tensor in kind]


def backward(
    operands: Operands, next_hidden: Sequence[Tensor], d_results: Sequence[Tensor | None], *, needs_d_inputs: bool
) -> list[Tensor]:
    """As ``portable.backward``."""
    run, count = _compiled(portable.backward), len(next_hidden)
    results = [
        run(one, [next_hidden[index]], d_results[index::count], needs_d_inputs=needs_d_inputs)
        for index, one in enumerate(operands.one_by_one())
    ]
    kinds = list(zip(*results, strict=True))
    return [tensor for kind in kinds[:4] for tensor in kind] + [torch.stack(kind).sum(0) for kind in kinds[4:]]
