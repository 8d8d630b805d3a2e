"""CSV files as people have them: the only reader of tables, whose cells stay text."""

import io
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from l2l_opt.tasks.text_file import read_text

if TYPE_CHECKING:
    from pandas import DataFrame

SEPARATORS = ",;\t|"


def read_csv(file: str | os.PathLike[str]) -> "DataFrame":
    """Read a file's cells as text, by the names in its first line; what they mean is for others to decide.

    The separator (comma, semicolon, tab or bar) is the most frequent in the header; ``.gz`` is unpacked; text that is
    not UTF-8 is read as Windows-1252 or Latin-1, with a note. Lines without anything are no rows.

    Returns:
        A column for each name, ``column 3`` for the third where it has none; the index holds the line of each row.
        Cells are stripped; one that is empty is "", one that a short line does not have is NaN.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such text, two columns of one name, or a line with more cells than the header.
    """
    import pandas

    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"a table must exist; got {str(path)!r}, name another file")
    text = read_text(path, "table", form="CSV text")
    start = text.lstrip("\n")
    header = re.sub(r'"[^"]*"', "", start.partition("\n")[0])
    try:
        cells = pandas.read_csv(
            io.StringIO(start),
            sep=max(SEPARATORS, key=header.count),
            header=None,
            dtype=str,
            keep_default_na=False,
            skip_blank_lines=False,
            skipinitialspace=True,
            engine="python",
        )
    except pandas.errors.EmptyDataError:
        return pandas.DataFrame()
    except pandas.errors.ParserError as error:
        raise ValueError(_refusal(path, str(error), skipped=len(text) - len(start))) from error
    cells = cells.apply(lambda column: column.str.strip())
    breaks = [0] * len(cells)
    if start.count("\n") >= len(cells):
        breaks = cells.apply(lambda column: column.str.count("\n")).sum(axis=1).astype(int).tolist()
    lines = [len(text) - len(start) + 1]
    for more in breaks[:-1]:
        lines.append(lines[-1] + 1 + more)
    names = [name or f"column {place + 1}" for place, name in enumerate(cells.iloc[0])]
    if len(set(names)) != len(names):
        raise ValueError(f"columns must have names of their own; got {names} in {str(path)!r}, rename them")
    cells.columns, cells.index = names, pandas.Index(lines, name="line")
    return cells.iloc[1:].dropna(how="all")


def _refusal(path: Path, reason: str, *, skipped: int) -> str:
    ragged = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", reason)
    if ragged is None:
        return f"a table must be CSV text; got {str(path)!r}: {reason}, save it anew"
    expected, line, found = map(int, ragged.groups())
    return (
        f"every row must have as many cells as the header; got {found} in line {line + skipped} of {str(path)!r} "
        f"where the header has {expected}, mend it"
    )
