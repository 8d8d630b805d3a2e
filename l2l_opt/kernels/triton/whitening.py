"""Newton-Schulz of many matrices at once: Gram matrices of one size in one batch."""

from collections.abc import Sequence

import torch
from torch import Tensor

LEAST_SQUARE = 1e-8
"""A squared Frobenius norm below which a matrix is not brought up to one, as in ``native/whiten.h``."""


def mixed_whitening(gram: Tensor, even: Tensor, plain: Tensor, newton_schulz: Sequence[Sequence[float]]) -> Tensor:
    """Return what makes changes of directions: symmetric matrices, of which each is multiplied by its shorter side.

        M = even F_2 F_1 F_0 / |X| + plain;    change = M X of wide X,  X M of tall ones

    Args:
        gram: products of the vectors of the shorter side, ``[matrices, m, m]``; changed.
        even: ``[matrices]``.
        plain: likewise.
        newton_schulz: coefficients of each step.

    Returns:
        ``[matrices, m, m]``; at most three times as much is held at a time beside what was given.
    """
    square = gram.diagonal(dim1=1, dim2=2).sum(1).clamp(min=LEAST_SQUARE)
    gram /= square[:, None, None]
    factor, product, total = torch.empty_like(gram), torch.empty_like(gram), torch.empty_like(gram)
    for step, (a, b, c) in enumerate(newton_schulz):
        torch.baddbmm(gram, gram, gram, beta=b, alpha=c, out=factor)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        if step:
            torch.bmm(factor, total, out=product)
            total, product = product, total
        else:
            total.copy_(factor)
        if step + 1 < len(newton_schulz):
            torch.bmm(factor, gram, out=product)
            torch.bmm(product, factor, out=gram)
    total *= (even / square.sqrt())[:, None, None]
    total.diagonal(dim1=1, dim2=2).add_(plain[:, None])
    return total
