"""Whitening: the matrix with the singular vectors of a matrix and singular values near one, and updates made of it."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from l2l_opt.rules.products import product, rounds_matrix, symmetric_product
from l2l_opt.rules.sharded_sums import is_sharded, shard_sum

WHITENED_RMS = 0.3
"""Root mean square of the coordinates of a whitened direction, of order that of Adam's."""
NEWTON_SCHULZ = ((8.1577, -23.7498, 17.5250), (3.0885, -2.2410, 0.4313), (3.1036, -2.9782, 0.8888))
"""Of three steps s <- a s + b s^3 + c s^5 that take singular values from .002 to 1 nearest to one: least mean (s - 1)^2
over their logarithm."""
LEAST_SQUARE = 1e-8
"""A squared Frobenius norm below which a matrix is not brought up to one."""


def is_matrix(shape: Sequence[int]) -> bool:
    """Whether a tensor of this shape is whitened: as ``[shape[0], all others]``, of two rows and columns at least."""
    return len(shape) > 1 and shape[0] > 1 and math.prod(shape[1:]) > 1


def whitened(matrix: Tensor, *, rounds: bool = False) -> Tensor:
    """Matrices ``[..., m, n]`` with singular values near one, by the iteration of Newton and Schulz.

        S_0 = X X^T / |X|^2,    F_k = a_k + b_k S_k + c_k S_k^2,    S_{k+1} = F_k S_k F_k
        whitened(X) = F_2 F_1 F_0 X / |X|

    It runs on the Gram matrix of the shorter side, of which the result is a polynomial times the matrix: the same as
    iterating the matrix itself, for fewer operations. Of a sharded matrix some rows lie here: sums over rows can be
    had, products of rows cannot. So there it runs on the Gram matrix of the columns, ``[n, n]``, whatever m is.

    Args:
        matrix: of a sharded one, this device's rows, perhaps none.
        rounds: what is multiplied, to bfloat16.

    Returns:
        ``[..., m, n]``. Singular values from .01 |X| on come to lie between .7 and 1.35, a matrix of zeros stays zero.

    Source: Muon (Jordan et al., 2024); coefficients that differ from step to step: arXiv 2505.16932.
    """
    tall = is_sharded() or matrix.shape[-2] > matrix.shape[-1]
    wide = matrix.mT if tall else matrix
    gram = shard_sum(product(wide, wide.mT, rounds=rounds))
    square = gram.diagonal(dim1=-2, dim2=-1).sum(-1).clamp(min=LEAST_SQUARE)[..., None, None]
    gram = gram / square
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    total = eye
    for step, (a, b, c) in enumerate(NEWTON_SCHULZ):
        # F = a I + R. The diagonal, far larger than the rest, is not multiplied: that would round R away.
        rest = b * gram + c * product(gram, gram, rounds=rounds)
        total = a * total + product(rest, total, rounds=rounds) if step else a * eye + rest
        if step + 1 < len(NEWTON_SCHULZ):
            gram = a * gram + symmetric_product(rest, gram, rounds=rounds)
            gram = a * gram + symmetric_product(rest, gram, rounds=rounds)
    result = product(total / square.sqrt(), wide, rounds=rounds)
    return result.mT if tall else result


def updates_of(direction: Tensor, size: Tensor, share: Tensor, shape: Sequence[int]) -> Tensor:
    """``-size u``, u the direction of vectors, ``(1 - share) d + share .3 sqrt(max(m, n)) whitened(d)`` of matrices.

    Matrices are multiplied in the precision of ``products.products_of``.

    Args:
        direction: ``[..., *shape]``, d of one tensor, or with a leading axis of particles; of a sharded one, this
            device's rows.
        size: of an update of one, ``[...]``, in the parameter's unit.
        share: of what is whitened, from 0 to 1, ``[...]``.
        shape: of the whole tensor.
    """
    if not is_matrix(shape):
        return direction * -size[(..., *[None] * len(shape))]
    rows = direction.flatten(size.dim() + 1)
    even = whitened(rows, rounds=rounds_matrix((shape[0], math.prod(shape[1:])))) * _scale(shape)
    mixed = rows + share[..., None, None] * (even - rows)
    return (mixed * -size[..., None, None]).reshape(direction.shape)


def _scale(shape: Sequence[int]) -> float:
    """Return what singular values of one are multiplied by, for coordinates of the root mean square WHITENED_RMS."""
    return WHITENED_RMS * max(shape[0], math.prod(shape[1:])) ** 0.5
