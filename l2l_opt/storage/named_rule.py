"""A rule by the name that a user gives it: registered, shipped or a file."""

from pathlib import Path

import torch

from l2l_opt.near_names import did_you_mean
from l2l_opt.pretrained import list_pretrained
from l2l_opt.randomness import Stream, make_generator
from l2l_opt.registry import parse_spec
from l2l_opt.rules import RULES, UpdateRule, make_rule
from l2l_opt.rules.check import check_rule
from l2l_opt.storage.rule_file import load_rule


def read_rule(rule: str, *, seed: int) -> UpdateRule:
    """Return a fresh rule by its registered name, or the one that an artefact holds.

    Args:
        rule: a registered name with its options (``rnnprop:hidden_size=8``), a shipped name or a path.
        seed: of a fresh rule's weights.

    Raises:
        ValueError: none of these, or an artefact that cannot be read.
    """
    name, _ = parse_spec(rule)
    if name in RULES.names():
        with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]
            own_seed = make_generator(seed, Stream.RULE).initial_seed()
            torch.manual_seed(own_seed)  # pyright: ignore[reportUnknownMemberType]
            return check_rule(make_rule(rule))
    if Path(rule).exists() or rule in list_pretrained():
        return load_rule(rule)
    fix = did_you_mean(rule, [*list_pretrained(), *RULES.names()])
    raise ValueError(f"a rule must be a shipped or registered name or the path of an artefact; got {rule!r}, {fix}")
