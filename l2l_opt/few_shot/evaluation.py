"""Learners over the same test episodes: scores an episode, means, and paired differences with intervals."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from l2l_opt.evaluation.statistics import mean_and_interval
from l2l_opt.few_shot.adapt import adapt, draw_episodes
from l2l_opt.few_shot.methods import Method
from l2l_opt.randomness import Stream
from l2l_opt.storage.finite_json import json_text
from l2l_opt.tasks.base import TaskFamily
from l2l_opt.types import Params

CHUNK = 50
"""Episodes adapted to at once."""


@dataclass(frozen=True)
class Scores:
    """Of one learner after some inner steps.

    Attributes:
        name: of the learner.
        inner_steps: updates by each support set.
        scores: ``[episodes]``: accuracy of classes, mean squared error of numbers, or the family's score.
        losses: ``[episodes]``, of the query sets.
        seconds: an episode.
    """

    name: str
    inner_steps: int
    scores: Tensor
    losses: Tensor
    seconds: float

    def record(self) -> dict[str, Any]:
        mean, interval = mean_and_interval(self.scores.tolist())
        return {
            "learner": self.name,
            "inner_steps": self.inner_steps,
            "episodes": len(self.scores),
            "mean": mean,
            "interval": list(interval),
            "query_loss": float(self.losses.mean()),
            "seconds_an_episode": self.seconds,
        }


def evaluate_learner(
    name: str,
    method: Method,
    theta: Params,
    family: TaskFamily,
    *,
    inner_steps: int,
    episodes: int = 600,
    seed: int = 0,
) -> Scores:
    """Adapt to test episodes, the same for every learner with one seed.

    Args:
        name: of the learner.
        method: how it adapts.
        theta: where it starts.
        family: of the test episodes.
        inner_steps: updates by each support set.
        episodes: how many.
        seed: of the episodes.
    """
    scores, losses, seconds = [], [], 0.0
    with torch.no_grad():
        for first in range(0, episodes, CHUNK):
            drawn = draw_episodes(
                family,
                range(first, min(first + CHUNK, episodes)),
                seed=seed,
                stream=Stream.TEST,
                num_steps=inner_steps,
                fresh=not method.learns_initialisation,
            )
            start = time.perf_counter()
            adapted = adapt(method, family, theta if drawn.fresh is None else drawn.fresh, drawn)
            seconds += time.perf_counter() - start
            scores.append(adapted.scores())
            losses.append(adapted.query_losses)
    return Scores(name, inner_steps, torch.cat(scores).double(), torch.cat(losses).double(), seconds / episodes)


def differences(results: Sequence[Scores]) -> list[dict[str, Any]]:
    """Of every learner after the first, its scores less those of the first on the same episodes and inner steps."""
    first = {result.inner_steps: result for result in results if result.name == results[0].name}
    found = []
    for result in results:
        base = first.get(result.inner_steps)
        if base is None or base.name == result.name:
            continue
        mean, interval = mean_and_interval((result.scores - base.scores).tolist())
        found.append(
            {
                "learner": result.name,
                "less": base.name,
                "inner_steps": result.inner_steps,
                "mean": mean,
                "interval": list(interval),
            }
        )
    return found


def written(results: Sequence[Scores], about: Mapping[str, Any], *, with_scores: bool = True) -> str:
    """All results as JSON, and every episode's score for other comparisons; null where students diverged."""
    records = [
        result.record() | ({"scores": _short(result.scores.tolist())} if with_scores else {}) for result in results
    ]
    content = {**about, "results": records, "differences": differences(results)}
    return json_text(content, indent=1)


def _short(values: Iterable[float]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
