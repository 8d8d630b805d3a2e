"""Suites: lists of tasks on which a rule is evaluated, one task a line."""

import os
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Suite:
    """A named list of tasks.

    Attributes:
        name: of a shipped suite, or the path of its file.
        tasks: as the command line names them, each once.
    """

    name: str
    tasks: tuple[str, ...]


def list_suites() -> list[str]:
    """Return the names of the shipped suites."""
    return sorted(path.stem for path in FOLDER.glob("*.txt"))


def load_suite(source: str | os.PathLike[str]) -> Suite:
    """Return the suite of a name or in a file: a task specification a line, from # on a comment.

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
    tasks = [task for line in lines if (task := line.partition("#")[0].strip())]
    if not tasks:
        raise ValueError(f"a suite must name at least one task; got none in {str(path)!r}, write one a line")
    twice = sorted({task for task in tasks if tasks.count(task) > 1})
    if twice:
        raise ValueError(f"a suite must name each task once; got {twice[0]!r} twice in {str(path)!r}, remove one")
    return Suite(str(source), tuple(tasks))
