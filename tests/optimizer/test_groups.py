"""Steps of groups: what is kept from one to the next, and where."""

import pytest
import torch
from torch import nn

from l2l_opt import LearnedOptimizer
from l2l_opt.optimizer.groups import named
from l2l_opt.optimizer.stepping import Stepper
from tests.conftest import small_rule

CPU, ELSEWHERE = torch.device("cpu"), torch.device("meta")


def test_parameters_have_their_names_and_each_comes_once():
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(2))
    assert [p is a for _, p in named({"params": [a, b, a]})] == [True, False]
    assert [name for name, _ in named({"params": [a, b], "param_names": ["x", "y"]})] == ["x", "y"]


def test_each_device_has_a_rule_of_its_own_that_stays_there():
    rule = small_rule("lstm")
    stepper = Stepper(rule)
    assert stepper.rule_on(CPU) is rule
    addresses = [weight.data_ptr() for weight in rule.parameters()]
    other = stepper.rule_on(ELSEWHERE)
    assert {weight.device for weight in other.parameters()} == {ELSEWHERE}
    assert stepper.rule_on(ELSEWHERE) is other
    assert stepper.rule_on(CPU) is rule
    assert [weight.data_ptr() for weight in rule.parameters()] == addresses
    with torch.no_grad():
        next(rule.parameters()).add_(1)
    assert stepper.rule_on(ELSEWHERE) is not other


def test_a_rule_goes_where_it_steps_first():
    rule = small_rule("lstm")
    assert Stepper(rule).rule_on(ELSEWHERE) is rule
    assert {weight.device for weight in rule.parameters()} == {ELSEWHERE}


def test_a_step_is_prepared_for_as_long_as_the_same_parameters_have_gradients():
    a, b = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    optimizer = LearnedOptimizer([a, b], num_steps=10)

    def prepared():
        optimizer.step()
        ((call,), others) = next(iter(optimizer._stepper.prepared.values()))
        assert not others
        return call

    a.grad, b.grad = torch.ones(3), torch.ones(2)
    first = prepared()
    a.grad.mul_(2)
    assert prepared() is first
    b.grad = None
    alone = prepared()
    assert [kept.param for kept in alone.kept] == [a]
    assert prepared() is alone
    b.grad = torch.ones(2)
    assert len(prepared().kept) == 2


@pytest.mark.parametrize("odd", ["float64", "complex", "sparse", "transposed"])
def test_what_kernels_cannot_take_again_keeps_nothing_else_from_it(odd):
    def parameters():
        torch.manual_seed(0)
        values = {
            "float64": torch.randn(3, 2, dtype=torch.float64),
            "complex": torch.randn(3, 2, dtype=torch.complex64),
            "sparse": torch.randn(3, 2),
            "transposed": torch.randn(2, 3).t(),
        }
        return nn.Parameter(torch.randn(4, 3)), nn.Parameter(values[odd])

    def gradients(plain, other, step):
        generator = torch.Generator().manual_seed(step)
        plain.grad = torch.randn(4, 3, generator=generator)
        other.grad = torch.randn(3, 2, generator=generator).to(other.dtype)
        other.grad = other.grad.to_sparse() if odd == "sparse" else other.grad

    together, apart = parameters(), parameters()
    one = LearnedOptimizer(together, num_steps=10)
    two = [LearnedOptimizer([param], num_steps=10) for param in apart]
    calls = []
    for step in range(4):
        gradients(*together, step)
        gradients(*apart, step)
        one.step()
        for optimizer in two:
            optimizer.step()
        ((call,), others) = next(iter(one._stepper.prepared.values()))
        calls.append(call)
        assert together[0] in [kept.param for kept in call.kept]
        assert [param is together[1] for param in others] == ([] if odd == "transposed" else [True])
    assert all(call is calls[0] for call in calls)
    for p, q in zip(together, apart, strict=True):
        assert torch.equal(p, q)
    # One of them has no gradient any more.
    together[1].grad = None
    one.step()
    ((call,), others) = next(iter(one._stepper.prepared.values()))
    assert others == []
