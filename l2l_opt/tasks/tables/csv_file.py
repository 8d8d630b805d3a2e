"""CSV files as people have them: the only reader of tables, whose cells stay text."""

import gzip
import io
import os
import re
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from l2l_opt.checks import DataNote

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
    text = _text(path)
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


def _text(path: Path) -> str:
    content = path.read_bytes()
    try:
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"a packed table must be whole; got {str(path)!r}: {error}, pack it anew") from error
    is_utf_16 = content.startswith((b"\xff\xfe", b"\xfe\xff")) and b"\x00" in content
    for encoding in ("utf-16", "utf-8-sig", "cp1252", "latin-1")[not is_utf_16 :]:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\x00" in text:
            break
        if encoding in ("cp1252", "latin-1"):
            warnings.warn(f"{str(path)!r} is not UTF-8 and was read as {encoding}", DataNote, stacklevel=3)
        return text.replace("\r\n", "\n").replace("\r", "\n")
    raise ValueError(f"a table must be CSV text; got other bytes in {str(path)!r}, save it as CSV")


def _refusal(path: Path, reason: str, *, skipped: int) -> str:
    ragged = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", reason)
    if ragged is None:
        return f"a table must be CSV text; got {str(path)!r}: {reason}, save it anew"
    expected, line, found = map(int, ragged.groups())
    return (
        f"every row must have as many cells as the header; got {found} in line {line + skipped} of {str(path)!r} "
        f"where the header has {expected}, mend it"
    )
