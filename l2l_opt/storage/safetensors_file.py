"""Reading and writing of safetensors files that nobody vouches for: all that a file claims is checked first.

Nothing in a file is executed. Its size and the length of its header are compared with stated limits before anything
is read, the library compares every tensor's place with the file's length, and the description is verified against its
digest before any tensor is touched. What reading refuses, writing refuses too.
"""

import hashlib
import json
import os
import reprlib
import stat
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from l2l_opt.types import is_dict, is_list

METADATA_KEY = "l2l_opt"
DIGEST_KEY = "metadata_digest"
WHOLE = " must be a whole safetensors file"
FLOATING = {"F16", "BF16", "F32", "F64"}


class FileFormatError(ValueError):
    """A file that is not what it should be: truncated, damaged, oversized, foreign or from the future."""


class Kind(NamedTuple):
    """What is asked of one kind of file.

    Attributes:
        word: the kind in messages, with its article.
        largest_file: bytes.
        largest_header: bytes, of the list of tensors and the description together.
        deepest: levels of nesting in the description.
        dtypes: of its tensors, in safetensors' names.
    """

    word: str
    largest_file: Callable[[], int]
    largest_header: int
    deepest: int
    dtypes: set[str]

    def oversized(self, size: int, header: int) -> str | None:
        """Return what of a file is beyond the limits, if anything is."""
        for what, found, limit in (("", size, self.largest_file()), ("a header of ", header, self.largest_header)):
            if found > limit:
                return f"{what}{found} bytes where {limit} are the limit"
        return None

    def refusal(self, rule: str, got: str, fix: str = "fetch or write it anew") -> FileFormatError:
        """Return the error of a file of this kind that breaks a rule."""
        return FileFormatError(f"{self.word}{rule}; got {got}, {fix}")


KINDS = {
    # 16 million weights in float32, where the rules that ship have thousands.
    "rule": Kind("an artefact", lambda: 64 * 2**20, 2**20, 32, FLOATING),
    # A run's students may be large, but what exceeds the machine's memory cannot have been a run on it.
    "checkpoint": Kind(
        "a checkpoint",
        lambda: os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        64 * 2**20,
        300,
        FLOATING | {"I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64", "BOOL", "C64"},
    ),
}


def serialised(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], *, kind: str) -> bytes:
    """Return the bytes of a file that ``read`` takes back.

    Args:
        tensors: what it holds.
        metadata: its description, plain JSON values; the tensors' digest is added.
        kind: a key of ``KINDS``.

    Raises:
        ValueError: a description that is not JSON, tensors of another dtype, or more than reading would accept.
    """
    needed = KINDS[kind]
    metadata = dict(metadata) | {"kind": kind, "digest": digest(tensors)}
    try:
        _check_description(metadata, needed, where="what was to be saved")
        text = json.dumps(metadata, allow_nan=True, sort_keys=True)
    except (TypeError, RecursionError) as error:
        raise ValueError(
            f"a model card must hold plain JSON values; got {error}, use numbers, strings, lists and dicts"
        ) from error
    # The digest of the description itself guards the card and the tree, as the digest of tensors guards them.
    signed = {METADATA_KEY: text, DIGEST_KEY: hashlib.sha256(text.encode()).hexdigest()}
    content = serialise(dict(tensors), metadata=signed)
    (length,) = struct.unpack("<Q", content[:8])
    found = needed.oversized(len(content), length)
    if found:
        raise ValueError(f"{needed.word} must not be too large to be read back; got {found}, save less in it")
    header: dict[str, Any] = json.loads(content[8 : 8 + length])
    foreign = {entry["dtype"] for name, entry in header.items() if name != "__metadata__"} - needed.dtypes
    if foreign:
        raise ValueError(
            f"{needed.word}'s tensors must be of {', '.join(sorted(needed.dtypes))}; got {sorted(foreign)}, "
            "convert them"
        )
    return content


def read(path: Path, *, kind: str, format_version: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the description in a file, verified, in time and memory bounded by ``KINDS``.

    Args:
        path: of the file.
        kind: a key of ``KINDS``, which the file must say it is.
        format_version: which the file must be of.

    Raises:
        FileFormatError: it is not such a file, whole and undamaged and within the limits.
        OSError: it cannot be read.
    """
    needed = KINDS[kind]
    check_size(path, needed)
    try:
        with cast(Any, safe_open)(path, framework="pt") as file:
            metadata = _description(file.metadata() or {}, needed, path)
            version, own_kind = metadata.get("format_version"), metadata.get("kind")
            if type(version) is not int or version != format_version:
                must = f"'s format_version must be {format_version}"
                raise needed.refusal(must, f"{brief(version)} in {path}", "update l2l_opt")
            if own_kind != kind:
                raise needed.refusal(" must say that it is one", f"a {brief(own_kind)} file {path}", "use the other")
            _check_description(metadata, needed, where=str(path))
            names: list[str] = list(file.keys())
            for name in names:
                dtype = file.get_slice(name).get_dtype()
                if dtype not in needed.dtypes:
                    must = f"'s tensors must be of {', '.join(sorted(needed.dtypes))}"
                    raise needed.refusal(must, f"{brief(name)} of {dtype} in {path}", "write it anew")
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, UnicodeDecodeError, MemoryError) as error:
        raise needed.refusal(WHOLE, f"{path}: {shortened(str(error))}") from error
    if digest(tensors) != metadata.get("digest"):
        raise needed.refusal("'s tensors must match its digest", f"{path}, which is damaged")
    return tensors, metadata


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of tensors, in the order of their names."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().clone(memory_format=torch.contiguous_format)
        sha.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def shortened(text: str, limit: int = 200) -> str:
    """On one line, and no longer than a message should be."""
    text = " ".join(text[: 10 * limit].split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80


def brief(value: Any) -> str:
    """How a value that a file holds is shown in a message."""
    return shortened(_REPR.repr(value), 80)


def check_size(path: Path, needed: Kind) -> None:
    """Refuse a file whose size, or that of its header, is beyond the limits of its kind, before it is read.

    Raises:
        FileFormatError: it is, or it is no regular file, or shorter than its header.
        OSError: it cannot be read.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise needed.refusal(" must be a regular file", f"{path}, which is a pipe or device", "use a file")
        start = file.read(8)
    if len(start) < 8:
        raise needed.refusal(WHOLE, f"{path}: {len(start)} bytes")
    (length,) = struct.unpack("<Q", start)
    if 8 + length > status.st_size:
        raise needed.refusal(WHOLE, f"{path}: a header of {length} bytes in a file of {status.st_size}")
    found = needed.oversized(status.st_size, length)
    if found:
        raise needed.refusal(" must not be too large", f"{found} in {path}", "use a file that l2l_opt wrote")


def _description(header: dict[str, str], needed: Kind, path: Path) -> dict[str, Any]:
    text = header.get(METADATA_KEY)
    if text is None:
        raise needed.refusal(
            " must be written by l2l_opt", f"{path}, a safetensors file of other origin", "use another"
        )
    if hashlib.sha256(text.encode()).hexdigest() != header.get(DIGEST_KEY):
        raise needed.refusal("'s metadata must match its digest", f"{path}, which is damaged")
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise needed.refusal("'s metadata must be JSON", f"{path}: {shortened(str(error))}", "write it anew") from error
    if not is_dict(metadata):
        raise needed.refusal("'s metadata must be a JSON object", f"{brief(metadata)} in {path}", "write it anew")
    return metadata


def _check_description(metadata: Any, needed: Kind, *, where: str) -> None:
    """Refuse nesting that recursive code would fail on, and strings that cannot be printed."""
    level, values = 0, [metadata]
    while values:
        level += 1
        if level > needed.deepest:
            must = f"'s metadata must be nested at most {needed.deepest} levels deep"
            raise needed.refusal(must, f"more in {where}", "use flatter ones")
        keys = [key for value in values if is_dict(value) for key in value]
        try:
            "".join(text for text in [*values, *keys] if isinstance(text, str)).encode()
        except UnicodeEncodeError as error:
            got = f"a lone surrogate {brief(error.object[error.start])} in {where}"
            raise needed.refusal("'s metadata must be Unicode text", got, "use whole characters") from error
        below = [value.values() if is_dict(value) else value if is_list(value) else () for value in values]
        values = [item for items in below for item in items]
