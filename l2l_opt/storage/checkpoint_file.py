"""A checkpoint: nested dicts and lists of tensors and plain values in one safetensors file, without pickle."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from l2l_opt.storage.files import write_atomically
from l2l_opt.storage.safetensors_file import FileFormatError, brief, read, serialised, shortened
from l2l_opt.types import is_dict, is_list

FORMAT_VERSION = 1


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


def _encode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = f"{len(tensors):06d}"
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if is_dict(value):
        return {"dict": [[key, _encode(item, tensors)] for key, item in value.items()]}
    if is_list(value):
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
    if kind != "value" or is_dict(content) or is_list(content):
        raise ValueError(f"a node must be a tensor, dict, list or value; got {brief(node)}")
    return content
