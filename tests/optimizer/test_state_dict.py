"""State dicts are taken over whole or refused with the entry that does not fit."""

import copy

import pytest
import torch
from torch import nn

from l2l_opt import LearnedOptimizer, RNNProp, UpdateRule, load_rule
from l2l_opt.optimizer.state_dict import check_state_dict
from l2l_opt.rules import RULES
from tests.conftest import small_rule

RULE = RNNProp(hidden_size=2, num_layers=1)


def trained(rule=RULE, dtype=torch.float32):
    """An optimizer with two groups, three steps done; one parameter has never had a gradient."""
    first, last = nn.Linear(3, 4, dtype=dtype), nn.Linear(4, 2, dtype=dtype)
    groups = [{"params": list(first.parameters())}, {"params": list(last.parameters()), "lr": 0.5, "num_steps": 20}]
    optimizer = LearnedOptimizer(groups, rule)
    for _ in range(3):
        for p in (first.weight, first.bias, last.weight):
            p.grad = torch.randn_like(p)
        optimizer.step()
    return optimizer


def check(optimizer, saved, *, finite=True):
    groups, rule, defaults = optimizer.param_groups, optimizer.rule, optimizer.defaults
    check_state_dict(saved, groups, rule=rule, defaults=defaults, must_be_finite=finite)


@pytest.mark.parametrize("name", RULES.names())
def test_what_an_optimizer_saved_is_taken(name):
    optimizer = trained(small_rule(name))
    saved = optimizer.state_dict()
    assert 0 < len(saved["state"]) < 4
    before = copy.deepcopy(saved)
    check(optimizer, saved)
    check(trained(optimizer.rule, dtype=torch.float64), saved)
    assert str(saved) == str(before)


def test_what_schedulers_frameworks_and_smaller_states_add_is_taken():
    optimizer = trained()
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=10, cycle_momentum=False)
    saved = optimizer.state_dict()
    saved["param_groups"][0] |= {"lr": torch.tensor(0.3), "note": ("a", [1, None])}
    saved["state"][0] |= {"hidden": saved["state"][0]["hidden"].bfloat16()}
    check(optimizer, saved)
    names = {0: "first.weight", 1: "first.bias", 2: "last.weight", 3: "last.bias"}
    for group in saved["param_groups"]:
        group["params"] = [names[key] for key in group["params"]]
    check(optimizer, {**saved, "state": {names[key]: own for key, own in saved["state"].items()}})
    check(optimizer, {**saved, "state": {}})


def test_plain_numbers_and_entries_of_later_versions_are_taken():
    optimizer = trained()
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0]["step"] = saved["state"][0]["step"].item()
    saved["param_groups"][0]["more"] = {"first": 0.5, "recent": [1.0, 2.0]}
    check(optimizer, saved)


WATCH = {"first": None, "lowest": float("inf"), "recent": [], "num_losses": 0}


@pytest.mark.parametrize(
    ("entries", "fits"),
    [
        ({}, True),
        ({"steps_taken": 3, "watch": WATCH, "flag": False, "kind": "b"}, True),
        ({"watch": WATCH | {"first": 0.5, "recent": [1.0, 2.0]}}, True),
        ({"steps_taken": None}, False),
        ({"steps_taken": [1]}, False),
        ({"steps_taken": torch.ones(())}, False),
        ({"steps_taken": float("nan")}, False),
        ({"flag": 1}, False),
        ({"kind": None}, False),
        ({"watch": None}, False),
        ({"watch": {"first": 1.0}}, True),
        ({"watch": {"first": "1"}}, False),
        ({"watch": WATCH | {"more": 1}}, False),
        ({"watch": WATCH | {"recent": ["1"]}}, False),
        ({"watch": WATCH | {"recent": 3}}, False),
        ({"watch": WATCH | {"lowest": None}}, False),
        ({"watch": WATCH | {"first": "1"}}, False),
    ],
)
def test_what_else_the_optimizer_keeps_in_groups_is_of_the_kind_of_its_default(entries, fits):
    optimizer = trained()
    optimizer.defaults |= {"steps_taken": 0, "watch": WATCH, "flag": True, "kind": "a"}
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][1] |= entries
    if fits:
        check(optimizer, saved)
    else:
        (key,) = entries
        with pytest.raises(ValueError, match=f"{key} must be of the kind of"):
            check(optimizer, saved)


def test_tied_parameters_share_a_key():
    p = nn.Parameter(torch.ones(3))
    with pytest.warns(UserWarning, match="duplicate"):
        optimizer = LearnedOptimizer([p, p], RULE)
    p.grad = torch.ones(3)
    optimizer.step()
    saved = optimizer.state_dict()
    assert saved["param_groups"][0]["params"] == [1, 1]
    check(optimizer, saved)
    saved["param_groups"][0]["params"] = [0, 1]
    with pytest.raises(ValueError, match="each parameter must have a key of its own"):
        check(optimizer, saved)


def test_a_complex_parameter_has_the_state_of_its_two_parts():
    optimizer = LearnedOptimizer([nn.Parameter(torch.zeros(3, dtype=torch.complex64))], RULE)
    saved = optimizer.state_dict()
    saved["state"] = {0: RULE.init_state({"0": torch.zeros(3, 2)})["0"]}
    check(optimizer, saved)
    saved["state"] = {0: RULE.init_state({"0": torch.zeros(3)})["0"]}
    with pytest.raises(ValueError, match=r"must have shape \(1, 3, 2\); got \(1, 3\)"):
        check(optimizer, saved)


def test_a_rule_that_looks_at_values_is_asked_with_zeros():
    class ByValue(UpdateRule):
        registry_name = "by-value"

        def init_state(self, params):
            return {name: {"first": torch.full((1,), p.sum().item())} for name, p in params.items()}

        def forward(self, grads, state, params, *, num_steps=None):
            return grads, state

    optimizer = LearnedOptimizer([nn.Parameter(torch.ones(3))], ByValue())
    saved = optimizer.state_dict()
    check(optimizer, {**saved, "state": {0: {"first": torch.ones(1)}}})
    with pytest.raises(ValueError, match=r"state 'first' of parameter '0' must have shape \(1,\); got \(2,\)"):
        check(optimizer, {**saved, "state": {0: {"first": torch.ones(2)}}})


def test_memory_does_not_grow_with_the_parameters():
    optimizer = LearnedOptimizer([nn.Parameter(torch.zeros(10**5, 10**7, device="meta"))], RULE)
    saved = optimizer.state_dict()
    saved["state"] = {
        0: RULE.init_state({"0": torch.zeros(10**5, 10**7, device="meta")})["0"] | {"step": torch.ones(())}
    }
    check(optimizer, saved, finite=False)


def at(*places):
    """A change of one entry: ``at("state", 0, "step", value)``."""
    *path, key, value = places

    def change(saved):
        for place in path:
            saved = saved[place]
        if value is DROPPED:
            del saved[key]
        else:
            saved[key] = value

    return change


DROPPED = object()
GROUP = ("param_groups", 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (at("state", DROPPED), "must be a dict with a dict 'state' and a list of dicts 'param_groups'; got"),
        (at("state", []), "must be a dict with a dict 'state'"),
        (at("param_groups", {}), "must be a dict with a dict 'state'"),
        (at(*GROUP, None), "must be a dict with a dict 'state'"),
        (at(*GROUP, DROPPED), "must have as many groups as the optimizer, 2; got 1, make the groups"),
        (at(*GROUP, "rule_digest", "0" * 64), "with the rule that made it; got the state of 'rnnprop' .0000"),
        (at(*GROUP, "rule_digest", DROPPED), "with the rule that made it; got the state of 'rnnprop' .None"),
        (at(*GROUP, "rule", "lstm"), "with the rule that made it; got the state of 'lstm' .*for 'rnnprop'"),
        (at(*GROUP, "lr", DROPPED), "a group must have the entry 'lr'"),
        (at(*GROUP, "lr", -1), "lr must be finite and not negative; got -1"),
        (at(*GROUP, "lr", "1"), "lr must be finite and not negative; got '1'"),
        (at(*GROUP, "lr", float("nan")), "lr must be finite and not negative; got nan"),
        (at(*GROUP, "lr", 10**400), "lr must be finite and not negative; got 1000"),
        (at(*GROUP, "lr", torch.ones(2)), "Tensor lr must be 1-element; got tensor"),
        (at(*GROUP, "lr", float("inf")), "lr must be finite and not negative; got inf"),
        (at(*GROUP, "weight_decay", None), "weight_decay must be finite and not negative; got None"),
        (at(*GROUP, "num_steps", 0), "num_steps must be positive or None; got 0"),
        (at(*GROUP, "maximize", 1), "maximize must be True or False; got 1"),
        (at(*GROUP, "more", print), "entries must have names and plain values; got {'more': <built-in"),
        (at(*GROUP, "more", torch.ones(2)), "entries must have names and plain values; got"),
        (at(*GROUP, "params", DROPPED), "'params' must be a list of keys; got None"),
        (at(*GROUP, "params", [0]), "as many parameters as the optimizer's, 2; got 1"),
        (at(*GROUP, "params", [0, 0]), "each parameter must have a key of its own; got .0, 0."),
        (at(*GROUP, "params", [2, 3]), "each parameter must have a key of its own; got .2, 3."),
        (at(*GROUP, "params", [0, None]), "'params' must be a list of keys; got .0, None."),
        (at(*GROUP, "param_names", ["a"]), "'param_names' must name each parameter; got .'a'."),
        (at("state", 9, {}), "state must belong to a parameter of a group; got 9"),
        (at("state", 0, 3), "the state of parameter '0' must be a dict; got 3"),
        (at("state", 0, "cell", DROPPED), "must hold all that its rule keeps; got none of .'cell'., pass"),
        (
            at("state", 0, "other", torch.ones(1)),
            "must hold nothing but average, cell, hidden, square_average, step; got .'other'",
        ),
        (at("state", 0, "cell", [1.0]), "state 'cell' of parameter '0' must be a tensor; got .1.0."),
        (
            at("state", 0, "cell", torch.ones(2, 4, 3).to_sparse()),
            "state 'cell' of parameter '0' must be dense; got torch.sparse_coo",
        ),
        (at("state", 0, "cell", torch.ones(2, 3, 4)), r"must have shape \(2, 4, 3\); got \(2, 3, 4\)"),
        (at("state", 0, "cell", torch.ones(2, 4, 3, dtype=torch.int64)), "must be of a dtype like torch.float32; got"),
        (at("state", 0, "cell", torch.ones(2, 4, 3, dtype=torch.complex64)), "must be of a dtype like torch.float32"),
        (at("state", 0, "step", torch.tensor(-1.0)), "state 'step' of parameter '0' must count steps; got tensor.-1"),
        (at("state", 0, "step", torch.ones(1)), r"state 'step' of parameter '0' must have shape \(\); got \(1,\)"),
        (at("state", 0, "step", torch.tensor(3)), "'step' of parameter '0' must be of a dtype like torch.float32; got"),
        (at("state", 0, "step", -2), "state 'step' of parameter '0' must count steps; got -2"),
        (at("state", 0, "step", "2"), "state 'step' of parameter '0' must be a tensor; got '2'"),
        (at("state", 0, "step", torch.tensor(float("nan"))), "state 'step' of parameter '0' must count steps"),
        (at("state", 0, "skipped", torch.ones(2)), r"'skipped' of parameter '0' must have shape \(\); got \(2,\)"),
        (at("state", 0, "skipped", torch.tensor(1j)), "'skipped' of parameter '0' must be of a dtype like torch.int64"),
        (
            at("state", 0, "skipped", torch.tensor(1.0)),
            "'skipped' of parameter '0' must be of a dtype like torch.int64",
        ),
        (at("state", 0, "skipped", 1), "state 'skipped' of parameter '0' must be a tensor; got 1"),
        (at("state", 0, "fallback", torch.ones(4, 3)), r"'fallback' of parameter '0' must have shape \(3, 4, 3\); got"),
        (at("state", 0, "cell", torch.full((2, 4, 3), torch.nan)), "'cell' of parameter '0' must be finite; got nan"),
    ],
)
def test_what_does_not_fit_is_named(change, words):
    optimizer = trained()
    saved = copy.deepcopy(optimizer.state_dict())
    check(optimizer, saved)
    change(saved)
    with pytest.raises(ValueError, match=words) as caught:
        check(optimizer, saved)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("saved", [None, 3, [], "state", torch.zeros(3)])
def test_what_is_no_state_dict_is_named(saved):
    with pytest.raises(ValueError, match="a state dict must be a dict with a dict 'state'"):
        check(trained(), saved)


def test_rules_of_the_same_weights_and_other_options_are_others():
    def made(rule):
        param = torch.nn.Parameter(torch.ones(3, 2))
        optimizer = LearnedOptimizer([param], rule=rule, num_steps=10)
        param.grad = torch.ones(3, 2)
        optimizer.step()
        return optimizer

    state = made("small-data-1").state_dict()
    with pytest.raises(ValueError, match=r"got the state of 'scale-free' .* pass the rule= .*, 'small-data-1'$"):
        made("default-3").load_state_dict(state)
    # As releases before 0.3 have it, of the weights alone.
    state["param_groups"][0]["rule_digest"] = load_rule("default-3").card["digest"]
    made("default-3").load_state_dict(state)
    with pytest.raises(ValueError, match=r"must hold all that its rule keeps; got none of .*hidden.*, pass the"):
        made("default-2").load_state_dict(state)
