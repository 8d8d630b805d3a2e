"""AdamW, Muon and SGD at their best learning rates, for scripts that cannot tune several schedules of each."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from l2l_opt.evaluation.baselines.entries import COSINE, WARMUP_COSINE, Entry, entries_for
from l2l_opt.evaluation.baselines.tuning import Baseline, tune
from l2l_opt.evaluation.runs import run_rule
from l2l_opt.evaluation.statistics import EVEN_FLOOR, bounded
from l2l_opt.rules import UpdateRule
from l2l_opt.tasks.mixture import Tasks

ENTRIES = (
    Entry("adamw", (Baseline("adamw-warmup-cosine", "adamw", range(-6, -2), WARMUP_COSINE),)),
    Entry("muon", (Baseline("muon-cosine", "muon", range(-6, -2), COSINE),)),
)
"""The schedules that are mostly the best for them on tasks that are held out."""
SGD = Entry("sgd", (Baseline("sgd-cosine", "momentum", range(-4, 0), {"momentum": 0.9, **COSINE}),))
SHOWN = {"adamw": "AdamW", "muon": "Muon", "sgd": "SGD"}
Subjects = Mapping[str, tuple[UpdateRule, Mapping[str, Any]]]
"""Name -> a rule, and what is to be kept of it."""


def at_their_best(
    tasks: Tasks, task: str, *, horizon: int, tuning_students: int, seed: int, validated: bool = False
) -> dict[str, tuple[UpdateRule, dict[str, Any]]]:
    """Tune each on students of its own: name -> the rule, its rate and all losses that were tried.

    Muon is not among them where a task has no hidden matrices.

    Args:
        tasks: where students come from.
        task: its name.
        horizon: inner steps.
        tuning_students: for each rate.
        seed: of all students.
        validated: for the loss on a validation split, cut out of the training examples; then SGD is among them too.
    """
    found = dict[str, tuple[UpdateRule, dict[str, Any]]]()
    for entry in entries_for(tasks, task, (*ENTRIES, SGD) if validated else ENTRIES)[0]:
        (own,) = entry.variants
        tuning = tune(own, tasks, horizon=horizon, num_seeds=tuning_students, seed=seed, validated=validated)
        tried = {f"{rate:.3g}": loss for rate, loss in tuning.losses.items()}
        found[entry.name] = own.make(tuning.lr), {"lr": tuning.lr, "tried": tried}
    return found


def losses_of(subjects: Subjects, tasks: Tasks, *, horizon: int, students: int, seed: int) -> dict[str, dict[str, Any]]:
    """Train the reporting students with each of several rules.

    Args:
        subjects: the rules.
        tasks: where students come from.
        horizon: inner steps.
        students: how many.
        seed: of all students.

    Returns:
        Name -> first, final (``train``) and test losses of every student, and what is to be kept of the rule.
    """
    found = dict[str, dict[str, Any]]()
    for name, (rule, about) in subjects.items():
        done = run_rule(rule, tasks, horizon=horizon, num_seeds=students, seed=seed)
        losses = {"first": done.curves[0], "train": done.final_losses, "test": done.test_losses}
        found[name] = {which: own.tolist() for which, own in losses.items()} | dict(about)
    return found


def even(losses: Mapping[str, list[float]], which: str) -> np.ndarray:
    """Return final or test losses of one of these, ``[students]``, at least a thousandth of the first ones."""
    return bounded(np.array(losses[which]), np.array(losses["first"]), floor=EVEN_FLOOR)
