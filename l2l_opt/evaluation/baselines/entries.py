"""What a rule is compared with: entries, each tuned as a whole or taken with its defaults."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from l2l_opt.evaluation.baselines.muon import embeddings_of, hidden_matrices
from l2l_opt.evaluation.baselines.torch_optimizers import MakeOptimizer, is_installed, prodigy, schedule_free
from l2l_opt.evaluation.baselines.tuning import BASELINES, Baseline
from l2l_opt.inner_loop.fresh_student import fresh_student
from l2l_opt.randomness import Stream
from l2l_opt.tasks.mixture import Tasks

COSINE = {"schedule": "cosine"}
ADAMW_CONSTANT = Baseline("adamw-constant", "adamw", range(-7, 0))
"""Weight decay 0.01, torch's default. The one that speed-ups are measured against."""


@dataclass(frozen=True)
class Entry:
    """One row of the comparison.

    Attributes:
        name: as ``--baselines``, tables and plots have it.
        variants: each with seven learning rates in half-decades; the best of all trials is the entry.
        validated: tuned for the loss on a validation split, cut out of the training examples, instead of for training
            loss.
        make: for an entry without tuning: builds the torch optimizer.
        package: that ``make`` needs.
    """

    name: str
    variants: tuple[Baseline, ...] = ()
    validated: bool = False
    make: MakeOptimizer | None = None
    package: str | None = None


ENTRIES = {
    entry.name: entry
    for entry in (
        Entry("adamw", (ADAMW_CONSTANT, Baseline("adamw-cosine", "adamw", range(-6, 1), COSINE))),
        Entry(
            "sgd",
            (
                Baseline("sgd-constant", "momentum", range(-5, 2), {"momentum": 0.9}),
                Baseline("sgd-cosine", "momentum", range(-5, 2), {"momentum": 0.9, **COSINE}),
            ),
        ),
        Entry("adam", (Baseline("adam-constant", "adam", range(-7, 0)),)),
        Entry(
            "muon",
            (
                Baseline("muon-constant", "muon", range(-7, 0)),
                Baseline("muon-cosine", "muon", range(-6, 1), COSINE),
            ),
        ),
        Entry("schedule-free", make=schedule_free, package="schedulefree"),
        Entry("prodigy", make=prodigy, package="prodigyopt"),
    )
}


VALIDATED = "-validated"
"""Ends the names of entries that are tuned for validation loss; what test losses are compared with."""
ENTRIES |= {
    name + VALIDATED: replace(ENTRIES[name], name=name + VALIDATED, validated=True) for name in ("adamw", "sgd", "muon")
}

CLASSICAL = {baseline.name: Entry(baseline.name, (baseline,)) for baseline in BASELINES}
"""One schedule each; ``sgd`` has no momentum here."""


def entries_named(names: Iterable[str], *, classical: bool = False) -> tuple[Entry, ...]:
    """Look entries up by name, ``adamw`` first among them, since speed-ups are against it.

    Args:
        names: of ``ENTRIES`` or ``CLASSICAL``.
        classical: a name of both is of the latter, and ``adamw`` is there only where it is named.

    Raises:
        ValueError: an unknown name.
    """
    known = ENTRIES | CLASSICAL if classical else CLASSICAL | ENTRIES
    wanted = dict.fromkeys(names if classical else ["adamw", *names])
    unknown = [name for name in wanted if name not in known]
    if unknown:
        words = ", ".join(ENTRIES | CLASSICAL)
        raise ValueError(f"a baseline must be one of {words}; got {unknown[0]!r}, use one of these")
    return tuple(known[name] for name in wanted)


def entries_for(tasks: Tasks, task: str, entries: Sequence[Entry]) -> tuple[list[Entry], list[str]]:
    """Return the entries that can be run on a task, and a note for each that cannot.

    Args:
        tasks: the task.
        task: its name, for the notes.
        entries: as wanted.
    """
    found, notes = [], []
    for entry in entries:
        if entry.package is not None and not is_installed(entry.package):
            notes.append(f"{entry.name} is left out: {entry.package} is not installed (pip install 'l2l_opt[bench]')")
        elif any(own.rule == "muon" for own in entry.variants):
            without = _muon_without(tasks)
            if without is None:
                notes.append(f"{entry.name} is left out on {task}: it has no hidden matrices")
                continue
            options: dict[str, Any] = {"without": without} if without else {}
            variants = tuple(replace(own, options={**own.options, **options}) for own in entry.variants)
            found.append(replace(entry, variants=variants))
        else:
            found.append(entry)
    return found, notes


def _muon_without(tasks: Tasks) -> tuple[str, ...] | None:
    """Matrices that Muon leaves to AdamW, as the first reporting student has them; None where none are left to it."""
    student = fresh_student(tasks, seed=0, stream=Stream.REPORTING)
    without = embeddings_of(student.family)
    return without if hidden_matrices(student.params, without) else None
