"""One optimizer on the reporting students: training curves, final losses, test losses."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from l2l_opt.inner_loop.horizon import Horizon
from l2l_opt.inner_loop.students import Students
from l2l_opt.inner_loop.training import final_losses, train
from l2l_opt.randomness import Stream, make_generator
from l2l_opt.rules.base import UpdateRule
from l2l_opt.tasks.base import TaskFamily
from l2l_opt.tasks.mixture import Tasks
from l2l_opt.types import Params, TaskData

TEST_BATCHES = 20
"""Batches of the test split that a student's final params are scored on; the same for every optimizer."""

PlannedSteps = int | Literal["horizon"] | None


@dataclass(frozen=True)
class Run:
    """S students, trained to a horizon.

    Attributes:
        curves: ``[horizon, S]``, the training loss before each step.
        final_losses: ``[S]``, the mean training loss of the last 10 % of the steps, at least 10.
        test_losses: ``[S]``, the mean loss of the final params over ``TEST_BATCHES`` test batches.
        seconds: wall-clock seconds a student, all being run in one batch or one after the other.
        about: what is to be said of the run.
        accuracies: ``[S]``, the share of right classes in the same batches; None where there are no classes.
    """

    curves: Tensor
    final_losses: Tensor
    test_losses: Tensor
    seconds: float
    about: dict[str, Any]
    accuracies: Tensor | None = None


def run_rule(
    rule: UpdateRule,
    tasks: Tasks,
    *,
    horizon: int,
    num_seeds: int,
    seed: int,
    planned_steps: PlannedSteps = "horizon",
) -> Run:
    """Train the reporting students with a rule, all in one batch.

    Args:
        rule: as it is.
        tasks: where students come from.
        horizon: inner steps.
        num_seeds: students.
        seed: of all students.
        planned_steps: the number of steps that the rule is given: the horizon, another (wrong) number, or None for an
            unknown one.
    """
    start = time.perf_counter()
    students = reporting_students(rule, tasks, numbers=range(num_seeds), horizon=horizon, seed=seed)
    curves = train(students, planned_steps=planned_steps)
    seconds = (time.perf_counter() - start) / num_seeds
    tests, accuracies = final_scores(students, seed)
    return Run(curves, final_losses(curves), tests, seconds, {}, accuracies)


def final_scores(students: Students, seed: int) -> tuple[Tensor, Tensor | None]:
    """Test losses ``[S]`` of students where they are, and accuracies ``[S]`` or None, as ``scores_on_test_batches``."""
    scores = [
        scores_on_test_batches(
            own.family, {name: p[0] for name, p in own.inner.params.items()}, own.data, seed, own.number
        )
        for own in students.members
    ]
    return joined(scores)


def joined(scores: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor | None]:
    """Losses ``[S]`` and accuracies ``[S]`` of students; None for the latter where none has classes."""
    losses, accuracies = map(torch.stack, zip(*scores, strict=True))
    return losses, None if accuracies.isnan().all() else accuracies


def reporting_students(rule: UpdateRule, tasks: Tasks, *, numbers: Sequence[int], horizon: int, seed: int) -> Students:
    """Return the students that every optimizer is reported on: same params, same batches, whatever the optimizer."""
    return Students(
        rule,
        tasks,
        numbers=numbers,
        horizon=Horizon(horizon, horizon),
        seed=seed,
        stream=Stream.REPORTING,
        group_size=1,
    )


def scores_on_test_batches(
    family: TaskFamily, params: Params, data: TaskData, seed: int, number: int
) -> tuple[Tensor, Tensor]:
    """Return mean loss and accuracy over ``TEST_BATCHES`` test batches, which depend on the student alone: 0-dim each.

    The accuracy is NaN where the family has no classes.
    """
    generator = make_generator(seed, Stream.TEST, number)
    accuracy = getattr(family, "accuracy", None)
    with torch.no_grad():
        batches = [family.sample_batch(data, generator, "test") for _ in range(TEST_BATCHES)]
        losses = torch.stack([family.loss(params, data, batch) for batch in batches])
        right = [accuracy(params, data, batch) for batch in batches] if accuracy else [torch.tensor(torch.nan)]
        return losses.mean().cpu(), torch.stack(right).mean().cpu()


def long_curves(
    make: Callable[[float], UpdateRule],
    rates: Sequence[float],
    tasks: Tasks,
    *,
    steps: int,
    num_seeds: int,
    seed: int,
) -> Tensor:
    """Training losses of the reporting students under several constant rates, in one batch.

    Args:
        make: a rule with ``log_lr`` in its phi, from a learning rate.
        rates: learning rates.
        tasks: where students come from.
        steps: inner steps.
        num_seeds: students.
        seed: of all students.

    Returns:
        ``[steps, rates, num_seeds]``.
    """
    students = reporting_students(
        make(1.0), tasks, numbers=list(range(num_seeds)) * len(rates), horizon=steps, seed=seed
    )
    log_lrs = torch.tensor(rates, dtype=torch.float64).log().repeat_interleave(num_seeds)
    return train(students, phi={"log_lr": log_lrs}).reshape(steps, len(rates), num_seeds)
