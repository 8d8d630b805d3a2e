"""Text as people have it in files: packed or not, and in the encodings that are met."""

import gzip
import warnings
import zlib
from pathlib import Path

from l2l_opt.checks import DataNote


def read_text(path: Path, what: str, *, form: str) -> str:
    """Read a file of text, with newlines alone between its lines.

    ``.gz`` is unpacked whatever its name; text that is not UTF-8 or UTF-16 is read as Windows-1252 or Latin-1, with a
    note.

    Args:
        path: of a file that is there.
        what: it is, in messages: ``"table"``.
        form: it should have, in messages: ``"CSV text"``.

    Raises:
        ValueError: damaged, or no text.
    """
    content = path.read_bytes()
    try:
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"a packed {what} must be whole; got {str(path)!r}: {error}, pack it anew") from error
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
    raise ValueError(f"a {what} must be {form}; got other bytes in {str(path)!r}, save it as {form}")
