"""An LSTM a tensor over any rule: what it starts as, what it may do, what it keeps."""

import math

import pytest
import torch

from l2l_opt import LearnedOptimizer
from l2l_opt.rules import RULES, make_rule
from l2l_opt.rules.tensor_lstm import FRACTIONS, NUM_INPUTS, loss_features, tensor_features
from tests.conftest import small_rule


def student(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in (("scalar", ()), ("bias", (4,)), ("weight", (4, 3)), ("kernel", (3, 1, 2, 2)))
    }


@pytest.mark.parametrize("part", [name for name in RULES.names() if name != "tensor-lstm"])
def test_a_fresh_one_takes_almost_the_steps_of_its_part(part):
    rule = make_rule("tensor-lstm", rule=small_rule(part)).double()
    params, grads = student(), student(1)
    updates, state = rule(grads, rule.init_state(params), params)
    theirs, their_state = rule.part(grads, rule.part.init_state(params), params)
    for name, update in updates.items():
        torch.testing.assert_close(update, theirs[name], rtol=0.05, atol=0)
        assert not torch.equal(update, theirs[name])
        for key, value in their_state[name].items():
            assert torch.equal(state[name][key], value)


def test_all_weights_of_a_tensor_are_multiplied_by_one_number_within_bounds():
    rule = make_rule("tensor-lstm").double()
    rule.requires_grad_(False)
    torch.nn.init.normal_(rule.body.readout.weight, std=100)
    params, grads = student(), student(1)
    updates, _ = rule(grads, rule.init_state(params), params)
    theirs, _ = rule.part(grads, rule.part.init_state(params), params)
    factors = {name: update / theirs[name] for name, update in updates.items()}
    for factor in factors.values():
        assert float(factor.max() - factor.min()) < 1e-9 * float(factor.max())
        assert math.exp(-3) < float(factor.max()) < math.exp(3)
    assert len({round(float(factor.max()), 6) for factor in factors.values()}) > 1


def test_memory_is_kept_once_a_tensor():
    rule = make_rule("tensor-lstm", hidden_size=5)
    state = rule.init_state(student())
    shapes = {name: tuple(own["tensor_hidden"].shape) for name, own in state.items()}
    assert shapes == {"scalar": (5,), "bias": (5, 1), "weight": (5, 1, 1), "kernel": (5, 1, 1, 1, 1)}
    params = student()
    _, after = make_rule("tensor-lstm", hidden_size=5).double()(student(1), rule.init_state(params), params)
    assert all(own["tensor_hidden"].abs().min() > 0 for own in after.values())


def test_features_do_not_show_a_run_of_unknown_length_and_stay_of_order_one():
    state = {"step": torch.tensor(50.0), "tensor_first_rms": torch.tensor(0.0)}
    value = torch.zeros(3, 4)
    centres = torch.tensor(FRACTIONS)
    unknown = tensor_features(value, value, state, torch.tensor(0.0), None, centres)
    half = tensor_features(value, value, state, torch.tensor(1e9), torch.tensor(100.0), centres)
    assert unknown.shape == half.shape == (NUM_INPUTS,)
    assert not unknown[:10].any()
    assert half[3] > 0.7  # .4 of the run is over, and .6 is not.
    assert half[4] < -0.7
    for features in (unknown, half):
        assert features.abs().max() < 10


def shown_of(losses):
    """What each of some losses shows after those before it."""
    state = {"tensor_first_loss": torch.tensor(0.0), "tensor_usual_loss": torch.tensor(0.0)}
    shown = []
    for loss in losses:
        found, state = loss_features(None if loss is None else torch.tensor(loss), state, like=torch.tensor(0.0))
        shown.append(found.tolist())
    return shown


def test_losses_show_how_far_training_has_come_and_whether_it_goes_on():
    shown = shown_of([8.0, 4.0, 4.0])
    assert shown[0] == [0, 0]
    assert shown[1] == pytest.approx([math.log(0.5) / 2, math.log(0.5)])
    assert shown[2] == pytest.approx([math.log(0.5) / 2, 0.9 * math.log(0.5)])
    assert shown_of([8192.0, 4096.0, 4096.0]) == shown


@pytest.mark.parametrize("unusual", [None, 0.0, -1.0, math.nan, math.inf])
def test_a_loss_without_meaning_shows_nothing_and_is_forgotten(unusual):
    assert shown_of([unusual, 8.0, unusual, 4.0]) == [[0, 0], [0, 0], [0, 0], shown_of([8.0, 4.0])[1]]


def steps_of(rule, losses, **options):
    param = torch.nn.Parameter(torch.ones(3))
    optimizer = LearnedOptimizer([param], rule, **options)
    for loss in losses:
        param.grad = torch.tensor([1.0, -2.0, 0.5])
        optimizer.step(loss=loss)
    return param.detach()


def reading_rule(loss_features=True):
    torch.manual_seed(3)
    rule = make_rule("tensor-lstm", loss_features=loss_features)
    torch.nn.init.normal_(rule.body.readout.weight)
    return rule


def test_the_drop_in_passes_its_loss_to_a_rule_that_reads_it():
    falls, stays, unknown = [4.0, 2.0, 1.0], [4.0, 4.0, 4.0], [None, None, None]
    rule = reading_rule()
    assert not torch.equal(steps_of(rule, falls), steps_of(rule, stays))
    with pytest.warns(UserWarning, match=r"does without where it is given none; .*use optimizer.step\(loss=loss\)"):
        assert torch.equal(steps_of(rule, stays), steps_of(rule, unknown))
    assert torch.equal(steps_of(rule, falls), steps_of(rule, [torch.tensor([loss]) for loss in falls]))
    blind = reading_rule(loss_features=False)
    assert torch.equal(steps_of(blind, falls), steps_of(blind, stays))
    with pytest.raises(ValueError, match=r"loss must be one number; got shape \(2,\)"):
        steps_of(rule, [torch.ones(2)])
    for odd in ("a", torch.tensor([1j]), [1.0]):
        with pytest.raises(ValueError, match=r"loss must be a real number or a tensor of one; got .*, use e\.g\."):
            steps_of(rule, [odd])


def test_a_part_that_reads_losses_is_given_them():
    rule = make_rule("composed", parts=[{"rule": reading_rule(), "min_dim": 1}, {"rule": "sgd:lr=0.1"}])
    assert rule.reads_loss
    assert not torch.equal(steps_of(rule, [4.0, 2.0, 1.0]), steps_of(rule, [4.0, 4.0, 4.0]))
    assert not make_rule("composed").reads_loss


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "tensor-lstm"}, "the rule below a tensor-lstm must be another one; got 'tensor-lstm'"),
        ({"rule": make_rule("mlp"), "config": {}}, "config must be of one that is named; got {} beside a rule"),
        ({"rule": "nonsense"}, "a rule must be a registered name; got 'nonsense'"),
        ({"rule": None}, "must be named by a text; got None"),
        ({"rule": "mlp", "config": [4]}, r"a part's config must be a dict of options; got \[4\]"),
        ({"rule": "mlp", "config": {"hidden_size": 0}}, "hidden_size must be a positive integer; got 0"),
    ],
)
def test_what_is_no_part_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_rule("tensor-lstm", **options)
