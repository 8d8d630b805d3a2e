"""Whitening: singular values, shards, zeros, gradients, and updates made of them."""

import math

import pytest
import torch

from l2l_opt.kernels.triton.whitening import mixed_whitening, write_products
from l2l_opt.rules.products import products_of
from l2l_opt.rules.scale_free.whitening import NEWTON_SCHULZ, is_matrix, updates_of, whitened
from l2l_opt.rules.sharded_sums import summed_by


def with_singular_values(values, rows, columns, dtype):
    """A random matrix of these singular values."""
    count = len(values)
    left, _ = torch.linalg.qr(torch.randn(rows, count, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(columns, count, dtype=torch.float64))
    return (left * torch.as_tensor(values, dtype=torch.float64) @ right.T).to(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.float64, 1e-10)])
@pytest.mark.parametrize(("rows", "columns"), [(20, 20), (8, 50), (50, 8)])
def test_singular_values_become_what_the_polynomials_make_of_them(rows, columns, dtype, tolerance):
    before = torch.logspace(0, 1.5, 8, dtype=torch.float64).flip(0)
    matrix = with_singular_values(before, rows, columns, dtype)
    result = whitened(matrix)
    expected = before / before.norm()
    for a, b, c in NEWTON_SCHULZ:
        expected = a * expected + b * expected**3 + c * expected**5
    assert result.dtype == dtype
    found = torch.linalg.svdvals(result.double())[:8]
    torch.testing.assert_close(found, expected.sort(descending=True).values, rtol=tolerance, atol=tolerance)
    assert 0.7 < found.min() < found.max() < 1.35
    # The singular vectors are those of the matrix: their products are symmetric and positive.
    product = (result.mT if rows >= columns else result) @ (matrix if rows >= columns else matrix.mT)
    torch.testing.assert_close(product, product.mT, rtol=0, atol=10 * tolerance)
    assert torch.linalg.eigvalsh(product.double()).min() > -10 * tolerance


@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (70, 200), (200, 70)])
def test_rounded_to_bfloat16_singular_values_are_near_one_all_the_same(rows, columns):
    """From .05 of the norm on; what is smaller is lost in products that are rounded, and stays bounded."""
    before = torch.logspace(0, -1, 20)
    matrix = with_singular_values(before, rows, columns, torch.float32)
    result = whitened(matrix, rounds=True)
    assert (result - whitened(matrix)).norm() > 1e-4
    found = torch.linalg.svdvals(result)
    assert found[0] < 1.5
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    along = (left.mT @ result @ right.mT).diagonal()[: int((before > 0.05 * before.norm()).sum())]
    assert 0.65 < along.min() < along.max() < 1.4


@pytest.mark.parametrize(("rows", "columns", "rounds"), [(64, 64, True), (63, 64, False), (64, 63, False)])
@pytest.mark.parametrize("sharded", [False, True])
def test_the_shorter_side_of_the_whole_matrix_decides_what_is_rounded(rows, columns, rounds, sharded):
    direction, one = torch.randn(rows, columns), torch.tensor(1.0)
    with summed_by((lambda value: value) if sharded else None):
        exact = updates_of(direction, one, one, (rows, columns))
        with products_of(torch.bfloat16):
            found = updates_of(direction, one, one, (rows, columns))
    assert torch.equal(found, exact) != rounds


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_batches_on_a_gpu_are_whitened_alike(dtype, tolerance):
    """There what comes of products in bfloat16 is rounded too."""
    wide = torch.randn(3, 70, 90)
    gram, found = torch.empty(3, 70, 70), torch.empty_like(wide)
    write_products(gram, wide.to(dtype), wide.to(dtype).mT)
    mix = mixed_whitening(gram, torch.full((3,), 2.0), torch.zeros(3), NEWTON_SCHULZ, dtype)
    assert mix.dtype == dtype
    write_products(found, mix, wide.to(dtype))
    expected = 2 * whitened(wide)
    difference = (found - expected).norm() / expected.norm()
    assert tolerance / 100 < difference < tolerance


def test_the_scale_of_a_matrix_does_not_count():
    matrix = torch.randn(6, 9, dtype=torch.float64)
    torch.testing.assert_close(whitened(matrix), whitened(1000 * matrix), rtol=1e-10, atol=1e-12)


def test_a_batch_is_whitened_one_by_one():
    matrices = torch.randn(2, 3, 4, 7, dtype=torch.float64)
    result = whitened(matrices)
    for first in range(2):
        for second in range(3):
            torch.testing.assert_close(result[first, second], whitened(matrices[first, second]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-11)])
@pytest.mark.parametrize(("rows", "columns"), [(9, 4), (5, 12)])
def test_shards_of_rows_give_the_rows_of_the_whole(rows, columns, dtype, tolerance):
    """One of them empty, of matrices taller or wider than high."""
    matrix = torch.randn(rows, columns, dtype=dtype)
    shards = [matrix[:3], matrix[3:], matrix[rows:]]
    grams = [shard.mT @ shard for shard in shards]
    parts = []
    for shard in shards:
        with summed_by(lambda own: sum(grams)):
            parts.append(whitened(shard))
    assert parts[2].shape == (0, columns)
    torch.testing.assert_close(torch.cat(parts), whitened(matrix), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zeros_stay_zero_and_gradients_there_are_finite(dtype):
    matrix = torch.zeros(4, 6, dtype=dtype, requires_grad=True)
    result = whitened(matrix)
    (gradient,) = torch.autograd.grad(result.sum(), matrix)
    assert torch.equal(result, torch.zeros_like(result))
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0


def test_its_gradient_is_that_of_finite_differences():
    matrix = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(whitened, (matrix,))


@pytest.mark.parametrize(
    ("shape", "expected"), [((), False), ((4,), False), ((1, 5), False), ((5, 1), False), ((5, 1, 1), False)]
)
def test_what_has_one_row_or_column_is_no_matrix(shape, expected):
    assert is_matrix(shape) == expected
    assert is_matrix((2, 2))
    assert is_matrix((2, 1, 3))


def test_updates_are_a_mix_of_the_direction_and_the_whitened_one():
    direction = torch.randn(6, 2, 5, dtype=torch.float64)
    size, share = torch.tensor(0.1, dtype=torch.float64), torch.tensor(0.25, dtype=torch.float64)
    even = 0.3 * math.sqrt(10) * whitened(direction.reshape(6, 10)).reshape(direction.shape)
    expected = -0.1 * (0.75 * direction + 0.25 * even)
    torch.testing.assert_close(updates_of(direction, size, share, direction.shape), expected)
    assert 0.2 < float(even.square().mean().sqrt()) < 0.4
    vector = torch.randn(5, dtype=torch.float64)
    torch.testing.assert_close(updates_of(vector, size, share, vector.shape), -0.1 * vector)
