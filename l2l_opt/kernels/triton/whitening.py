"""Newton-Schulz of many matrices at once: Gram matrices of one size in one batch."""

from collections.abc import Sequence

import torch
from torch import Tensor

LEAST_SQUARE = 1e-8
"""A squared Frobenius norm below which a matrix is not brought up to one, as in ``native/whiten.h``."""


def write_products(out: Tensor, a: Tensor, b: Tensor) -> None:
    """Write ``a @ b`` of matrices in out's dtype or in bfloat16, ``[matrices, l, m]`` and ``[matrices, m, n]``."""
    if a.dtype == out.dtype:
        torch.bmm(a, b, out=out)
    elif out.device.type == "cpu":
        out.copy_(torch.bmm(a, b))
    else:
        torch.bmm(a, b, out_dtype=out.dtype, out=out)


def mixed_whitening(
    gram: Tensor, even: Tensor, plain: Tensor, newton_schulz: Sequence[Sequence[float]], dtype: torch.dtype
) -> Tensor:
    """Return what makes changes of directions: symmetric matrices, of which each is multiplied by its shorter side.

        M = even F_2 F_1 F_0 / |X| + plain;    change = M X of wide X,  X M of tall ones

    Args:
        gram: products of the vectors of the shorter side, ``[matrices, m, m]``; changed.
        even: ``[matrices]``.
        plain: likewise.
        newton_schulz: coefficients of each step.
        dtype: of what is multiplied, and of what comes of it.

    Returns:
        ``[matrices, m, m]`` of the dtype; at most three times as much is held at a time beside what was given, four
        times where that is of another dtype.
    """
    square = gram.diagonal(dim1=1, dim2=2).sum(1).clamp(min=LEAST_SQUARE)
    gram /= square[:, None, None]
    gram = gram.to(dtype)
    rest, product, total = torch.empty_like(gram), torch.empty_like(gram), torch.empty_like(gram)
    for step, (a, b, c) in enumerate(newton_schulz):
        # F = a I + R, of which the diagonal is not multiplied (``rules.scale_free.whitening``).
        torch.baddbmm(gram, gram, gram, beta=b, alpha=c, out=rest)
        if step:
            torch.baddbmm(total, rest, total, beta=a, out=product)
            total, product = product, total
        else:
            total.copy_(rest).diagonal(dim1=1, dim2=2).add_(a)
        if step + 1 < len(newton_schulz):
            torch.baddbmm(gram, rest, gram, beta=a, out=product)
            torch.baddbmm(product, product, rest, beta=a, out=gram)
    total *= (even / square.sqrt())[:, None, None]
    total.diagonal(dim1=1, dim2=2).add_(plain[:, None])
    return total
