"""What several commands share: wrong usage distinguished from other failures, rules and tables."""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

from l2l_opt.storage.safetensors_file import FileFormatError
from l2l_opt.types import DTYPES


@contextlib.contextmanager
def wrong_usage() -> Iterator[None]:
    """Turn the ValueErrors of reading options into exit code 2; files that are broken keep their own."""
    try:
        yield
    except FileFormatError:
        raise
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def place_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Read where tensors are placed, by --device and --dtype."""
    return {"device": torch.device(options["device"]), "dtype": DTYPES[options["dtype"]]}


def fields_of(options_class: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """Pick those among the options of a command that are fields of a dataclass."""
    return {field.name: options[field.name] for field in dataclasses.fields(options_class) if field.name in options}


def print_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], *, bold: str | None = None) -> None:
    """Print a table whose first column names what the others measure.

    Args:
        title: above it.
        headings: one a column.
        rows: of cells.
        bold: the first cell of the row that stands out.
    """
    table = Table(title=title)
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row, style="bold" if row[0] == bold else "")
    Console(width=None if Console().is_terminal else 160).print(table)
