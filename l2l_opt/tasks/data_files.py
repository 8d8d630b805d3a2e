"""Files and folders of a user's own that tasks are made of: named in a task's options, and known again by digest."""

import hashlib
import inspect
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, get_args

from l2l_opt.tasks.base import TASKS
from l2l_opt.tasks.mixture import Choice, components_of

Stamp = tuple[tuple[str, int, int], ...]
"""Of files: name, bytes and time of the last change, by which it is seen without reading that they are the same."""


def check_data_path(**values: Any) -> None:
    """Refuse paths of nothing.

    Raises:
        FileNotFoundError: no such file or folder.
    """
    for key, value in values.items():
        if not Path(str(value)).exists():
            raise FileNotFoundError(f"{key} must be a file or a folder that exists; got {str(value)!r}, use another")


DataPath = Annotated[str, check_data_path]
"""Of an option: a file or a folder that a task is made of."""


def files_of(path: Path) -> list[Path]:
    """The file itself, or all that lie in a folder and below it, in order; hidden ones do not count."""
    if path.is_file():
        return [path]
    found = (file for file in path.rglob("*") if file.is_file())
    return sorted(file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts))


def stamp_of(path: Path) -> Stamp:
    """What changes when a file, or one in a folder, does."""
    stats = [(str(file), file.stat()) for file in files_of(path)]
    return tuple((name, own.st_size, own.st_mtime_ns) for name, own in stats)


def data_digests(*specs: str | None) -> dict[str, str]:
    """SHA-256 of all that tasks read from a user's disk, by path: results depend on it.

    Args:
        specs: notations of tasks; None is none.

    Returns:
        ``{"rows.csv": "sha256:..."}``, of a folder over the names and contents of its files; empty for tasks whose
        data ship or are generated.
    """
    paths: dict[str, None] = {}
    for component in (own for spec in specs if spec is not None for own in components_of(spec)):
        parameters = inspect.signature(TASKS.factory(component.name)).parameters
        for key, value in component.options.items():
            kind = parameters[key].annotation if key in parameters else None
            if value is not None and (kind == DataPath or DataPath in get_args(kind)):
                paths |= dict.fromkeys(map(str, value.values if isinstance(value, Choice) else [value]))
    return {path: digest_of(Path(path)) for path in paths}


def digest_of(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of those of a folder."""
    return _digest(path, stamp_of(path))


@lru_cache(16)
def _digest(path: Path, stamp: Stamp) -> str:
    del stamp  # a file that has changed is read again
    sha = hashlib.sha256()
    for file in files_of(path):
        name = "" if file == path else file.relative_to(path).as_posix()
        sha.update(f"{name}|{hashlib.sha256(file.read_bytes()).hexdigest()}|".encode())
    return f"sha256:{sha.hexdigest()}"
