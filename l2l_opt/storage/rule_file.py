"""Files that outlive a process: artefacts (one rule) and checkpoints (a whole run), safetensors both, without pickle.

Either is written to a temporary file beside its place, flushed, and renamed, so that a reader finds the old file or
the new one and never a part.
"""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from l2l_opt.bounded_building import build_rule
from l2l_opt.rules.base import RULES, UpdateRule
from l2l_opt.safe_files import FileFormatError, brief, digest, read, serialised, shortened

__all__ = ["FileFormatError", "digest", "load_rule", "load_tree", "save_rule", "save_tree", "write_atomically"]

FORMAT_VERSION = 1


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
        ValueError: a rule that is not registered, weights that are not finite, a card that is not JSON, or more than
            ``load_rule`` would read: 64 MiB, 1 MiB of card, cards nested 32 levels deep.
        OSError: the place cannot be written.
    """
    phi = {name: weight.detach().cpu().contiguous() for name, weight in rule.named_parameters()}
    RULES.factory(rule.registry_name)
    if not all(weight.isfinite().all() for weight in phi.values()):
        raise ValueError(
            f"a saved rule's weights must be finite; got others in {rule.registry_name!r}, save a sound one"
        )
    metadata = dict(card or {}) | {
        "format_version": FORMAT_VERSION,
        "rule": {"name": rule.registry_name, "config": rule.config},
    }
    write_atomically(path, serialised(phi, metadata, kind="rule"))
    return digest(phi)


def load_rule(source: str | os.PathLike[str]) -> UpdateRule:
    """Build the rule that an artefact holds. Nothing in the file is executed.

    Args:
        source: a path, or the name of a shipped artefact (``list_pretrained()`` names them).

    Returns:
        The rule, on the CPU, with what the artefact says of itself as ``rule.card``.

    Raises:
        FileNotFoundError: neither a file nor a shipped name.
        FileFormatError: not an artefact, damaged, of more than 64 MiB or of a later format (a ``ValueError``); weights
            that are not finite, or of other shapes than its config asks for.
        ValueError: an artefact of a rule that is not registered in this process.
    """
    from l2l_opt.pretrained import find_artefact

    path = find_artefact(source)
    phi, card = read(path, kind="rule", format_version=FORMAT_VERSION)
    about = card.get("rule")
    if not (isinstance(about, dict) and isinstance(about.get("name"), str) and isinstance(about.get("config"), dict)):
        raise FileFormatError(
            f"an artefact must name its rule and config; got {brief(about)} in {path}, save it anew with save_rule"
        )
    name = about["name"]
    if name not in RULES.names():
        raise ValueError(
            f"the rule of an artefact must be registered; got {brief(name)} in {path}, "
            "import the file that registers it first (--plugin FILE.py)"
        )
    try:
        rule = build_rule(name, about["config"], phi)
    except ValueError as error:
        reason = shortened(str(error))
        raise FileFormatError(
            f"an artefact's weights must fit its rule {name!r}; got {path}: {reason}, save it anew with save_rule"
        ) from error
    rule.card = card
    return rule


def save_tree(tree: Any, path: str | os.PathLike[str]) -> None:
    """Write nested dicts and lists of tensors and plain values to one file, atomically.

    Raises:
        TypeError: a value of another kind.
        OSError: the place cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    structure = _encode(tree, tensors)
    metadata = {"format_version": FORMAT_VERSION, "tree": structure}
    write_atomically(path, serialised(tensors, metadata, kind="checkpoint"))


def load_tree(path: str | os.PathLike[str]) -> Any:
    """Read what ``save_tree`` wrote.

    Raises:
        FileFormatError: not such a file, a damaged one, or one larger than this machine's memory.
    """
    tensors, metadata = read(Path(path), kind="checkpoint", format_version=FORMAT_VERSION)
    try:
        return _decode(metadata.get("tree"), tensors)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        reason = shortened(f"{type(error).__name__}: {error}")
        raise FileFormatError(
            f"a checkpoint's tree must be as save_tree writes it; got {path}: {reason}, go on from another"
        ) from error


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


def _encode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = f"{len(tensors):06d}"
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
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
    if kind != "value" or isinstance(content, (dict, list)):
        raise ValueError(f"a node must be a tensor, dict, list or value; got {brief(node)}")
    return content
