"""Which rule to keep: the best on one half of fresh validation students, if it is ahead on the other half."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from l2l_opt.evaluation.statistics import (
    CAP_OF_LOG_RATIO,
    EVEN_FLOOR,
    bounded,
    fall_below_zero,
    mean_and_interval,
    progress,
    refuse_without_finite_results,
)
from l2l_opt.inner_loop.training import final_losses, training_losses
from l2l_opt.randomness import Stream
from l2l_opt.rules.base import UpdateRule
from l2l_opt.specialising.plan import VALIDATION_STUDENTS, Objective
from l2l_opt.tasks.mixture import TaskMixture, Tasks

STUDENTS = 64
"""That one of the rules is chosen by, and as many others that say how good it is."""
LEAST_GAIN = 0.002
"""Of the logarithm of the final loss; less is no gain, however certain."""
GROUP = 8
"""Students of a mixture that share an architecture."""
SIZES, WIDEST = range(-4, 5), 16
"""Factors 2^(k / 2) of a rule's steps that its best size is looked for among, widened where the best is at the edge."""


@dataclass(frozen=True)
class Score:
    """A rule against the one it began from, on the same students.

    Attributes:
        change: the mean of log(its final loss / the final loss of the rule it began from); below 0 it is better.
        interval: of that mean, 95 %.
    """

    change: float
    interval: tuple[float, float]

    @property
    def is_better(self) -> bool:
        """Whether the whole interval lies below 0, by enough to be worth a file."""
        return self.interval[1] < 0 and self.change < -LEAST_GAIN


@dataclass(frozen=True)
class Selection:
    """What was kept.

    Attributes:
        best: name of the one that was learned and is best on the students that it is chosen by.
        kept: name of the rule: that one, or the first where nothing was gained.
        scores: of every rule but the first, on students that were not used to choose.
    """

    best: str
    kept: str
    scores: dict[str, Score]

    def record(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "best": self.best,
            "kept": self.kept,
            "scores": {name: vars(score) for name, score in self.scores.items()},
        }


def select(candidates: Mapping[str, UpdateRule], tasks: Tasks, objective: Objective) -> Selection:
    """Choose among rules; the first is the one they began from, and stays where no other is better for certain.

    The luckiest of many looks best on the students that it is chosen by, so others tell how good it is.

    Args:
        candidates: rules by name, the first the one that they are compared with.
        tasks: where students come from.
        objective: what counts.

    Raises:
        ValueError: no rule comes to a finite loss.
    """
    first, *others = candidates
    finals = {name: _finals(rule, tasks, objective, 2 * STUDENTS) for name, rule in candidates.items()}
    refuse_without_finite_results("validation students", np.concatenate([final for final, _ in finals.values()]))
    changes = {name: log_ratios(finals[name], finals[first]) for name in others}
    choosing, telling = slice(0, STUDENTS), slice(STUDENTS, None)
    scores = {name: Score(*mean_and_interval(own[telling].tolist())) for name, own in changes.items()}
    best = min(others, key=lambda name: changes[name][choosing].mean(), default=first)
    return Selection(best, best if best in scores and scores[best].is_better else first, scores)


def best_size(rule: UpdateRule, tasks: Tasks, objective: Objective) -> float:
    """Find the factor of a rule's steps with the least final loss on the students that it is chosen by: the control.

    What learning buys is what it buys beyond this one number.
    """
    base = _finals(rule, tasks, objective, STUDENTS)
    changes, trial, best = {0: 0.0}, [half for half in SIZES if half], 0
    while trial:
        for half in trial:
            finals = _finals(resized(rule, 2 ** (half / 2)), tasks, objective, STUDENTS)
            changes[half] = float(log_ratios(finals, base).mean())
        best = min(changes, key=lambda half: (changes[half], half))
        low, high = min(changes), max(changes)
        trial = list(range(low - 2, low)) if best == low > -WIDEST else []
        trial = trial or (list(range(high + 1, high + 3)) if best == high < WIDEST else [])
    return 2 ** (best / 2)


def resized(rule: UpdateRule, size: float) -> UpdateRule:
    """Copy a rule so that all of its updates are longer by a factor.

    Raises:
        ValueError: a rule without the option ``output_scale``.
    """
    config = dict(rule.config)
    if "output_scale" not in config:
        raise ValueError(
            f"a rule must have the option output_scale to be resized; got {rule.registry_name!r}, use another"
        )
    config["output_scale"] *= size
    other = type(rule)(**config).to(next(rule.parameters()))
    other.load_state_dict(rule.state_dict())
    return other


def _finals(rule: UpdateRule, tasks: Tasks, objective: Objective, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Train the students that rules are chosen by: final and first losses."""
    curves = training_losses(
        rule,
        tasks,
        # Those of validation come first.
        numbers=range(VALIDATION_STUDENTS, VALIDATION_STUDENTS + count),
        horizon=objective.horizon,
        seed=objective.seed,
        stream=Stream.VALIDATION,
        group_size=GROUP if isinstance(tasks, TaskMixture) else None,
        loss_on=objective.loss_on,
    ).double()
    return final_losses(curves).numpy(), curves[0].numpy()


def log_ratios(ours: tuple[np.ndarray, np.ndarray], theirs: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """log(our final loss / theirs) of each student, within ``CAP_OF_LOG_RATIO`` of zero where both are finite.

    Losses below ``EVEN_FLOOR`` of the first count as that, so that nothing is gained by memorising further, and no
    student counts for more than a factor of two; one that diverges counts as ``CEILING`` times the first loss. Where
    losses fall below zero it is log(their progress / ours), progress being the first loss less the final one.

    Args:
        ours: final and first losses.
        theirs: likewise.
    """
    (our_final, first), (their_final, _) = ours, theirs
    if not fall_below_zero(np.concatenate([our_final, their_final, first]), float(first.mean())):
        ratios = np.log(bounded(our_final, first, floor=EVEN_FLOOR) / bounded(their_final, first, floor=EVEN_FLOOR))
    else:
        gained = [(first - final).mean() for final in (our_final, their_final) if np.isfinite(final).all()]
        greatest = max([own for own in gained if own > 0], default=1.0)
        ratios = np.log(progress(their_final, first, greatest) / progress(our_final, first, greatest))
    capped = np.clip(ratios, -CAP_OF_LOG_RATIO, CAP_OF_LOG_RATIO)
    return np.where(np.isfinite(our_final) & np.isfinite(their_final), capped, ratios)
