"""Suites: lists of tasks on which a rule is evaluated, one task a line."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).parent
FEW_LOOKS = {
    "held-out": "rules are not chosen by held-out, so it is looked at rarely; note this look, with its date and the "
    "rule's digest, in results/held_out/looks.md"
}
"""Suites that lose their worth with every look, and what ``evaluate`` reminds of."""
HORIZONS = re.compile(r"\s@(?P<steps>[\s\d]+)$")


@dataclass(frozen=True)
class Suite:
    """A named list of tasks.

    Attributes:
        name: of a shipped suite, or the path of its file.
        tasks: as the command line names them, each once.
        horizons: inner steps for which a task is meant, by task; of those that are not here, any.
    """

    name: str
    tasks: tuple[str, ...]
    horizons: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def own_horizons(self) -> tuple[int, ...]:
        """All horizons that tasks are meant for, the shortest first; empty where the suite names none."""
        return tuple(sorted({steps for own in self.horizons.values() for steps in own}))

    def horizons_of(self, task: str, wanted: tuple[int, ...]) -> tuple[int, ...]:
        """Those of the wanted horizons that a task is meant for."""
        own = self.horizons.get(task, wanted)
        return tuple(steps for steps in wanted if steps in own)


def list_suites() -> list[str]:
    """Return the names of the shipped suites."""
    return sorted(path.stem for path in FOLDER.glob("*.txt"))


def load_suite(source: str | os.PathLike[str]) -> Suite:
    """Return the suite of a name or in a file: a task specification a line, from # on a comment.

    ``@ 500 2000`` after a task names the horizons that it is meant for.

    Args:
        source: the name of a shipped suite, or a path.

    Raises:
        FileNotFoundError: neither a shipped name nor a file.
        ValueError: no tasks, a task that comes twice, or a file that is not text.
    """
    path = FOLDER / f"{source}.txt"
    if os.sep in str(source) or not path.is_file():
        path = Path(source)
    if not path.is_file():
        shipped = ", ".join(list_suites()) or "(none ship with this version)"
        raise FileNotFoundError(
            f"a suite must be a shipped one or a file; got {str(source)!r}, use one of {shipped}, "
            "or a text file with one task a line"
        )
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"a suite must be UTF-8 text; got {str(path)!r}, write one task a line") from error
    entries = [_parse(entry) for line in lines if (entry := line.partition("#")[0].strip())]
    tasks = [task for task, _ in entries]
    if not tasks:
        raise ValueError(f"a suite must name at least one task; got none in {str(path)!r}, write one a line")
    twice = sorted({task for task in tasks if tasks.count(task) > 1})
    if twice:
        raise ValueError(f"a suite must name each task once; got {twice[0]!r} twice in {str(path)!r}, remove one")
    return Suite(str(source), tuple(tasks), {task: horizons for task, horizons in entries if horizons})


def _parse(entry: str) -> tuple[str, tuple[int, ...]]:
    found = HORIZONS.search(entry)
    if found is None:
        return entry, ()
    horizons = tuple(map(int, found["steps"].split()))
    if not horizons or 0 in horizons:
        raise ValueError(f"a task's horizons must be positive integers; got {entry!r}, use e.g. TASK @ 500 2000")
    return entry[: found.start()].rstrip(), horizons
