"""The precision in which a rule multiplies matrices."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar

import torch
from torch import Tensor

from l2l_opt.contexts import holding

PRODUCT_DTYPES = (torch.float32, torch.bfloat16)
"""What matrices may be rounded to before they are multiplied."""
LEAST_ROUNDED = 64
"""Shorter side from which on matrices are: below it that saves no time, and there are few numbers for errors to average
out over."""

_rounds: ContextVar[bool] = ContextVar("rounds", default=False)


def products_of(dtype: torch.dtype) -> AbstractContextManager[None]:
    """While it lasts, rules multiply matrices of this precision: how an optimizer has its ``whitening_dtype``.

    Args:
        dtype: ``torch.float32`` for numbers as they are, ``torch.bfloat16`` for rounded ones.
    """
    return holding(_rounds, dtype == torch.bfloat16)


def rounds_products() -> bool:
    """Whether large matrices are rounded to bfloat16 before they are multiplied."""
    return _rounds.get()


def rounds_matrix(shape: Sequence[int]) -> bool:
    """Whether a matrix ``[m, n]`` is rounded to bfloat16 before it is multiplied."""
    return _rounds.get() and min(shape) >= LEAST_ROUNDED


def product(a: Tensor, b: Tensor, *, rounds: bool) -> Tensor:
    """Return ``a @ b``, where it rounds of numbers rounded to bfloat16; sums keep their precision."""
    if rounds:
        a, b = (value.to(torch.bfloat16).to(value.dtype) for value in (a, b))
    return a @ b


def symmetric_product(a: Tensor, b: Tensor, *, rounds: bool) -> Tensor:
    """Return ``a @ b`` of symmetric matrices that commute: where it rounds, the half below the diagonal twice."""
    found = product(a, b, rounds=rounds)
    return found.tril() + found.tril(-1).mT if rounds else found
