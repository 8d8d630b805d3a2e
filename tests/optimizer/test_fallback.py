"""What decides that training diverges."""

import math

import pytest
import torch

from l2l_opt.optimizer.fallback import PATIENCE, RATE_WITHOUT_GOOD_STEPS, Fallback

pytestmark = pytest.mark.slow


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
    fallback.fall_back(4.0)
    assert fallback.rate == pytest.approx(0.01)
    fallback.fall_back(4.0)
    assert fallback.rate == pytest.approx(0.001)


@pytest.mark.parametrize("sizes", [[], [0.0, 0.0, 1.0]])
def test_without_a_size_the_rate_is_adams_own_at_the_usual_lr(sizes):
    for usual_lr, rate in ((4.0, RATE_WITHOUT_GOOD_STEPS / 4), (0.0, RATE_WITHOUT_GOOD_STEPS)):
        never_good = Fallback(sizes=[*sizes])
        never_good.fall_back(usual_lr)
        assert never_good.rate == pytest.approx(rate)


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
