"""The learned rules: against torch's own LSTM, their bounds, their routing."""

import pytest
import torch
from torch import nn

from l2l_opt import CoordinatewiseLSTM, RNNProp
from l2l_opt.rules import make_rule
from l2l_opt.rules.composed import ComposedRule
from l2l_opt.rules.features import log_sign


def test_the_papers_lstm_by_default():
    rule = CoordinatewiseLSTM()
    assert rule.config == {"hidden_size": 20, "num_layers": 2, "p": 10.0, "output_scale": 0.1}
    weights = {"layer 1": 80 * (2 + 20 + 1), "layer 2": 80 * (20 + 20 + 1), "readout": 21}
    assert sum(weight.numel() for weight in rule.parameters()) == sum(weights.values())


def test_small_lstm_options():
    rule = CoordinatewiseLSTM(hidden_size=8, num_layers=1)
    state = rule.init_state({"w": torch.zeros(3, 2)})["w"]
    assert state["hidden"].shape == state["cell"].shape == (8, 3, 2)


def test_equals_torchs_lstm_run_on_every_coordinate():
    rule = CoordinatewiseLSTM(hidden_size=6).double()
    theirs = nn.LSTM(2, 6, num_layers=2).double()
    with torch.no_grad():
        for index, layer in enumerate(rule.body.layers):
            getattr(theirs, f"weight_ih_l{index}").copy_(layer.weight_input)
            getattr(theirs, f"weight_hh_l{index}").copy_(layer.weight_hidden)
            getattr(theirs, f"bias_ih_l{index}").copy_(layer.bias)
            getattr(theirs, f"bias_hh_l{index}").zero_()
    params = {"w": torch.zeros(3, 2, dtype=torch.float64)}
    gradients = torch.randn(5, 3, 2, dtype=torch.float64)
    state = rule.init_state(params)
    ours = []
    for gradient in gradients:
        updates, state = rule({"w": gradient}, state, params)
        ours.append(updates["w"])
    sequence = torch.stack([log_sign(g).flatten(1).T for g in gradients])
    outputs, (hidden, cell) = theirs(sequence)
    expected = 0.1 * rule.body.readout(outputs).squeeze(-1).reshape(5, 3, 2)
    torch.testing.assert_close(torch.stack(ours), expected)
    torch.testing.assert_close(state["w"]["hidden"].reshape(2, 6, 6).transpose(1, 2), hidden)
    torch.testing.assert_close(state["w"]["cell"].reshape(2, 6, 6).transpose(1, 2), cell)


def test_rnnprop_is_bounded_and_does_not_see_the_losss_scale():
    rule = RNNProp(hidden_size=5).double()
    params = {"w": torch.zeros(50, dtype=torch.float64)}
    states = [rule.init_state(params) for _ in range(2)]
    for step in range(4):
        gradient = torch.randn(50, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        small, states[0] = rule({"w": gradient}, states[0], params)
        large, states[1] = rule({"w": 1e5 * gradient}, states[1], params)
        assert large["w"].abs().max() <= rule.output_scale
        torch.testing.assert_close(small["w"], large["w"], rtol=1e-6, atol=1e-9)


def test_rnnprops_first_inputs_are_signs():
    """With bias correction both ratios are g / |g| at the first step, so equal signs get equal updates."""
    rule = RNNProp(hidden_size=4).double()
    gradients = {"w": torch.tensor([3.0, 1e-3, -2.0, -50.0], dtype=torch.float64)}
    updates, _ = rule(gradients, rule.init_state(gradients), gradients)
    torch.testing.assert_close(updates["w"][0], updates["w"][1], rtol=1e-6, atol=0)
    torch.testing.assert_close(updates["w"][2], updates["w"][3], rtol=1e-6, atol=0)


def test_composed_routes_by_name_and_shape():
    rule = ComposedRule(
        parts=[{"rule": "sgd:lr=1.0", "min_dim": 3}, {"rule": "sgd:lr=0.1", "name": "bias$"}, {"rule": "sgd:lr=0.01"}]
    )
    grads = {"conv.weight": torch.ones(2, 2, 2), "conv.bias": torch.ones(2), "dense.weight": torch.ones(2, 2)}
    updates, _ = rule(grads, rule.init_state(grads), grads)
    assert list(updates) == list(grads)
    for name, rate in (("conv.weight", 1.0), ("conv.bias", 0.1), ("dense.weight", 0.01)):
        torch.testing.assert_close(updates[name], -rate * torch.ones_like(grads[name]))


def test_composed_takes_rule_objects_and_reports_when_nothing_matches():
    inner = CoordinatewiseLSTM(hidden_size=3)
    rule = ComposedRule(parts=[{"rule": inner, "max_dim": 1}])
    assert rule.config["parts"][0]["config"]["hidden_size"] == 3
    with pytest.raises(ValueError, match="every parameter must match a part; got 'w' of shape"):
        rule.init_state({"w": torch.zeros(2, 2)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": []}, "parts must hold one dict or more"),
        ({"parts": [{"min_dim": 2}]}, "a part must have 'rule'"),
        ({"parts": [{"rule": "sgd", "shape": 2}]}, "a part must have 'rule'"),
        ({"parts": [{"rule": "sgd", "name": "("}]}, "regular expression"),
        ({"parts": [{"rule": "sgd", "max_dim": "3"}]}, "a part's max_dim must be a whole number of 0 or more; got '3'"),
        (
            {"parts": [{"rule": "sgd", "min_dim": True}]},
            "a part's min_dim must be a whole number of 0 or more; got T",
        ),
        ({"parts": [{"rule": "sgd", "min_dim": -1}]}, "a part's min_dim must be a whole number of 0 or more; got -1"),
        (
            {"parts": [{"rule": "sgd", "min_dim": 3, "max_dim": 2}]},
            "min_dim must not be above its max_dim; got 3",
        ),
        ({"parts": [{"rule": "sgd", "name": 3}]}, "a part's name must be a regular expression; got 3"),
        ({"parts": [{"rule": "sgd", "config": 3}]}, "a part's config must be a dict of options; got 3"),
        ({"parts": [{"rule": 3}]}, "must be named by a text; got 3"),
        ({"parts": [3]}, "a part must be a dict; got 3"),
        ({"parts": {"rule": "sgd"}}, "parts must hold one dict or more"),
        ({"parts": [{"rule": "nonsense"}]}, "a rule must be a registered name"),
    ],
)
def test_composed_names_what_is_wrong(options, message):
    with pytest.raises(ValueError, match=message):
        ComposedRule(**options)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lstm:hidden_size=0", "hidden_size must be a positive integer; got 0"),
        ("lstm:num_layers=1.5", "num_layers of rule .lstm. must be an integer; got 1.5"),
        ("lstm:p=-1", "p must be a positive number; got -1"),
        ("lstm:p=800", "p must be at most 80, so that e.p is a float32; got 800"),
        ("rnnprop:beta=1", "beta must lie in"),
        ("meta-lstm:lr=1", r"lr must lie in \[0, 1\); got 1"),
        ("meta-lstm:decay=0", "decay must be a positive number; got 0"),
        ("rnnprop:eps=1e308", r"eps must be at most 1e.18, so that eps.2 is a float32; got 1e.308"),
        ("rnnprop:output_scale=1e999", "output_scale must be a positive number; got inf"),
        ("rnnprop:output_scale=0", "output_scale must be a positive number"),
        ("lstm:hiden=3", "an option of rule 'lstm' must be one it has; got 'hiden'"),
        ("lsmt", "did you mean 'lstm'"),
    ],
)
def test_bad_options_are_named(spec, message):
    with pytest.raises(ValueError, match=message):
        make_rule(spec)


def test_a_fresh_rule_does_not_drift():
    """Nothing in a fresh read-out pushes all coordinates one way."""
    rule = CoordinatewiseLSTM()
    assert float(rule.body.readout.bias.detach()) == 0
    assert float(RNNProp().body.readout.bias.detach()) == 0
