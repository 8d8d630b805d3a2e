"""Seeded ways to damage files and state dicts; fuzz_files.py tries what loading makes of them.

A mutation takes a random.Random and what is to be damaged, and returns the damaged. Those of ``RESIGNED`` recompute the
digests afterwards, as somebody would who means harm.
"""

import copy
import hashlib
import io
import json
import os
import random
import struct
import zipfile
from collections.abc import Callable, Iterable
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from l2l_opt.storage.safetensors_file import DIGEST_KEY, METADATA_KEY, digest

Random = random.Random


class Payload:
    """What a pickle would execute: makes a file whose existence proves it."""

    def __init__(self, witness: str):
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.witness,)


def hostile_value(rng: Random) -> Any:
    """A JSON value of a kind, size or depth that is hardly expected."""
    deep: Any = 0
    for _ in range(rng.choice([5, 40, 900])):
        deep = [deep] if rng.random() < 0.5 else {"parts": deep}
    choices = [
        None, True, -1, 0, 2, 1.5, 10**9, 10**18, 10**30, 10**400, -(10**9), float("nan"), float("inf"), 1e308, 5e-324,
        "", "x", "lstm", "adam:lr=0.1", "composed", "sgd:lr=" + "(" * 500, "\x1b[31mred", "\ud800", "a" * 5000,
        [], {}, [[]], {"": None}, {"rule": "lstm"}, [{"rule": "lstm"}] * 50, deep,
    ]  # fmt: skip
    return rng.choice(choices)


# Damage to bytes: nothing that differs may load.


def flip(rng: Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(len(changed))] ^= rng.randint(1, 255)
    return bytes(changed)


def flip_header(rng: Random, content: bytes) -> bytes:
    (length,) = struct.unpack("<Q", content[:8])
    return flip(rng, content[: 8 + length]) + content[8 + length :]


def cut(rng: Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content))]


def insert(rng: Random, content: bytes) -> bytes:
    place = rng.randint(0, len(content))
    return content[:place] + rng.randbytes(rng.choice([1, 8, 1000])) + content[place:]


def delete(rng: Random, content: bytes) -> bytes:
    start = rng.randrange(len(content))
    return content[:start] + content[start + rng.choice([1, 8, 1000]) :]


def repeat(rng: Random, content: bytes) -> bytes:
    start = rng.randrange(len(content))
    part = content[start : start + rng.choice([1, 8, 1000])]
    return content[:start] + part + content[start:]


def header_length(rng: Random, content: bytes) -> bytes:
    (length,) = struct.unpack("<Q", content[:8])
    claims = [
        0,
        1,
        length - 1,
        length + 1,
        len(content),
        2**20,
        10**8,
        2**31,
        2**40,
        2**63,
        2**64 - 1,
        rng.getrandbits(64),
    ]
    return struct.pack("<Q", rng.choice(claims)) + content[8:]


def tensor_table(rng: Random, content: bytes) -> bytes:
    """An entry of the table of tensors claims another place, shape or dtype, or a huge one; tensors come and go."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    names = [name for name in header if name != "__metadata__"]
    if not names:
        return flip(rng, content)
    name = rng.choice(names)
    kind = rng.choice(["dtype", "shape", "data_offsets", "drop", "add", "twice", "no metadata"])
    if kind == "dtype":
        header[name]["dtype"] = rng.choice(["F64", "F16", "BF16", "I8", "BOOL", "C64", "F8_E4M3", "F4", "X", 3, None])
    elif kind == "shape":
        header[name]["shape"] = rng.choice(
            [[], [0], [2**62, 4], [10**10], [-1], [1.5], "x", [[1]], [1] * 100_000, None]
        )
    elif kind == "data_offsets":
        header[name]["data_offsets"] = rng.choice(
            [[0, 2**63], [0, 0], [5, 1], [-4, 4], [0], "x", [0, len(content) * 2]]
        )
    elif kind == "drop":
        del header[name]
    elif kind == "add":
        header["one more"] = {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}
    elif kind == "no metadata":
        header["__metadata__"] = rng.choice([None, {}, [], {METADATA_KEY: 3}, {METADATA_KEY: "{}"}, {DIGEST_KEY: "x"}])
    text = json.dumps(header).encode()
    if kind == "twice":
        text = text[:-1] + f', {json.dumps(name)}: {{"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}}}'.encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def foreign(rng: Random, content: bytes, witness: str) -> bytes:
    """Another format altogether, or a pickle that executes something."""
    kind = rng.choice(["noise", "pickle", "zip", "json", "safetensors", "huge header", "empty"])
    buffer = io.BytesIO()
    if kind == "noise":
        return rng.randbytes(rng.randint(1, 5000))
    if kind == "pickle":
        torch.save({"state": Payload(witness)}, buffer)
    elif kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("rule.safetensors", content)
    elif kind == "json":
        buffer.write(json.dumps({"rule": hostile_value(rng)}).encode())
    elif kind == "safetensors":
        buffer.write(save({"a": torch.zeros(rng.randint(0, 9))}, metadata={"format": "pt"}))
    elif kind == "huge header":
        text = b'{"a": ' + b"[" * rng.choice([1000, 3 * 2**20])
        buffer.write(struct.pack("<Q", len(text)) + text)
    return buffer.getvalue()


# Damage to what a file states, with its digests made to fit: what loads must be what the file states.


def change_card(rng: Random, _tensors: dict[str, Tensor], card: dict[str, Any]) -> None:
    """A hostile value anywhere in the description."""
    _replace_somewhere(rng, card)


def change_config(rng: Random, _tensors: dict[str, Tensor], card: dict[str, Any]) -> None:
    """Config or name of the rule, or a checkpoint's tree."""
    key = "rule" if "rule" in card else "tree"
    if key == "rule" and rng.random() < 0.5:
        card["rule"]["config"][rng.choice([*card["rule"]["config"], "extra"])] = hostile_value(rng)
    else:
        _replace_somewhere(rng, card[key])


def change_sizes(rng: Random, _tensors: dict[str, Tensor], card: dict[str, Any]) -> None:
    """A rule that would be enormous, or parts within parts."""
    size = rng.choice([10**5, 10**9, 10**18, 10**30])
    nested: dict[str, Any] = {"rule": "lstm"}
    for _ in range(rng.choice([3, 9, 100])):
        nested = {"rule": "composed", "config": {"parts": [nested, {"rule": "lstm"}]}}
    rule = rng.choice(
        [
            {"name": "lstm", "config": {"hidden_size": size}},
            {"name": "lstm", "config": {"num_layers": size}},
            {"name": "lstm", "config": {"hidden_size": size, "num_layers": size}},
            {"name": "rnnprop", "config": {"hidden_size": size}},
            {"name": "compact", "config": {"hidden_size": size}},
            {"name": "composed", "config": {"parts": [{"rule": "lstm", "config": {"num_layers": size}}]}},
            {"name": "composed", "config": {"parts": [{"rule": f"lstm:num_layers={size}"}]}},
            {"name": "composed", "config": {"parts": [{"rule": "lstm", "name": "a{99999999999}"}]}},
            {"name": "composed", "config": {"parts": [{"rule": "composed"}] * 20_000}},
            {"name": "composed", "config": {"parts": [nested]}},
        ]
    )
    key = "rule" if "rule" in card else "tree"
    card[key] = rule


def change_version(rng: Random, _tensors: dict[str, Tensor], card: dict[str, Any]) -> None:
    card["format_version"] = rng.choice([0, 2, 10**9, "1", 1.0, True, None, [1], float("nan")])


def change_weights(rng: Random, tensors: dict[str, Tensor], card: dict[str, Any]) -> None:
    """A tensor of another name, shape or dtype, or not finite."""
    if not tensors:
        card["tree"] = {"tensor": "000000"}
        return
    name = rng.choice(sorted(tensors))
    weight = tensors[name]
    kind = rng.choice(
        ["drop", "add", "rename", "shape", "integers", "bool", "complex", "double", "nan", "inf", "empty"]
    )
    if kind in ("drop", "rename"):
        del tensors[name]
    if kind in ("add", "rename"):
        tensors[rng.choice(["other", "", "a.b.c", "\u2028"])] = weight.clone()
    if kind in ("nan", "inf"):
        tensors[name] = torch.full(weight.shape, float(kind))
    converted: dict[str, Callable[[], Tensor]] = {
        "shape": lambda: weight.reshape(-1, 1),
        "integers": lambda: weight.to(torch.int32),
        "bool": lambda: weight.to(torch.bool),
        "complex": lambda: weight.to(torch.complex64),
        "double": lambda: weight.to(torch.float64),
        "empty": lambda: weight.new_empty(0),
    }
    if kind in converted:
        tensors[name] = converted[kind]()


def resigned(rng: Random, content: bytes, mutation: Callable[..., None]) -> bytes:
    """A file changed by a mutation of ``RESIGNED``, with digests that fit."""
    (length,) = struct.unpack("<Q", content[:8])
    card = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][METADATA_KEY])
    tensors = load(content)
    mutation(rng, tensors, card)
    card["digest"] = digest(tensors)
    text = _dumps(card)
    if rng.random() < 0.05:
        text = rng.choice(["[" * 5000, "null", "3", '{"format_version": ' + "9" * 5000 + "}", "{'a': 1}", ""])
    return save(tensors, metadata={METADATA_KEY: text, DIGEST_KEY: hashlib.sha256(text.encode()).hexdigest()})


def _dumps(value: Any) -> str:
    try:
        return json.dumps(value)
    except RecursionError:
        return "[" * 5000


def _replace_somewhere(rng: Random, tree: Any) -> None:
    """Another value for one node of nested dicts and lists."""
    places = list(_places(tree))
    if not places:
        return
    holder, key = rng.choice(places)
    holder[key] = hostile_value(rng)


def _places(tree: Any) -> Iterable[tuple[Any, Any]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(items):
        yield tree, key
        yield from _places(value)


BYTES = {f.__name__: f for f in (flip, flip_header, cut, insert, delete, repeat, header_length, tensor_table)}
RESIGNED = {f.__name__: f for f in (change_card, change_config, change_sizes, change_version, change_weights)}


# Damage to state dicts.


def odd_value(rng: Random) -> Any:
    """A value of some kind that an entry of a state dict has not."""
    return rng.choice(
        [
            None, True, -1, 10**400, 1.5, float("nan"), float("inf"), "x", b"x", [], {}, {1}, object(), print, 1j,
            torch.zeros(3), torch.zeros(2**10, 2), torch.tensor(float("nan")), torch.zeros(2, dtype=torch.complex64),
            torch.zeros(3).to_sparse(), [[[[[[[[[[1]]]]]]]]]], {"a": {"b": 1}}, range(3), torch.nn.Linear(1, 1),
        ]
    )  # fmt: skip


def change_top(rng: Random, saved: dict[str, Any]) -> Any:
    kind = rng.choice(["other", "drop", "value"])
    if kind == "other":
        return odd_value(rng)
    key = rng.choice(["state", "param_groups"])
    if kind == "drop":
        del saved[key]
    else:
        saved[key] = odd_value(rng)
    return saved


def change_groups(rng: Random, saved: dict[str, Any]) -> Any:
    groups = saved["param_groups"]
    kind = rng.choice(["drop", "twice", "swap", "odd", "none"])
    if kind == "drop":
        groups.pop(rng.randrange(len(groups)))
    elif kind == "twice":
        groups.append(copy.deepcopy(rng.choice(groups)))
    elif kind == "swap":
        groups.reverse()
    elif kind == "odd":
        groups[rng.randrange(len(groups))] = odd_value(rng)
    else:
        groups.clear()
    return saved


def change_group(rng: Random, saved: dict[str, Any]) -> Any:
    group = rng.choice(saved["param_groups"])
    key = rng.choice([*group, "extra"])
    if rng.random() < 0.3:
        group.pop(key, None)
    else:
        group[key] = odd_value(rng)
    return saved


def change_params(rng: Random, saved: dict[str, Any]) -> Any:
    params = rng.choice(saved["param_groups"])["params"]
    kind = rng.choice(["drop", "add", "twice", "odd", "other"])
    if kind == "drop":
        params.pop()
    elif kind == "add":
        params.append(99)
    else:
        params[rng.randrange(len(params))] = {"twice": params[-1], "odd": odd_value(rng), "other": 10**30}[kind]
    return saved


def change_states(rng: Random, saved: dict[str, Any]) -> Any:
    """States go, come, are swapped between parameters, or are something else."""
    state = saved["state"]
    keys = list(state)
    kind = rng.choice(["drop", "odd", "unknown", "swap"])
    if kind == "drop":
        del state[rng.choice(keys)]
    elif kind == "odd":
        state[rng.choice(keys)] = odd_value(rng)
    elif kind == "unknown":
        state[rng.choice([99, "x", None, (1, 2)])] = state[keys[0]]
    else:
        a, b = rng.sample(keys, 2)
        state[a], state[b] = state[b], state[a]
    return saved


def change_state(rng: Random, saved: dict[str, Any]) -> Any:
    """One tensor of one parameter's state."""
    own = saved["state"][rng.choice(list(saved["state"]))]
    key = rng.choice(list(own))
    value = own[key]
    changes: dict[str, Callable[[], Any]] = {
        "odd": lambda: odd_value(rng),
        "flat": lambda: value.reshape(-1),
        "one more axis": lambda: value.unsqueeze(0),
        "longer": lambda: torch.cat([value.reshape(1, *value.shape)] * 2),
        "empty": lambda: value.new_empty(0),
        "integers": lambda: value.to(torch.int32),
        "complex": lambda: value.to(torch.complex64),
        "bool": lambda: value.to(torch.bool),
        "list": lambda: value.tolist(),
        "numpy": lambda: value.numpy(),
        "negative": lambda: -value - 1,
        "not finite": lambda: value * float("nan"),
        "infinite": lambda: value + float("inf"),
        "transposed": lambda: value.transpose(0, -1) if value.dim() else value,
    }
    kind = rng.choice(["drop", "rename", *changes])
    if kind in changes:
        own[key] = changes[kind]()
        return saved
    del own[key]
    if kind == "rename":
        own[rng.choice(["other", 3, None])] = value
    return saved


STATE_DICTS = {
    f.__name__: f for f in (change_top, change_groups, change_group, change_params, change_states, change_state)
}
