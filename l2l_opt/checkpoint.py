"""Files that outlive a process: artefacts (one rule) and checkpoints (a whole run), safetensors both, without pickle.

Either is written to a temporary file beside its place, flushed, and renamed, so that a reader finds the old file or
the new one and never a part.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from l2l_opt.rules import make_rule
from l2l_opt.rules.base import RULES, UpdateRule

FORMAT_VERSION = 1
METADATA_KEY = "l2l_opt"


class FileFormatError(ValueError):
    """A file that is not what it should be: truncated, damaged, foreign or from the future."""


def save_rule(rule: UpdateRule, path: str | os.PathLike[str], *, card: Mapping[str, Any] | None = None) -> str:
    """Write a rule to one self-describing file, atomically.

    Args:
        rule: of a registered kind.
        path: where to; by habit it ends in ``.safetensors``.
        card: what is known of the rule, plain JSON values: ``task``, ``horizon``, ``provenance``, ``figures``,
            ``licence``.

    Returns:
        The digest of phi.

    Raises:
        ValueError: a rule that is not registered, or a card that is not JSON.
        OSError: the place cannot be written.
    """
    phi = {name: weight.detach().cpu().contiguous() for name, weight in rule.named_parameters()}
    RULES.factory(rule.registry_name)
    metadata = dict(card or {}) | {
        "kind": "rule",
        "format_version": FORMAT_VERSION,
        "rule": {"name": rule.registry_name, "config": rule.config},
        "digest": digest(phi),
    }
    _write_safetensors(path, phi, metadata)
    return metadata["digest"]


def load_rule(source: str | os.PathLike[str]) -> UpdateRule:
    """Build the rule that an artefact holds. Nothing in the file is executed.

    Args:
        source: a path, or the name of a shipped artefact (``list_pretrained()`` names them).

    Returns:
        The rule, on the CPU, with what the artefact says of itself as ``rule.card``.

    Raises:
        FileNotFoundError: neither a file nor a shipped name.
        FileFormatError: not an artefact, damaged, or of a later format (a ``ValueError``).
        ValueError: an artefact of a rule that is not registered in this process.
    """
    from l2l_opt.pretrained import find_artefact

    path = find_artefact(source)
    phi, card = _read_safetensors(path, kind="rule")
    try:
        name, config = card["rule"]["name"], card["rule"]["config"]
    except (KeyError, TypeError):
        raise FileFormatError(
            f"an artefact must name its rule; got none in {path}, save it anew with save_rule"
        ) from None
    if name not in RULES.names():
        raise ValueError(
            f"the rule of an artefact must be registered; got {name!r} in {path}, "
            "import the file that registers it first (--plugin FILE.py)"
        )
    try:
        with torch.random.fork_rng(devices=[]):
            rule = make_rule(name, **config)
        rule.load_state_dict(phi)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise FileFormatError(f"an artefact's weights must fit its rule {name!r}; got {path}: {reason}") from error
    for weight_name, weight in rule.named_parameters():
        # load_state_dict copies into the constructor's dtype; the artefact's own is kept.
        weight.data = phi[weight_name].clone()
    rule.card = card
    return rule


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of tensors, in the order of their names."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def save_tree(tree: Any, path: str | os.PathLike[str]) -> None:
    """Write nested dicts and lists of tensors and plain values to one file, atomically.

    Raises:
        TypeError: a value of another kind.
        OSError: the place cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    structure = _encode(tree, tensors)
    metadata = {"kind": "checkpoint", "format_version": FORMAT_VERSION, "digest": digest(tensors), "tree": structure}
    _write_safetensors(path, tensors, metadata)


def load_tree(path: str | os.PathLike[str]) -> Any:
    """Read what ``save_tree`` wrote.

    Raises:
        FileFormatError: not such a file, or a damaged one.
    """
    tensors, metadata = _read_safetensors(Path(path), kind="checkpoint")
    return _decode(metadata["tree"], tensors)


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


def _write_safetensors(path: str | os.PathLike[str], tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    try:
        # The digest of the metadata itself guards the card and the tree, as the digest of tensors guards them.
        text = json.dumps(metadata, allow_nan=True, sort_keys=True)
    except TypeError as error:
        raise ValueError(
            f"a card must hold plain JSON values; got {error}, use numbers, strings, lists and dicts"
        ) from error
    content = {METADATA_KEY: text, "metadata_digest": hashlib.sha256(text.encode()).hexdigest()}
    write_atomically(path, serialise(tensors, metadata=content))


def _read_safetensors(path: Path, *, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    word = "an artefact" if kind == "rule" else "a checkpoint"
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, UnicodeDecodeError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise FileFormatError(
            f"{word} must be a whole safetensors file; got {path}: {reason}, fetch or write it anew"
        ) from error
    text = header.get(METADATA_KEY)
    if text is None:
        raise FileFormatError(f"{word} must be written by l2l_opt; got {path}, a safetensors file of other origin")
    if hashlib.sha256(text.encode()).hexdigest() != header.get("metadata_digest"):
        raise FileFormatError(
            f"{word}'s metadata must match its digest; got {path}, which is damaged: fetch or write it anew"
        )
    metadata = json.loads(text)
    if metadata.get("format_version") != FORMAT_VERSION:
        raise FileFormatError(
            f"{word}'s format_version must be {FORMAT_VERSION}; got {metadata.get('format_version')!r} in {path}, "
            "update l2l_opt"
        )
    if metadata.get("kind") != kind:
        raise FileFormatError(
            f"{word} must say that it is one; got a {metadata.get('kind')!r} file {path}, use the other"
        )
    if digest(tensors) != metadata.get("digest"):
        raise FileFormatError(
            f"{word}'s tensors must match its digest; got {path}, which is damaged: fetch or write it anew"
        )
    return tensors, metadata


def _encode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = f"{len(tensors):06d}"
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _encode(item, tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"list": [_encode(item, tensors) for item in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    raise TypeError(f"a checkpoint must hold tensors and plain values; got {type(value).__name__}")


def _decode(node: Any, tensors: dict[str, Tensor]) -> Any:
    ((kind, content),) = node.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _decode(item, tensors) for key, item in content}
    if kind == "list":
        return [_decode(item, tensors) for item in content]
    return content
