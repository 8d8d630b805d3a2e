"""Rules by the names that users give."""

import pytest
import torch

from l2l_opt import load_rule, save_rule
from l2l_opt.rules import make_rule
from l2l_opt.storage.named_rule import read_rule


def test_registered_names_begin_from_fresh_weights_of_a_seed_and_leave_the_generator_alone() -> None:
    before = torch.random.get_rng_state()
    one, same, other = (read_rule("rnnprop:hidden_size=3", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    weights = [torch.cat([weight.flatten() for weight in rule.parameters()]) for rule in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_shipped_names_and_paths_are_read(tmp_path) -> None:
    path = tmp_path / "mine.safetensors"
    rule = make_rule("lstm:hidden_size=2,num_layers=1")
    save_rule(rule, path)
    assert all(map(torch.equal, read_rule(str(path), seed=0).parameters(), rule.parameters()))
    assert dict(read_rule("lstm-2", seed=0).config) == dict(load_rule("lstm-2").config)


@pytest.mark.parametrize(
    ("name", "hint"), [("default-9", "did you mean 'default-"), ("zzz", "use one of .*lstm-2.*rnnprop")]
)
def test_other_names_are_refused_with_those_that_there_are(name: str, hint: str) -> None:
    with pytest.raises(
        ValueError, match=f"shipped or registered name or the path of an artefact; got '{name}', {hint}"
    ):
        read_rule(name, seed=0)
