"""One student's training run under one optimizer, in a plain loop, with everything of it watched."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from l2l_opt.inner_loop.fresh_student import fresh_student
from l2l_opt.inner_loop.training import final_losses
from l2l_opt.inspection.measures.step_sizes import StepSizes
from l2l_opt.inspection.measures.trace import CoordinateTrace, CoordinateTracer
from l2l_opt.inspection.tensorboard.monitor import UnrollMonitor
from l2l_opt.optimizer.learned_optimizer import LearnedOptimizer
from l2l_opt.randomness import Stream
from l2l_opt.rules.base import UpdateRule
from l2l_opt.tasks.mixture import Tasks


@dataclass(frozen=True)
class WatchedRun:
    """What one optimizer made of the student.

    Attributes:
        optimizer: its name.
        losses: one a step, before it.
        trace: some coordinates, step by step.
        step_sizes: kind of tensor -> root mean square of its updates at each step.
    """

    optimizer: str
    losses: list[float]
    trace: CoordinateTrace
    step_sizes: dict[str, list[float]]

    @property
    def final_loss(self) -> float:
        """The mean of the last 10 % of the steps, at least 10."""
        return float(final_losses(torch.tensor(self.losses, dtype=torch.float64)))


def watch(
    name: str,
    rule: UpdateRule,
    tasks: Tasks,
    *,
    horizon: int,
    seed: int,
    writer: SummaryWriter | None = None,
    **monitoring: Any,
) -> WatchedRun:
    """Train the first student that evaluations report on, with a rule as a drop-in optimizer.

    Student and batches depend on the seed alone, so they are the same for every rule.

    Args:
        name: of the optimizer, for charts.
        rule: learned or hand-designed.
        tasks: where the student comes from.
        horizon: steps, which the rule is given.
        seed: of the student.
        writer: for an ``UnrollMonitor``; None where no events are wanted.
        monitoring: its options.
    """
    student = fresh_student(tasks, seed=seed, stream=Stream.REPORTING)
    params = student.parameters()
    optimizer = LearnedOptimizer(params.items(), rule, num_steps=horizon)
    watchers = tracer, sizes = CoordinateTracer(optimizer), StepSizes(optimizer)
    monitor = None if writer is None else UnrollMonitor(optimizer, writer, **monitoring)
    losses = []
    for _ in range(horizon):
        loss = student.loss(params, student.batch())
        losses.append(loss.detach())
        if monitor is not None:
            monitor.log_loss(losses[-1])
        optimizer.zero_grad()
        loss.backward()
        for watcher in watchers:
            watcher.before_step()
        optimizer.step()
        for watcher in watchers:
            watcher.after_step()
    if monitor is not None:
        monitor.detach()
    return WatchedRun(name, torch.stack(losses).double().tolist(), tracer.trace(), sizes.sizes())
