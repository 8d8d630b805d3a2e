"""What a rule costs is counted on the rule, and agrees with its layers' sizes."""

import pytest
import torch

from l2l_opt import UpdateRule
from l2l_opt.kernels import native
from l2l_opt.rules import RULES, make_rule
from l2l_opt.rules.costs import rule_costs
from tests.conftest import small_rule


@pytest.mark.parametrize(("hidden", "layers"), [(20, 2), (8, 1), (5, 3)])
def test_an_lstm_costs_its_matrix_products_and_its_gates(hidden, layers):
    rule = make_rule("lstm", hidden_size=hidden, num_layers=layers)
    matrices = [weight for name, weight in rule.named_parameters() if weight.dim() == 2]
    products = sum(2 * weight.numel() for weight in matrices)
    # A unit: two additions for each of four gates, five functions, three products and a sum.
    units = layers * hidden * (4 * 2 + 5 + 3 + 1)
    costs = rule_costs(rule)
    assert costs.state_bytes == 4 * 2 * hidden * layers
    assert costs.state_bytes_bfloat16 == 2 * 2 * hidden * layers
    # What is left is the features of the gradient and the scale of the output.
    assert 0 < costs.operations - products - units < 20


def test_hand_designed_rules_cost_what_their_equations_say():
    # m, v: two products and a sum each, and g^2; root, two corrections, two quotients, eps, and the scale.
    assert rule_costs(make_rule("adam")).operations == pytest.approx(12, abs=2)
    assert rule_costs(make_rule("adam")).state_bytes == rule_costs(make_rule("adam")).state_bytes_bfloat16 == 8
    assert rule_costs(make_rule("sgd")).operations == 1
    assert rule_costs(make_rule("sgd")).state_bytes == 0


@pytest.mark.parametrize("name", RULES.names())
def test_costs_do_not_depend_on_the_kernels(name, monkeypatch):
    rule = small_rule(name)
    found = rule_costs(rule)
    monkeypatch.setenv(native.DISABLED_BY, "1")
    assert rule_costs(rule) == found
    assert found.operations > 0


def test_a_composed_rule_costs_what_its_costliest_part_costs():
    parts = [{"rule": "adam", "name": "bias"}, {"rule": "lstm", "config": {"hidden_size": 4}, "min_dim": 4}]
    assert rule_costs(make_rule("composed", parts=parts)) == rule_costs(make_rule("lstm", hidden_size=4))


def test_products_with_vectors_and_sums_are_counted():
    class Products(UpdateRule):
        def init_state(self, params):
            return {name: {"kept": torch.zeros(3, *p.shape)} for name, p in params.items()}

        def forward(self, grads, state, params, *, num_steps=None):
            (name, gradient), *_ = grads.items()
            total = state[name]["kept"] @ gradient
            return {name: gradient * total.sum() + gradient.sum()}, state

    # Three products of a pair each, one multiplication, one addition, and the sum of the gradient.
    assert rule_costs(Products()) == (12, 12, 2 * 3 + 1 + 1 + 1)
