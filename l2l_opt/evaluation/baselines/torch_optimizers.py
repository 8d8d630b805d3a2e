"""Optimizers of torch.optim's kind in a plain loop, on the very students and batches that rules are run on."""

import importlib.util
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from l2l_opt.evaluation.runs import Run, joined, scores_on_test_batches
from l2l_opt.inner_loop.fresh_student import fresh_student
from l2l_opt.inner_loop.training import final_losses, tail_length
from l2l_opt.randomness import Stream
from l2l_opt.tasks.mixture import Tasks

MakeOptimizer = Callable[[list[nn.Parameter]], Any]


def schedule_free(params: list[nn.Parameter]) -> Any:
    """Schedule-Free AdamW with its defaults (arXiv 2405.15682)."""
    from schedulefree import AdamWScheduleFree  # pyright: ignore[reportMissingImports]

    return AdamWScheduleFree(params)


def prodigy(params: list[nn.Parameter]) -> Any:
    """Prodigy with its defaults (arXiv 2306.06101)."""
    from prodigyopt import Prodigy  # pyright: ignore[reportMissingImports]

    return Prodigy(params)


def is_installed(package: str) -> bool:
    """Return whether a package of the ``[bench]`` extra is here."""
    return importlib.util.find_spec(package) is not None


def run_torch_optimizer(make: MakeOptimizer, tasks: Tasks, *, horizon: int, num_seeds: int, seed: int) -> Run:
    """Train the reporting students one after the other with a torch optimizer.

    An optimizer with ``train()`` and ``eval()`` (Schedule-Free) takes gradients at one point, y, and is meant to be
    used at another, x. Its training losses are those at y; over the last 10 % of the steps losses at x on the same
    batches are taken too, and the final losses are those of the point whose mean over students is less. Its test loss
    is at x.

    Args:
        make: builds the optimizer from a list of parameters.
        tasks: where students come from.
        horizon: inner steps.
        num_seeds: students.
        seed: of all students.
    """
    start = time.perf_counter()
    curves, at_x, tests = zip(
        *(_run_student(make, tasks, horizon, number, seed) for number in range(num_seeds)), strict=True
    )
    seconds = (time.perf_counter() - start) / num_seeds
    losses, about = torch.stack(curves, dim=1), {}
    final = final_losses(losses)
    if at_x[0] is not None:
        others = torch.stack([value for value in at_x if value is not None])
        x, y = (own.double().mean().nan_to_num(nan=torch.inf, posinf=torch.inf) for own in (others, final))
        better = bool(x < y)
        final, about = (others if better else final), {"judged_at": "x" if better else "y"}
    test_losses, accuracies = joined(tests)
    return Run(losses, final, test_losses, seconds, about, accuracies)


def _run_student(
    make: MakeOptimizer, tasks: Tasks, horizon: int, number: int, seed: int
) -> tuple[Tensor, Tensor | None, tuple[Tensor, Tensor]]:
    student = fresh_student(tasks, seed=seed, stream=Stream.REPORTING, number=number)
    params = student.parameters()
    optimizer = make(list(params.values()))
    has_two_points = callable(getattr(optimizer, "eval", None))
    if has_two_points:
        optimizer.train()
    curve, at_x = [], []
    for step in range(horizon):
        batch = student.batch()
        if has_two_points and step >= horizon - tail_length(horizon):
            at_x.append(_loss_at_x(optimizer, params, lambda batch=batch: student.loss(params, batch)))
        optimizer.zero_grad()
        loss = student.loss(params, batch)
        student.take_in(params, batch)
        loss.backward()
        optimizer.step()
        curve.append(loss.detach())
    if has_two_points:
        optimizer.eval()
    detached = {name: p.detach() for name, p in params.items()}
    test = scores_on_test_batches(student.family, detached, student.data, seed, number)
    return torch.stack(curve).cpu(), torch.stack(at_x).mean().cpu() if at_x else None, test


def _loss_at_x(optimizer: Any, params: dict[str, nn.Parameter], loss: Callable[[], Tensor]) -> Tensor:
    kept = [p.detach().clone() for p in params.values()]
    optimizer.eval()
    with torch.no_grad():
        value = loss()
    optimizer.train()
    # Going to x and back rounds; measuring must not change what is measured.
    with torch.no_grad():
        for p, known in zip(params.values(), kept, strict=True):
            p.copy_(known)
    return value
