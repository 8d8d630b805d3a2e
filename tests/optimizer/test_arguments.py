"""What no optimizer can be made with is refused in a sentence."""

import pytest
import torch
from torch import nn

from l2l_opt import LearnedOptimizer, RNNProp


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr must be finite and not negative; got -1.0"),
        ({"weight_decay": -0.1}, "weight_decay must be finite and not negative; got -0.1"),
        ({"num_steps": 0}, "num_steps must be positive or None; got 0"),
        ({"num_steps": 10.5}, "num_steps must be a whole number; got 10.5, use e.g. 11"),
        ({"guard": "hope"}, "guard must be 'skip', 'fallback' or None; got 'hope'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        LearnedOptimizer([nn.Parameter(torch.ones(1))], RNNProp(hidden_size=2), **options)


def test_a_rule_of_another_kind_is_named():
    with pytest.raises(TypeError, match="rule must be None, a name, a path or an UpdateRule; got Linear"):
        LearnedOptimizer([nn.Parameter(torch.ones(1))], nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ([1e-3], {}, "lr is a keyword, and 1.0 as meta-trained; got 0.001 where the rule stands"),
        ([], {"betas": (0.9, 0.99)}, "options must be lr, .* got betas=\\(0.9, 0.99\\), leave it out"),
        ([], {"numsteps": 10}, "options must be lr, .* got numsteps=10, did you mean num_steps\\?"),
        ([], {"weigth_decay": 0.1}, "options must be lr, .* got weigth_decay=0.1, did you mean weight_decay\\?"),
        ([], {"fused": True}, "options must be lr, .* got fused=True, leave it out"),
        ([], {"eps": 1e-8, "amsgrad": False}, "options must be lr, .* got eps=1e-08, leave it out"),
    ],
)
def test_arguments_of_other_optimizers_are_named(arguments, options, message):
    with pytest.raises(TypeError, match=message):
        LearnedOptimizer([nn.Parameter(torch.ones(1))], *arguments, **options)


@pytest.mark.parametrize(
    ("key", "own", "other"),
    [
        ("guard", "skip", None),
        ("state_dtype", None, torch.bfloat16),
        ("whitening_dtype", torch.float32, torch.bfloat16),
    ],
)
def test_what_is_the_same_for_all_groups_is_refused_in_one(key, own, other):
    """ZeroRedundancyOptimizer names them in each group."""
    params = [nn.Parameter(torch.ones(1)) for _ in range(2)]
    with pytest.raises(ValueError, match=f"{key} must be the same for all groups; got {other!r} in one beside {own!r}"):
        LearnedOptimizer([{"params": params[:1], key: other}], RNNProp(hidden_size=2))
    optimizer = LearnedOptimizer([{"params": params[:1], key: own}], RNNProp(hidden_size=2))
    with pytest.raises(ValueError, match="pass it to LearnedOptimizer"):
        optimizer.add_param_group({"params": params[1:], key: other})
    assert len(optimizer.param_groups) == 1
