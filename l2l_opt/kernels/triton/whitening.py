"""Newton-Schulz of many matrices at once: those of one shape in one product, Gram matrices of one size in one batch."""

from collections.abc import Sequence

import torch
from torch import Tensor

LEAST_SQUARE = 1e-8
"""A squared Frobenius norm below which a matrix is not brought up to one, as in ``native/whiten.h``."""


def mixed_whitening(
    directions: Sequence[Tensor], even: Tensor, plain: Tensor, newton_schulz: Sequence[Sequence[float]]
) -> list[Tensor]:
    """Return what makes changes of directions: symmetric matrices, of which each is multiplied by its shorter side.

        M = even F_2 F_1 F_0 / |X| + plain;    change = M X of wide X,  X M of tall ones

    Args:
        directions: of each shape ``[matrices, rows, columns]``, of all the same shorter side m.
        even: of all matrices, one shape after the other, ``[matrices]``.
        plain: likewise.
        newton_schulz: coefficients of each step.

    Returns:
        Of each shape ``[matrices, m, m]``; at most four times as much is held at a time.
    """
    counts = [own.shape[0] for own in directions]
    size = min(directions[0].shape[1:])
    gram = directions[0].new_empty(sum(counts), size, size)
    for own, part in zip(directions, gram.split(counts), strict=True):
        wide = own if own.shape[1] <= own.shape[2] else own.mT
        torch.bmm(wide, wide.mT, out=part)
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
    return list(total.split(counts))
