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

BACKEND = "inductor"


def serves(tensors: Sequence[Tensor]) -> bool:
    """Whether these lie on a GPU that Triton compiles for, outside of a graph that is being compiled already."""
    return bool(tensors) and tensors[0].is_cuda and not torch.compiler.is_compiling() and has_triton()


@functools.cache
def _compiled(function: Callable[..., list[Tensor]]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True, fullgraph=True, backend=BACKEND)


def forward(
    inputs: Sequence[Tensor],
    hidden: Sequence[Tensor],
    cell: Sequence[Tensor],
    biases: Sequence[Tensor],
    weights: Sequence[Tensor],
) -> list[Tensor]:
    """As ``portable.forward``."""
    run = _compiled(portable.forward)
    results = [
        run([x], [h], [c], [bias], list(weights)) for x, h, c, bias in zip(inputs, hidden, cell, biases, strict=True)
    ]
    return [tensor for kind in zip(*results, strict=True) for tensor in kind]


def backward(
    inputs: Sequence[Tensor],
    hidden: Sequence[Tensor],
    cell: Sequence[Tensor],
    biases: Sequence[Tensor],
    weights: Sequence[Tensor],
    next_hidden: Sequence[Tensor],
    d_results: Sequence[Tensor | None],
) -> list[Tensor]:
    """As ``portable.backward``."""
    run, count = _compiled(portable.backward), len(inputs)
    results = [
        run([x], [h], [c], [bias], list(weights), [h_new], [d_results[index + kind * count] for kind in range(3)])
        for index, (x, h, c, bias, h_new) in enumerate(zip(inputs, hidden, cell, biases, next_hidden, strict=True))
    ]
    *of_tensors, d_weights = (list(kind) for kind in zip(*(_split(result) for result in results), strict=True))
    totals = [torch.stack(list(kind)).sum(0) for kind in zip(*d_weights, strict=True)]
    return [tensor for kind in of_tensors for tensor in kind] + totals


def _split(result: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    d_input, d_hidden, d_cell, d_bias, *d_weights = result
    return d_input, d_hidden, d_cell, d_bias, d_weights
