"""Seconds a training step, forward and backward included: LearnedOptimizer beside the fastest torch.optim.AdamW."""

import itertools
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from l2l_opt.inner_loop.fresh_student import fresh_student
from l2l_opt.optimizer.learned_optimizer import LearnedOptimizer
from l2l_opt.randomness import Stream
from l2l_opt.rules.base import UpdateRule
from l2l_opt.tasks.mixture import Tasks

BLOCKS = 7
BLOCK_SECONDS = 0.05
NUM_BATCHES = 16


def seconds_per_step(
    rule: UpdateRule, tasks: Tasks, *, horizon: int, seed: int, blocks: int = BLOCKS
) -> dict[str, float | str]:
    """Time a plain training loop of the first reporting student under a rule and under AdamW.

    The loops are interleaved block by block in this process, on torch's present number of threads, and a time is the
    median of its blocks; AdamW is the faster of ``foreach`` and ``fused``.

    Args:
        rule: run by ``LearnedOptimizer``.
        tasks: where the student comes from.
        horizon: planned steps, given to the rule.
        seed: of the student.
        blocks: timed blocks of each loop, of ``BLOCK_SECONDS`` at least.

    Returns:
        ``learned`` and ``adamw``, seconds a step, and ``adamw_kind``.
    """
    loops = {
        "learned": _loop(lambda p: LearnedOptimizer(p, rule, num_steps=horizon), tasks, seed),
        "foreach": _loop(lambda p: torch.optim.AdamW(p, lr=1e-3, foreach=True), tasks, seed),
        "fused": _loop(lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True), tasks, seed),
    }
    times: dict[str, list[float]] = {name: [] for name in loops}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # longer than it was meta-trained for: only its speed is looked at
        lengths = {name: _block_length(loop) for name, loop in loops.items()}
        for _ in range(blocks):
            for name, loop in loops.items():
                times[name].append(loop(lengths[name]) / lengths[name])
    medians = {name: float(np.median(values)) for name, values in times.items()}
    kind = min(("foreach", "fused"), key=lambda name: medians[name])
    return {"learned": medians["learned"], "adamw": medians[kind], "adamw_kind": kind}


def _block_length(loop: Callable[[int], float]) -> int:
    loop(3)
    return max(5, round(5 * BLOCK_SECONDS / max(loop(5), 1e-6)))


def _loop(
    make: Callable[[list[tuple[str, nn.Parameter]]], torch.optim.Optimizer], tasks: Tasks, seed: int
) -> Callable[[int], float]:
    """Return a training loop that goes on where it stopped: steps -> seconds."""
    student = fresh_student(tasks, seed=seed, stream=Stream.REPORTING)
    params = student.parameters()
    batches = itertools.cycle([student.batch() for _ in range(NUM_BATCHES)])
    optimizer = make(list(params.items()))

    def run(steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad()
            student.loss(params, next(batches)).backward()
            optimizer.step()
        return time.perf_counter() - start

    return run
