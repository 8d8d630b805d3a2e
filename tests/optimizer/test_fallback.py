"""The fallback that notices divergence and goes back."""

import copy
import io
import math
import warnings

import pytest
import torch
from torch import nn

from l2l_opt import LearnedOptimizer
from l2l_opt.optimizer.fallback import PATIENCE, RATE_WITHOUT_GOOD_STEPS, Fallback
from tests.conftest import small_rule

pytestmark = pytest.mark.slow


def make(params, *, lr=1.0, rule="sgd:lr=0.1", **options):
    name, _, rest = rule.partition(":lr=")
    return LearnedOptimizer(params, small_rule(name, **({"lr": float(rest)} if rest else {})), lr=lr, **options)


def observe(fallback, losses):
    return [fallback.observe(loss) for loss in losses]


def test_a_falling_loss_is_no_divergence_and_its_best_is_kept():
    verdicts = observe(Fallback(), [2 - step / 400 for step in range(400)])
    assert "diverged" not in verdicts
    assert [index for index, verdict in enumerate(verdicts) if verdict == "best"] == list(range(0, 400, PATIENCE))


@pytest.mark.parametrize(("level", "diverges"), [(1.45, False), (1.55, True)])
def test_half_of_what_was_gained_is_the_line(level, diverges):
    fallback = Fallback()
    observe(fallback, [2.0, *([1.0] * 100)])
    verdicts = observe(fallback, [level] * 150)
    assert ("diverged" in verdicts) == diverges
    if diverges:
        # The average has to come up first.
        assert PATIENCE <= verdicts.index("diverged") < 2.5 * PATIENCE


def test_a_few_bad_batches_are_forgiven():
    fallback = Fallback()
    losses = [2.0, *([1.0] * 50)] + [1e9 if step % 25 == 0 else 1.0 for step in range(300)]
    assert "diverged" not in observe(fallback, losses)


def test_noise_around_a_loss_that_never_falls_is_no_divergence():
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(2000, generator=generator)
        assert "diverged" not in observe(Fallback(), (2.3 + 0.04 * noise).tolist()), seed


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_divergence(loss):
    fallback = Fallback()
    observe(fallback, [2.0, 1.0])
    assert fallback.observe(loss) == "diverged"


def test_the_rate_is_the_median_size_of_good_updates():
    fallback = Fallback()
    for step in range(200):
        fallback.observe(2 - step / 200)
        fallback.pending = 0.01 if step % 3 else 0.5
    for _ in range(20):
        fallback.observe(50.0)
        fallback.pending = 9.0
    assert max(fallback.sizes) == 0.5
    fallback.fall_back(lr=4.0)
    assert fallback.rate == pytest.approx(0.01 / 4)
    fallback.fall_back(lr=4.0)
    assert fallback.rate == pytest.approx(0.001 / 4)
    never_good = Fallback()
    never_good.fall_back(lr=4.0)
    assert never_good.rate == pytest.approx(RATE_WITHOUT_GOOD_STEPS / 4)


def quadratic(optimizer, param, num_steps, *, closure=False):
    """Minimises the distance to 0.3; the losses."""
    losses = []

    def loss_fn():
        optimizer.zero_grad()
        loss = (param - 0.3).square().mean()
        loss.backward()
        losses.append(loss.item())
        return loss

    for _ in range(num_steps):
        if closure:
            optimizer.step(loss_fn)
        else:
            loss = loss_fn()
            optimizer.step(loss=loss)
    return losses


@pytest.mark.parametrize("closure", [False, True])
def test_a_diverging_run_is_caught_and_ends_well(closure):
    """SGD at far too high a rate, which on its own ends at infinity."""
    alone = nn.Parameter(torch.zeros(5))
    quadratic(make([alone], lr=100.0), alone, 300, closure=closure)
    assert not torch.isfinite(alone).all() or alone.abs().max() > 1e9
    param = nn.Parameter(torch.zeros(5))
    optimizer = make([param], lr=100.0, guard="fallback")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        losses = quadratic(optimizer, param, 1500, closure=closure)
    (warning,) = [w for w in caught if "diverged" in str(w.message)]
    assert "Adam goes on at a rate of 0.001" in str(warning.message)
    assert warning.filename == __file__
    assert losses[-1] < 1e-5
    assert float(optimizer.state[param]["step"]) > 1200


def test_a_rule_that_does_well_is_left_alone():
    runs = []
    for guard in ("skip", "fallback"):
        param = nn.Parameter(torch.zeros(5))
        runs.append(quadratic(make([param], rule="adam:lr=0.01", guard=guard), param, 200))
    assert runs[0] == runs[1]


def test_it_goes_back_to_the_best_parameters_and_matches_the_rules_updates():
    param = nn.Parameter(torch.zeros(64))
    optimizer = make([param], guard="fallback")
    quadratic(optimizer, param, PATIENCE + 1)
    best = param.detach().clone()
    param.grad = torch.full((64,), 0.3)
    optimizer.step(loss=1e-4)
    with pytest.warns(UserWarning, match=r"'sgd' diverged at its step 53 \(loss nan\).* step 51 again"):
        optimizer.step(loss=torch.tensor(math.nan))
    # The snapshot is of the last best loss at least 50 steps after the one before.
    assert (param - best).abs().max() < 0.1
    assert float(optimizer.state[param]["step"]) == PATIENCE + 2
    rate = optimizer.param_groups[0]["watch"]["rate"]
    before = param.detach().clone()
    param.grad = torch.ones(64)
    optimizer.step(loss=1.0)
    torch.testing.assert_close(before - param.detach(), torch.full((64,), rate), rtol=1e-3, atol=1e-6)


def test_maximize_watches_for_a_fall():
    param = nn.Parameter(torch.zeros(2))
    optimizer = make([param], maximize=True, guard="fallback")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(200):
            param.grad = torch.ones(2)
            optimizer.step(loss=float(step))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(100):
            optimizer.step(loss=10.0)
    assert len(caught) == 1


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("how", ["state_dict", "deepcopy"])
def test_all_of_it_survives(how, when):
    param = nn.Parameter(torch.zeros(5))
    optimizer = make([param], lr=100.0 if when == "after" else 1.0, guard="fallback")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quadratic(optimizer, param, 150)
        assert (optimizer.param_groups[0]["watch"]["rate"] is not None) == (when == "after")
        if how == "deepcopy":
            other, again = copy.deepcopy((param, optimizer))
        else:
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            file.seek(0)
            other = nn.Parameter(param.detach().clone())
            again = make([other], guard="fallback")
            again.load_state_dict(torch.load(file, weights_only=True))
        assert quadratic(optimizer, param, 150) == quadratic(again, other, 150)
    assert torch.equal(param, other)
    assert optimizer.param_groups[0]["watch"] == again.param_groups[0]["watch"]


def test_a_state_saved_without_the_fallback_begins_one():
    param = nn.Parameter(torch.zeros(5))
    optimizer = make([param])
    quadratic(optimizer, param, 3)
    again = make([param], guard="fallback")
    again.load_state_dict(optimizer.state_dict())
    quadratic(again, param, 3)
    assert again.param_groups[0]["watch"]["num_losses"] == 3
    assert again.state[param]["fallback"].shape == (3, 5)


def test_without_a_loss_it_is_the_other_guard():
    param = nn.Parameter(torch.zeros(2))
    optimizer = make([param], guard="fallback")
    param.grad = torch.tensor([1.0, math.nan])
    assert optimizer.step() is None
    assert torch.equal(param, torch.zeros(2))
    assert int(optimizer.state[param]["skipped"]) == 1


@pytest.mark.filterwarnings("ignore:training with the rule")
def test_adam_skips_what_is_not_finite():
    bad, good = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    optimizer = make([bad, good], guard="fallback")
    for p in (bad, good):
        p.grad = torch.ones(2)
    optimizer.step(loss=1.0)
    optimizer.step(loss=math.nan)
    bad.grad = torch.tensor([1.0, math.inf])
    before = [p.detach().clone() for p in (bad, good)]
    optimizer.step(loss=1.0)
    assert torch.equal(bad, before[0])
    assert not torch.equal(good, before[1])
    assert int(optimizer.state[bad]["skipped"]) == 1


def test_a_loss_of_several_numbers_is_named():
    param = nn.Parameter(torch.zeros(2))
    with pytest.raises(ValueError, match=r"loss must be one number; got shape \(2,\)"):
        make([param], guard="fallback").step(loss=torch.ones(2))


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1.0, -30.0), (30.0, 0.01), (1e-3, -5e-4)])
def test_noise_around_zero_and_below_is_no_divergence_and_a_rise_is(scale, shift):
    falling, rising = torch.linspace(0.1, -2, 1000), torch.full((300,), 1.5)
    wrong = 0
    for seed in range(20):
        noise = torch.randn(1300, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        losses = (scale * (torch.cat([falling, rising]) + 0.3 * noise) + shift).tolist()
        verdicts = observe(Fallback(), losses)
        wrong += "diverged" in verdicts[:1000]
        assert "diverged" in verdicts[1000:]
    assert wrong <= 1


@pytest.mark.parametrize(
    ("share", "within"), [(1.0, 20), (0.5, 100)], ids=["at once and for good", "half of the losses, by chance"]
)
@pytest.mark.parametrize(("first", "far"), [(2.3, 1e7), (-5.0, 100.0), (0.7, 10.0)])
def test_losses_far_out_are_divergence_however_much_they_leap(share, within, first, far):
    generator = torch.Generator().manual_seed(0)
    losses = [first, *torch.where(torch.rand(300, generator=generator) < share, far, first).tolist()]
    assert "diverged" in observe(Fallback(), losses)[:within]


@pytest.mark.parametrize("first", [0.0, 1e-6, 0.01, 0.3])
def test_a_first_loss_near_zero_is_no_measure_of_what_is_far(first):
    for seed in range(20):
        noise = torch.randn(1000, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert "diverged" not in observe(Fallback(), [first, *(first + 0.3 * noise).tolist()]), seed


@pytest.mark.filterwarnings("ignore:training with the rule")
@pytest.mark.parametrize("rule", ["default-1", "default-3"])
def test_a_run_of_fifty_steps_at_far_too_high_a_rate_is_rescued(rule):
    param = nn.Parameter(torch.zeros(5))
    optimizer = LearnedOptimizer([param], rule, lr=1e5, guard="fallback")
    losses = quadratic(optimizer, param, 50)
    assert max(losses) > 100 * losses[0]
    assert losses[-1] < losses[0]
