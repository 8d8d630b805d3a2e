"""Whole trainings: students taken from fresh params to their horizon, without a graph."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from l2l_opt.inner_loop.horizon import Horizon
from l2l_opt.inner_loop.students import Students
from l2l_opt.inner_loop.unroll import unroll
from l2l_opt.randomness import Stream
from l2l_opt.rules.base import UpdateRule
from l2l_opt.tasks.base import Split
from l2l_opt.tasks.mixture import Tasks


def train(
    students: Students,
    *,
    phi: Mapping[str, Tensor] | None = None,
    planned_steps: int | Literal["horizon"] | None = "horizon",
    window_length: int = 50,
) -> Tensor:
    """Take fresh students to their horizon, without a graph; they are left where their last step has taken them.

    Args:
        students: of one horizon.
        phi: their rule's weights, shared or one set a student; the rule's own where None.
        planned_steps: the number of steps that the rule is given; None means that the number is unknown.
        window_length: inner steps whose batches are held in memory at once.

    Returns:
        ``[horizon, S]``, the loss before each step, on the split of the students' ``loss_on``, on the CPU.
    """
    rule, first = students.rule, students.members[0]
    device, horizon = first.initial_losses.device, first.horizon
    rule.to(device)
    shapes = {name: weight.shape for name, weight in rule.named_parameters()}
    phi = None if phi is None else {name: weight.to(device) for name, weight in phi.items()}
    curves = torch.empty(horizon, len(students), dtype=first.initial_losses.dtype)
    with torch.no_grad():
        for start in range(0, horizon, window_length):
            for window in students.windows(min(window_length, horizon - start)):
                own_phi = phi and {
                    name: weight if weight.shape == shapes[name] else weight[window.indices]
                    for name, weight in phi.items()
                }
                known = planned = window.inner.num_steps
                if planned_steps != "horizon":
                    count = len(window.indices)
                    planned = (
                        None if planned_steps is None else torch.full((count,), float(planned_steps), device=device)
                    )
                inner = replace(window.inner, num_steps=planned)
                inner, losses = unroll(
                    rule,
                    window.family,
                    window.data,
                    inner,
                    window.batches,
                    phi=own_phi,
                    loss_batches=window.loss_batches,
                )
                students.advance(window, replace(inner, num_steps=known), losses)
                curves[start : start + losses.shape[0] - 1, window.indices] = losses[:-1].cpu()
    return curves


def training_losses(
    rule: UpdateRule,
    tasks: Tasks,
    *,
    numbers: Sequence[int],
    horizon: int,
    seed: int,
    stream: Stream,
    phi: Mapping[str, Tensor] | None = None,
    group_size: int | None = None,
    window_length: int = 50,
    loss_on: Split = "train",
) -> Tensor:
    """Train students through one whole inner run, without a graph.

    Args:
        rule: that updates students.
        tasks: where the students come from.
        numbers: the students' numbers; a number may come twice, for two rules on the very same student and batches.
        horizon: inner steps.
        seed: of the students.
        stream: what they are for.
        phi: the rule's weights, shared or one set a student; the rule's own where None.
        group_size: students that share an architecture; 1 for a single family and all for a mixture where None.
        window_length: inner steps whose batches are held in memory at once.
        loss_on: the split whose losses are returned; students are trained on training batches whatever it is.

    Returns:
        ``[horizon, S]``, the loss before each step, on the CPU.
    """
    students = Students(
        rule,
        tasks,
        numbers=numbers,
        horizon=Horizon(horizon, horizon),
        seed=seed,
        stream=stream,
        group_size=group_size,
        loss_on=loss_on,
    )
    return train(students, phi=phi, window_length=window_length)


def tail_length(horizon: int) -> int:
    """Return steps that a final loss is the mean of: 10 %, at least 10, and no more than there are."""
    return min(max(10, horizon // 10), horizon)


def final_losses(curves: Tensor) -> Tensor:
    """Return the mean training loss of the last 10 % of the steps, at least 10: ``[horizon, ...]`` -> ``[...]``."""
    return curves[-tail_length(curves.shape[0]) :].mean(dim=0)
