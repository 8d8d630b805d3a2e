"""Tensors of files that other programs wrote, as safetensors or npz; nothing in them is executed."""

import math
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from l2l_opt.storage.safetensors_file import FLOATING, FileFormatError, Kind, brief, check_size, shortened

FOREIGN = Kind("a file of weights", lambda: 64 * 2**20, 2**20, 1, FLOATING)
OTHERS = {b"\x80": "which is a pickle", b"\x93NUMPY": "which is one array", b"\x89HDF": "which is HDF5"}
"""How files of other kinds begin."""
MOST_ENTRIES = 1000
"""Arrays in an npz file, where those of published rules have dozens."""


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return what a safetensors or npz file holds, in time and memory bounded by its size, at most 64 MiB.

    Args:
        path: of the file; numbers of an npz file are read in float32.

    Raises:
        FileFormatError: it is neither, or damaged, or larger, or holds what is not a plain array of real numbers.
        ValueError: no path.
        OSError: it is not there, or cannot be read.
    """
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"the path of a file of weights must be a text or a path; got {path!r}, use e.g. weights.npz")
    path = Path(path)
    if path.is_dir() or not path.exists():
        raise FileNotFoundError(f"a file of weights must be there; got {str(path)!r}, which is none, use another path")
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(8)
        for beginning, what in OTHERS.items():
            if start.startswith(beginning):
                raise _refusal(" must be in safetensors or npz", f"{path}, {what}", "save its numbers as one of these")
        if start.startswith(b"PK") or path.suffix.lower() == ".npz":
            return dict(_npz(path))
    return _safetensors(path)


def _safetensors(path: Path) -> dict[str, Tensor]:
    check_size(path, FOREIGN)
    try:
        with cast(Any, safe_open)(path, framework="pt") as file:
            names: list[str] = list(file.keys())
            for name in names:
                _check_dtype(file.get_slice(name).get_dtype(), FLOATING, name, path)
            return {name: file.get_tensor(name) for name in names}
    except (SafetensorError, UnicodeDecodeError, MemoryError) as error:
        raise _refusal(" must be a whole safetensors or npz file", f"{path}: {shortened(str(error))}") from error


def _npz(path: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            size = sum(entry.file_size for entry in entries)
            if size > FOREIGN.largest_file() or len(entries) > MOST_ENTRIES:
                raise _refusal(" must not be too large", f"{size} bytes in {len(entries)} arrays in {path}")
            for entry in entries:
                with archive.open(entry) as member:
                    _check_array(member, entry, path)
        with np.load(path, allow_pickle=False) as arrays:
            for name in arrays:
                yield name, torch.from_numpy(np.array(arrays[name], np.float32))  # pyright: ignore[reportUnknownMemberType]
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError, MemoryError) as error:
        if isinstance(error, FileFormatError):
            raise
        raise _refusal(" must be a whole npz file", f"{path}: {shortened(str(error))}") from error


def _check_array(member: IO[bytes], entry: zipfile.ZipInfo, path: Path) -> None:
    """Refuse what is no array of real numbers, or claims to be larger than it is, which numpy would make room for."""
    if not entry.filename.endswith(".npy"):
        found = f"{brief(entry.filename)} in {path}"
        raise _refusal(" must hold arrays alone", found, "save its numbers as safetensors or npz, without pickle")
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(member)
    _check_dtype(f"{dtype.kind}{8 * dtype.itemsize}", {"f16", "f32", "f64"}, entry.filename, path)
    if math.prod(shape) * dtype.itemsize > entry.file_size:
        raise _refusal(" must be whole", f"{brief(entry.filename)} of shape {brief(shape)} in {path}")


def _check_dtype(dtype: str, known: set[str], name: str, path: Path) -> None:
    if dtype not in known:
        raise _refusal(
            "'s tensors must be floating", f"{brief(name)} of {dtype} in {path}", "save real numbers, without pickle"
        )


def _refusal(rule: str, got: str, fix: str = "fetch or write it anew") -> FileFormatError:
    return FOREIGN.refusal(rule, got, fix)
