"""Products of matrices that are rounded first, for as long as somebody asks for it."""

import pytest
import torch

from l2l_opt.rules.products import product, products_of, rounds_products


def test_it_lasts_for_a_while_only():
    assert not rounds_products()
    with products_of(torch.bfloat16):
        assert rounds_products()
        with products_of(torch.float32):
            assert not rounds_products()
        assert rounds_products()
    with pytest.raises(ZeroDivisionError), products_of(torch.bfloat16):
        raise ZeroDivisionError
    assert not rounds_products()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_factors_are_rounded_and_sums_are_not(dtype):
    """257 ones, of which bfloat16 holds 256 and 258 alone, and a factor that it cannot hold."""
    ones = torch.ones(1, 257, dtype=dtype)
    assert product(ones, ones.mT, rounds=True).item() == 257
    near_one = torch.full((1, 1), 1 + 2.0**-9, dtype=dtype)
    assert product(near_one, near_one, rounds=True).item() == 1
    assert product(near_one, near_one, rounds=False).item() > 1
    assert product(near_one, near_one, rounds=True).dtype == dtype
