"""Watching a run: going back where it diverges, and losses on a device that are looked at together."""

import copy
import io
import math
import warnings

import pytest
import torch
from torch import nn

from l2l_opt import LearnedOptimizer
from l2l_opt.optimizer import watch
from l2l_opt.optimizer.fallback import PATIENCE
from tests.conftest import small_rule

pytestmark = pytest.mark.slow


def make(params, *, lr=1.0, rule="sgd:lr=0.1", **options):
    name, _, rest = rule.partition(":lr=")
    return LearnedOptimizer(params, small_rule(name, **({"lr": float(rest)} if rest else {})), lr=lr, **options)


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


@pytest.mark.filterwarnings("ignore:training with the rule")
@pytest.mark.parametrize("rule", ["default-1", "default-3"])
def test_a_run_of_fifty_steps_at_far_too_high_a_rate_is_rescued(rule):
    param = nn.Parameter(torch.zeros(5))
    optimizer = LearnedOptimizer([param], rule, lr=1e5, guard="fallback")
    losses = quadratic(optimizer, param, 50)
    assert max(losses) > 100 * losses[0]
    assert losses[-1] < losses[0]


@pytest.fixture
def on_a_device(monkeypatch):
    """Losses are looked at as those on a GPU are."""
    monkeypatch.setattr(watch, "HOSTS", set())


@pytest.mark.filterwarnings("ignore:training with the rule")
def test_losses_on_a_device_are_looked_at_together(on_a_device, monkeypatch):
    looks = []
    look = watch.Watch._look
    monkeypatch.setattr(watch.Watch, "_look", lambda self, *args: looks.append(len(self._unread)) or look(self, *args))
    param = nn.Parameter(torch.zeros(5))
    optimizer = make([param], rule="adam:lr=0.01", guard="fallback")
    quadratic(optimizer, param, 95)
    assert looks == [watch.READ_EVERY] * 9
    assert len(optimizer.state_dict()["param_groups"][0]["unread"]) == 5
    kept = optimizer.state_dict()["param_groups"][0]["watch"]
    assert (kept["num_losses"], len(kept["sizes"])) == (90, 9)


@pytest.mark.filterwarnings("ignore:training with the rule")
def test_what_diverges_on_a_device_is_caught_and_ends_well(on_a_device):
    param = nn.Parameter(torch.zeros(5))
    optimizer = make([param], lr=100.0, guard="fallback")
    losses = quadratic(optimizer, param, 1500)
    assert optimizer.param_groups[0]["watch"]["rate"] is not None
    assert losses[-1] < 1e-5


def test_what_is_kept_on_a_device_are_the_parameters_of_the_loss(on_a_device):
    param = nn.Parameter(torch.zeros(4))
    optimizer = make([param], rule="adam:lr=0.01", guard="fallback")
    seen = []
    for _ in range(2 * PATIENCE):
        param.grad = param.detach() - 0.5
        seen.append(param.detach().clone())
        optimizer.step(loss=(param.detach() - 0.5).square().sum())
    (own,) = optimizer.state.values()
    at = optimizer.state_dict()["param_groups"][0]["watch"]["snapshot_at"]
    assert at == 2 * PATIENCE
    torch.testing.assert_close(own["fallback"][0], seen[at - 1], rtol=0, atol=0)
    # The first of ten bad losses is what a warning names; all are looked at when the last comes.
    for step in range(watch.READ_EVERY - 1):
        optimizer.step(loss=torch.tensor(math.nan if step > 3 else 0.1))
    with pytest.warns(UserWarning, match=rf"diverged at its step {at + 5} \(loss nan\).* step {at} again"):
        optimizer.step(loss=torch.tensor(0.1))
    assert torch.equal(param, seen[at - 1])


def test_a_loss_that_is_written_to_again_is_still_what_it_was(on_a_device):
    param = nn.Parameter(torch.ones(2))
    optimizer = make([param], guard="fallback")
    loss = torch.zeros(())
    for step in range(4):
        param.grad = torch.zeros(2)
        optimizer.step(loss=loss.fill_(step))
    assert optimizer.state_dict()["param_groups"][0]["unread"] == [0, 1, 2, 3]


@pytest.mark.filterwarnings("ignore:training with the rule")
@pytest.mark.parametrize("steps", [43, 49, 50])
@pytest.mark.parametrize("lr", [1.0, 100.0])
def test_a_run_that_is_saved_between_looks_goes_on_alike(on_a_device, steps, lr):
    param = nn.Parameter(torch.zeros(5))
    optimizer = make([param], lr=lr, guard="fallback")
    quadratic(optimizer, param, steps)
    other = nn.Parameter(param.detach().clone())
    again = make([other], guard="fallback")
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert quadratic(optimizer, param, 150) == quadratic(again, other, 150)
    assert optimizer.state_dict()["param_groups"][0]["watch"] == again.state_dict()["param_groups"][0]["watch"]


@pytest.mark.parametrize("lost", [("unread",), ("watch", "far")])
def test_what_an_earlier_release_did_not_keep_is_as_at_first(lost):
    param = nn.Parameter(torch.zeros(5))
    optimizer = make([param], guard="fallback")
    quadratic(optimizer, param, 5)
    saved = copy.deepcopy(optimizer.state_dict())
    for group in saved["param_groups"]:
        for key in lost[:-1]:
            group = group[key]
        del group[lost[-1]]
    again = make([nn.Parameter(param.detach().clone())], guard="fallback")
    again.load_state_dict(saved)
    assert again.param_groups[0]["unread"] == []
    watched = again.state_dict()["param_groups"][0]["watch"]
    assert (watched["far"], watched["num_losses"]) == (0, 5)


def test_a_captured_step_is_not_watched(monkeypatch):
    monkeypatch.setattr("l2l_opt.kernels.triton.is_captured", lambda device: True)
    param = nn.Parameter(torch.zeros(2))
    with pytest.raises(RuntimeError, match="use guard='skip'"):
        make([param], guard="fallback").step(loss=1.0)


@pytest.mark.filterwarnings("ignore:training with the rule", "ignore:lr multiplies")
@pytest.mark.parametrize("device", [False, True])
@pytest.mark.parametrize(("at", "good"), [(0, False), (30, True)])
def test_adams_rate_follows_a_schedule(device, at, good, monkeypatch):
    """Warm-up from a thousandth: what Adam takes at its end is what suits it there, and not a thousand times that."""
    if device:
        monkeypatch.setattr(watch, "HOSTS", set())
    param = nn.Parameter(torch.zeros(4))
    optimizer = make([param], lr=0.5, guard="fallback")
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((1 + step) / 1000, 1.0))
    for step in range(1000):
        param.grad = torch.ones(4)
        optimizer.step(loss=torch.tensor(math.nan if step == at else 2.0 - step / 1000))
        schedule.step()
    rate = optimizer.state_dict()["param_groups"][0]["watch"]["rate"]
    # The rule, SGD at .1, moves by .1 of lr.
    assert rate == pytest.approx(0.1 if good else 1e-3 / 0.5, rel=1e-3)


@pytest.mark.filterwarnings("ignore:training with the rule")
def test_groups_of_other_lrs_are_measured_alike():
    a, b = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4))
    optimizer = make([{"params": [a], "lr": 2.0}, {"params": [b], "lr": 0.0}], guard="fallback")
    for loss in (1.0, 0.9, 0.8, math.nan):
        a.grad = b.grad = torch.ones(4)
        optimizer.step(loss=loss)
    assert optimizer.param_groups[0]["watch"]["rate"] == pytest.approx(0.1)


@pytest.mark.filterwarnings("ignore:training with the rule")
def test_parameters_that_begin_after_adam_did_take_its_first_steps():
    early, late = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
    optimizer = make([early, late], guard="fallback")
    early.grad = torch.ones(3)
    optimizer.step(loss=1.0)
    optimizer.step(loss=math.nan)
    for _ in range(50):
        optimizer.step(loss=1.0)
    rate = optimizer.param_groups[0]["watch"]["rate"]
    late.grad = torch.full((3,), -0.1)
    for step in range(1, 5):
        optimizer.step(loss=1.0)
        torch.testing.assert_close(late.detach(), torch.full((3,), step * rate), rtol=1e-3, atol=0)


def test_a_loss_may_be_any_number():
    param = nn.Parameter(torch.zeros(2))
    optimizer = make([param], guard="fallback")
    for loss in (3, 2.5, 10**30, True, torch.tensor(1), torch.tensor([0.5], dtype=torch.float64)):
        param.grad = torch.zeros(2)
        optimizer.step(loss=loss)
    assert optimizer.param_groups[0]["watch"]["num_losses"] == 6
