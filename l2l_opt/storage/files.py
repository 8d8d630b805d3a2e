"""Files and folders as results need them: a file is put in place whole or not at all.

It is written to a temporary file beside its place, flushed, and renamed, so that a reader finds the old file or the new
one and never a part.
"""

import os
import tempfile
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Put a file in place whole or not at all.

    Raises:
        OSError: the place cannot be written; nothing has changed.
    """
    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def make_writable_folder(folder: Path) -> None:
    """Make a folder that files can be written to, so that work fails before it is done and not after.

    Raises:
        ValueError: the place is a file.
        OSError: the folder cannot be made or written.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"a folder for results must be a folder; got the file {str(folder)!r}, use another name")
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / ".writable"
    probe.write_bytes(b"")
    probe.unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
