"""Families from other first sizes: what is asked for changes, and nothing else does."""

import pytest
import torch

from l2l_opt.tasks import make_task
from l2l_opt.tasks.first_sizes import kinds_of


def drawn(spec):
    family = make_task(spec)
    generator = torch.Generator().manual_seed(0)
    data = family.sample(generator)
    params = family.init_params(data, generator)
    return family, params, family.loss(params, data, family.sample_batch(data, generator))


@pytest.mark.parametrize("name", ["novel-attention", "digits-mlp", "fashion-conv", "recommendation"])
def test_without_a_factor_it_is_the_family_itself(name):
    _, known, loss = drawn(name)
    _, found, same = drawn(f"sized-{name}")
    assert torch.equal(loss, same)
    assert all(torch.equal(known[key], found[key]) for key in known)


def test_every_kind_has_its_factor():
    _, known, _ = drawn("novel-attention")
    factors = {"embeddings": 5.0, "places": 0.1, "matrices": 0.3, "branches": 0.0, "head": 0.01, "scales": 2.0}
    options = ",".join(f"{kind}={value}" for kind, value in factors.items())
    family, found, _ = drawn(f"sized-novel-attention:{options}")
    kinds = kinds_of(family.module)
    assert set(kinds.values()) == set(factors)
    for key, value in known.items():
        torch.testing.assert_close(found[key], factors[kinds[key]] * value if key in kinds else value)


def test_first_weights_of_gpt_2_have_its_deviation():
    family, found, _ = drawn("sized-novel-attention:width=64,first=gpt2")
    for key, kind in kinds_of(family.module).items():
        assert kind == "scales" or found[key].std() == pytest.approx(0.02, rel=0.1)


def test_a_branch_with_a_scale_is_so_much_of_the_branch():
    _, _, own = drawn("novel-attention")
    _, params, same = drawn("sized-novel-attention:layer_scale=1.0")
    torch.testing.assert_close(own, same)
    _, _, none = drawn("sized-novel-attention:layer_scale=0.0")
    _, _, empty = drawn("sized-novel-attention:branches=0.0")
    assert sum(key.endswith("scale") for key in params) == 2
    torch.testing.assert_close(none, empty, rtol=0.05, atol=0)
    assert not torch.allclose(none, own)


def test_pairs_train_beside_frozen_layers():
    family, params, _ = drawn("sized-digits-mlp:hidden=16,layers=2,pairs=3")
    assert sorted(params) == ["1.narrow.weight", "1.wide", "3.narrow.weight", "3.wide", "5.bias", "5.weight"]
    assert not params["1.wide"].any()
    other = make_task("sized-digits-mlp:hidden=16,layers=2,pairs=3")
    assert torch.equal(family.student.constants["1.frozen.weight"], other.student.constants["1.frozen.weight"])


@pytest.mark.parametrize(
    ("options", "message"),
    [("head=-1.0", "head must be a number of 0 or more"), ("first=mine", "first must be one of"), ("pairs=0", "pairs")],
)
def test_wrong_sizes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_task(f"sized-digits-mlp:{options}")
