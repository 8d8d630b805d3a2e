"""A config cannot make loading take more memory or time than the file's weights warrant."""

import resource
import time

import pytest
import torch

from l2l_opt import CoordinatewiseLSTM, UpdateRule, load_rule, register_rule, save_rule
from l2l_opt.rules import RULES
from l2l_opt.storage.rule_building import build_rule
from l2l_opt.storage.safetensors_file import serialised

WEIGHTS = {name: weight.detach() for name, weight in CoordinatewiseLSTM(hidden_size=2).named_parameters()}


def nested(levels, **config):
    part = {"rule": "lstm", "config": config}
    for _ in range(levels):
        part = {"rule": "composed", "config": {"parts": [part]}}
    return part


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("lstm", {"hidden_size": 10**5}),
        ("lstm", {"hidden_size": 10**9}),
        ("lstm", {"hidden_size": 10**18}),
        ("lstm", {"hidden_size": 10**400}),
        ("lstm", {"num_layers": 10**9}),
        ("lstm", {"hidden_size": 10**9, "num_layers": 10**9}),
        ("lstm", {"hidden_size": 2, "p": 10**400}),
        ("rnnprop", {"hidden_size": 10**9}),
        ("compact", {"hidden_size": 10**9}),
        ("composed", nested(8, num_layers=10**9)["config"]),
        ("composed", nested(300)["config"]),
        ("composed", {"parts": [{"rule": "composed"}] * 20_000}),
        ("composed", {"parts": [{"rule": "lstm:num_layers=1000000000"}]}),
        ("composed", {"parts": [{"rule": "lstm:p=" + "(" * 100_000}]}),
        ("composed", {"parts": [{"rule": "lstm", "name": "a{99999999999999}"}]}),
        ("composed", {"parts": [{"rule": "lstm", "min_dim": "3"}]}),
        ("composed", {"parts": 3}),
        ("composed", {"parts": [3]}),
        ("composed", {"parts": [{"rule": None}]}),
        ("lstm", {"spec": "sgd"}),
        ("lstm", {"hidden_size": None}),
        ("sgd", {"lr": 10**400}),
    ],
)
def test_hostile_configs_are_refused_in_bounded_time_and_memory(name, config):
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"; got |must not ask for a rule much larger than its weights"):
        build_rule(name, config, WEIGHTS)
    assert time.perf_counter() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def test_the_largest_sizes_that_fit_the_weights_are_built():
    rule = CoordinatewiseLSTM(hidden_size=3, num_layers=200)
    weights = {name: weight.detach() for name, weight in rule.named_parameters()}
    built = build_rule("lstm", {"hidden_size": 3, "num_layers": 200}, weights)
    assert all(torch.equal(a, b) for a, b in zip(built.parameters(), weights.values(), strict=True))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"hidden_size": 3}, r"shapes of its weights; got 'body.layers.0.bias' of \(8,\) for \(12,\)"),
        ({"hidden_size": 2, "num_layers": 1}, r"got 'body.layers.1.bias' of \(8,\) for None"),
        ({"hidden_size": 2, "num_layers": 3}, r"got 'body.layers.2.bias' of None for \(8,\)"),
    ],
)
def test_weights_that_do_not_fit_are_named_one_by_one(config, words):
    with pytest.raises(ValueError, match=words):
        build_rule("lstm", config, WEIGHTS)


@pytest.fixture
def plugin_rule():
    """A rule that looks at values and draws from a generator of its own, which the meta device cannot do."""

    @register_rule("by-value")
    class ByValue(UpdateRule):
        def __init__(self, *, size: int = 4, spare: int = 0):
            super().__init__(size=size, spare=spare)
            drawn = torch.randn(size, generator=torch.Generator().manual_seed(0))
            self.scale = torch.nn.Parameter(drawn / drawn.norm().item())
            self.register_buffer("table", torch.arange(spare), persistent=False)

        def init_state(self, params):
            return {name: {"step": torch.zeros(())} for name in params}

        def forward(self, grads, state, params, *, num_steps=None):
            return grads, state

    yield ByValue
    RULES._factories.pop("by-value")


def test_rules_of_plugins_are_built_and_bounded_too(plugin_rule, tmp_path):
    rule = plugin_rule(size=5, spare=1000)
    save_rule(rule, tmp_path / "rule.safetensors")
    loaded = load_rule(tmp_path / "rule.safetensors")
    assert torch.equal(loaded.scale, rule.scale)
    assert torch.equal(loaded.table, torch.arange(1000))
    for config in ({"size": 10**9}, {"size": 5, "spare": 10**10}):
        metadata = {"format_version": 1, "rule": {"name": "by-value", "config": config}}
        (tmp_path / "rule.safetensors").write_bytes(serialised({"scale": rule.scale.detach()}, metadata, kind="rule"))
        with pytest.raises(ValueError, match="must not ask for a rule much larger than its weights"):
            load_rule(tmp_path / "rule.safetensors")
