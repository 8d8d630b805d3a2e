"""What a step costs: bytes as they are, seconds in proportion to what is to be stepped, errors."""

import pytest
import torch

from l2l_opt import LearnedOptimizer
from l2l_opt.optimizer import cost
from tests.conftest import small_rule


def made(shapes, dtype=torch.float32):
    params = [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]
    for p in params:
        p.grad = torch.randn_like(p)
    return params


@pytest.mark.parametrize("options", [{}, {"state_dtype": torch.bfloat16}, {"guard": "fallback"}])
def test_bytes_are_those_of_the_state(options):
    params = made([(20, 30), (5,), ()])
    optimizer = LearnedOptimizer(params, small_rule("scale-free:recurrent=True"), **options)
    ours, adamw, muon = optimizer.cost()
    optimizer.step()
    assert ours.state_bytes == sum(value.nbytes for p in params for value in optimizer.state[p].values())
    fused = torch.optim.AdamW(params, fused=True)
    fused.step()
    assert adamw.state_bytes == sum(value.nbytes for p in params for value in fused.state[p].values())
    assert muon.state_bytes == 4 * 600 + 8 * 6 + 4 * 2
    assert all(own.seconds > 0 for own in (ours, adamw, muon))


def test_measuring_leaves_the_optimizer_and_randomness_as_they_are():
    params = made([(8, 6)])
    optimizer = LearnedOptimizer(params, small_rule("scale-free"))
    before, state = params[0].detach().clone(), torch.random.get_rng_state()
    optimizer.cost()
    assert torch.equal(params[0].detach(), before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not optimizer.state


def counting(per_tensor, per_unit):
    """An optimizer whose clock runs by what its tensors should take."""

    def make(params):
        def step():
            counting.now += 1e-6
            for p in params:
                sides = sorted((p.shape[0], p.numel() // p.shape[0])) if p.dim() > 1 else (1, p.numel())
                counting.now += per_tensor(sides[0]) + per_unit(sides[0]) * sides[1]

        return step

    return make


def test_seconds_are_linear_in_the_longer_side(monkeypatch):
    """Of an optimizer that is so to the letter, beyond what is measured too."""
    counting.now = 0.0
    monkeypatch.setattr(cost.time, "thread_time", lambda: counting.now)
    monkeypatch.setattr(cost.time, "perf_counter", lambda: counting.now)
    make = counting(lambda side: 1e-9 * side**3, lambda side: 1e-8 * side + 1e-9 * side**2)
    params = [torch.empty(shape) for shape in [(30, 70), (64, 8, 3, 3), (64, 100), (5,), (2000, 1500)]]
    counted = counting.now
    make(params)()
    expected, counting.now = counting.now - counted, 0.0
    assert cost.predicted_seconds(make, params) == pytest.approx(expected, rel=0.02)


def test_nothing_to_step_takes_no_time():
    assert cost.predicted_seconds(cost.adamw, []) == 0.0


def test_parameters_elsewhere_are_refused():
    optimizer = LearnedOptimizer([torch.nn.Parameter(torch.empty(3, device="meta"))], small_rule("scale-free"))
    with pytest.raises(ValueError, match="must be given parameters on the CPU; got some on meta"):
        optimizer.cost()
