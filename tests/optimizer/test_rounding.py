"""Averages in bfloat16: right in expectation, by random bits that are always the same."""

import pytest
import torch

from l2l_opt import LearnedOptimizer
from l2l_opt.optimizer.rounding import rounded_at_random
from tests.conftest import small_rule


def rounded(value, step=1, first=0):
    index = torch.arange(first, first + value.numel()).reshape(value.shape)
    return rounded_at_random(value, torch.tensor(float(step)), index)


def neighbours(value):
    """The numbers of bfloat16 below and above, by magnitude."""
    bits = value.view(torch.int32) & ~0xFFFF
    return bits.view(torch.float32), (bits + 0x10000).view(torch.float32)


@pytest.mark.parametrize("over", ["coordinates", "steps"])
@pytest.mark.parametrize("exact", [0.3, -1.2345, 1e-20, 3e30, 1 + 2.0**-9])
def test_the_mean_of_many_is_the_number_itself(over, exact):
    """Over coordinates of one step and over steps of one coordinate, within four standard errors."""
    number = 20_000
    value = torch.full((number,), exact)
    if over == "coordinates":
        found = rounded(value)
    else:
        found = torch.stack([rounded(value[:1], step, first=77) for step in range(1, 2001)]).flatten()
    below, above = (bound[0].double() for bound in neighbours(value))
    share = (value[0].double() - below) / (above - below)
    up = found.double() == above
    assert ((found.double() == below) | up).all()
    error = (share * (1 - share) / found.numel()).sqrt()
    assert error > 0
    assert (up.double().mean() - share).abs() < 4 * error


def test_random_bits_of_steps_and_places_do_not_go_together():
    """What one number is rounded to tells nothing of the next one's, the next row's or the next step's."""
    value = torch.full((20_000,), 1 + 2.0**-8)  # half way
    up = [(rounded(value, step, first) > 1).double() * 2 - 1 for step, first in ((1, 0), (2, 0), (1, 20_000), (3, 0))]
    up.append(up[0].roll(1))
    up.append(up[0].roll(64))
    correlations = torch.stack(up) @ torch.stack(up).T / len(value)
    assert (correlations - torch.eye(len(up))).abs().max() < 4 / len(value) ** 0.5


def test_what_bfloat16_holds_stays_and_what_it_cannot_hold_is_cut():
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    finite = every[torch.isfinite(every)]
    for step in (1, 2, 3):
        assert torch.equal(rounded(finite.float(), step), finite)
    most = torch.finfo(torch.bfloat16).max
    beyond = torch.tensor([3.4e38, -3.4e38, torch.inf, -torch.inf, torch.nan])
    found = rounded(beyond)
    assert found[:4].tolist() == [most, -most, torch.inf, -torch.inf]
    assert found[4].isnan()


@pytest.mark.parametrize("name", ["scale-free", "compact"])
def test_a_slow_average_gains_what_rounding_to_nearest_would_lose(name):
    """Gradients of one square for long: decay .99 goes on by less than half of what bfloat16 can tell apart."""
    param = torch.nn.Parameter(torch.zeros(4000))
    optimizer = LearnedOptimizer([param], small_rule(name), state_dtype=torch.bfloat16)
    nearest, exact = torch.zeros((), dtype=torch.bfloat16), 0.0
    for _ in range(400):
        param.grad = torch.ones(4000)
        optimizer.step()
        nearest = (0.99 * nearest.float() + 0.01).to(torch.bfloat16)
        exact = 0.99 * exact + 0.01
    square = optimizer.state[param]["square_average"]
    assert square.dtype == torch.bfloat16
    mean, error = square.double().mean(), square.double().std() / 4000**0.5
    assert abs(mean - exact) < 4 * error
    assert error < 2e-4
    assert exact - float(nearest) > 0.1


@pytest.mark.parametrize("purely", [False, True])
def test_a_run_is_the_same_every_time_and_two_tensors_of_a_shape_alike(purely):
    def run():
        torch.manual_seed(0)
        rule = small_rule("scale-free")
        if purely:
            rule.compiled_step = lambda: None
        params = [torch.nn.Parameter(torch.linspace(-1, 1, 300)) for _ in range(2)]
        optimizer = LearnedOptimizer(params, rule, state_dtype=torch.bfloat16)
        for step in range(5):
            for p in params:
                p.grad = torch.randn(300, generator=torch.Generator().manual_seed(step))
            optimizer.step()
        return [p.detach() for p in params] + [optimizer.state[p]["averages"] for p in params]

    first, second = run(), run()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(first[0], first[1])
