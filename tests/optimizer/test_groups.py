"""Steps of groups: what is kept from one to the next, and where."""

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
        return next(iter(optimizer._stepper.prepared.values()))[0]

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
