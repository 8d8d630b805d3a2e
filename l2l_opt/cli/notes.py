"""What readers of data note, as lines of a command's output rather than as Python warnings."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import click

from l2l_opt.checks import DataNote


@contextlib.contextmanager
def notes_said() -> Iterator[list[str]]:
    """Say what readers and encoders note of a user's data, each once; gives the list that they are added to."""
    notes: list[str] = []
    with warnings.catch_warnings():
        others = warnings.showwarning

        def say(message: Any, category: type[Warning], *where: Any) -> None:
            if category is not DataNote:
                others(message, category, *where)
            elif str(message) not in notes:
                notes.append(str(message))
                click.echo(f"note: {message}", err=True)

        warnings.simplefilter("always", DataNote)
        warnings.showwarning = say
        yield notes
