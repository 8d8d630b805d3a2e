"""Training examples in place of the test split, which then stays unseen by what is learned for test losses."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from l2l_opt.tasks.base import TaskFamily
from l2l_opt.tasks.mixture import TaskMixture, Tasks

SHARE = 0.2
"""Of the training examples."""

Ranges = Mapping[str, tuple[int, int]]


def hold_out(tasks: Tasks, *, share: float = SHARE) -> Tasks:
    """Part the training examples of a task: the last of them become the test split, and the real one is out of reach.

    Use it where something is chosen by test losses that are to be reported on the real test split later. Families
    whose batches are drawn and not taken from examples stay as they are.

    Args:
        tasks: one family, or a mixture.
        share: of the training examples that becomes the test split.

    Raises:
        ValueError: too few training examples to part.
    """
    if isinstance(tasks, TaskMixture):
        return tasks.transformed(lambda family: _parted(family, share))
    return _parted(tasks, share)


def _parted(family: TaskFamily, share: float) -> TaskFamily:
    examples: Any = getattr(family, "examples", None)
    ranges: Ranges | None = getattr(examples if examples is not None else family, "ranges", None)
    if ranges is None:
        return family
    own: Any = copy.copy(family)
    if examples is None:
        own.ranges = _new_ranges(ranges, share)
    else:
        own.examples = replace(examples, ranges=_new_ranges(ranges, share))
    return own


def _new_ranges(ranges: Ranges, share: float) -> dict[str, tuple[int, int]]:
    (first, end), (test, _) = ranges["train"], ranges["test"]
    # Stretches of a text overlap: as far as its splits lie apart, these do.
    gap = max(test - end, 0)
    border = end - round(share * (end - first))
    if not (first < border - gap and border < end):
        raise ValueError(
            f"a task must have training examples enough for a part of them to be held out; got {end - first} examples, "
            "use more of them, or losses on training batches"
        )
    return {"train": (first, border - gap), "test": (border, end)}
