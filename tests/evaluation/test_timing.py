"""Seconds a step: both loops really train, and a slow rule is distinguished from a fast one."""

import time

import torch

from l2l_opt.evaluation import timing
from l2l_opt.rules import make_rule
from l2l_opt.rules.hand_designed import SGD
from tests.conftest import small_family


class Slow(SGD):
    """Sleeps 30 ms a step: more than any other takes on a slow or busy machine."""

    def forward(self, *arguments, **keywords):
        time.sleep(0.03)
        return super().forward(*arguments, **keywords)


def test_a_slow_rule_takes_longer(monkeypatch):
    monkeypatch.setattr(timing, "BLOCK_SECONDS", 0.002)
    family = small_family(torch.float32)
    fast = timing.seconds_per_step(make_rule("sgd", lr=0.01), family, horizon=10, seed=0)
    slow = timing.seconds_per_step(Slow(lr=0.01), family, horizon=10, seed=0)
    assert fast.keys() == {"learned", "adamw", "adamw_kind"}
    assert fast["adamw_kind"] in ("foreach", "fused")
    assert 0 < fast["adamw"] < 0.03
    assert slow["learned"] > 0.03 > fast["learned"]


def test_loops_go_on_where_they_stopped():
    steps = []

    class Counting(torch.optim.SGD):
        def step(self, closure=None):
            steps.append([p.detach().clone() for group in self.param_groups for p in group["params"]])
            return super().step(closure)

    loop = timing._loop(lambda params: Counting(params, lr=0.01), small_family(), 0)
    assert loop(3) > 0
    assert loop(4) > 0
    assert len(steps) == 7
    assert not torch.equal(steps[0][0], steps[-1][0])
