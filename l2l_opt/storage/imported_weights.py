"""Weights of rules that others have published, in the layouts of PyLO and of learned_optimization."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from l2l_opt.checks import check_choices
from l2l_opt.rules.base import UpdateRule, make_rule
from l2l_opt.storage.foreign_file import read_tensors
from l2l_opt.storage.rule_building import build_rule
from l2l_opt.storage.safetensors_file import FileFormatError, brief, shortened

Layers = list[tuple[Tensor, Tensor]]
"""Weight ``[outputs, inputs]`` and bias of each layer, the lowest first."""
OFFSETS = {
    "momentum_decays": "average_offsets",
    "rms_decays": "square_offsets",
    "adafactor_decays": "factored_offsets",
}
"""What learned_optimization and PyLO call the offsets of decays, and what the rule ``mlp`` calls them."""
CELO2_GROUPS, CELO2_OUTPUTS = (1, 1, 1, 3, 1, 3, 1, 3, 1, 3, 3, 3, 3, 3), 3
"""Features of each part of the first layer, and outputs of the last."""
COUNTS = {"momentum_decays": 3, "rms_decays": 1, "adafactor_decays": 3}
"""Numbers of each."""


def import_weights(
    path: str | os.PathLike[str], kind: str, *, decays: Mapping[str, Sequence[float]] | None = None, **options: Any
) -> UpdateRule:
    """Make a rule of weights that PyLO or learned_optimization published; ``save_rule`` then keeps it as an artefact.

    A state dict of PyLO is a safetensors file as it is published. A tree of learned_optimization is saved by
    ``numpy.savez`` or ``safetensors`` with the keys from its root joined by ``/``; only the last of them counts. The
    layout is found by the names, and nothing in a file is executed.

    ========  ==============================================  ======================================================
    kind      PyLO                                            learned_optimization
    ========  ==============================================  ======================================================
    mlp       ``network.input``, ``.linear_0``, ``.output``   ``w0``, ``b0``, ..., ``momentum_decays``, ...
    celo2     ``first_layer``, ``hidden``, ``output``; or     ``w0__0``, ..., ``w0__13``, ``b0``, ``w1``, ...
              ``w0.0``, ..., ``dense_w.0``, ...
    ========  ==============================================  ======================================================

    Args:
        path: of a safetensors or npz file, of at most 64 MiB, whatever its name.
        kind: of rule, ``mlp`` or ``celo2``.
        decays: of ``mlp``, offsets of decays where the file has none, as PyLO's, which passes them to its optimizer:
            ``momentum_decays``, ``rms_decays`` and ``adafactor_decays``, of 3, 1 and 3 numbers; otherwise zeros.
        options: further arguments of the rule, as ``output_scale=0.01``; its sizes are those of the weights.

    Returns:
        The rule, on the CPU, in float32.

    Raises:
        FileFormatError: it is damaged, or holds weights of another kind of rule (a ``ValueError``).
        ValueError: an unknown kind, decay or option.
        OSError: it is not there, or cannot be read.
    """
    check_choices(LAYOUTS, kind=kind)
    passed = _read_decays(decays or {}, kind)
    if sized := sorted({"hidden_size", "num_layers"} & set(options)):
        raise ValueError(f"the sizes of an imported rule must be its weights' own; got {sized[0]}, leave it out")
    make_rule(kind, **options)  # Options that it does not take are none of the file's faults.
    layers, others = _read_layout(read_tensors(path), kind, path)
    if kind == "celo2":
        # The other outputs are multiplied by zero there.
        weight, bias = layers[-1]
        if weight.shape[0] != CELO2_OUTPUTS:
            raise FileFormatError(
                f"the last layer of 'celo2' must have {CELO2_OUTPUTS} outputs; got {weight.shape[0]} in "
                f"{os.fspath(path)}, import them as the kind that they are"
            )
        layers[-1] = weight[:1], bias[:1]
    else:
        usual = {key: torch.zeros(count) for key, count in COUNTS.items()}
        others = {OFFSETS[key]: value for key, value in (usual | passed | others).items()}
    phi = dict(others)
    for index, (weight, bias) in enumerate(layers):
        phi |= {f"network.layers.{index}.weight": weight, f"network.layers.{index}.bias": bias}
    sizes = {"hidden_size": layers[0][0].shape[0], "num_layers": len(layers) - 1}
    try:
        return build_rule(kind, {**options, **sizes}, {name: weight.float() for name, weight in phi.items()})
    except ValueError as error:
        fix = "import them as the kind that they are" if _all_finite(phi.values()) else "export them anew"
        raise FileFormatError(
            f"imported weights must fit the rule {kind!r}; got {os.fspath(path)}: {shortened(str(error))}, {fix}"
        ) from error


def _all_finite(weights: Iterable[Tensor]) -> bool:
    return all(bool(weight.isfinite().all()) for weight in weights)


def _read_decays(decays: Mapping[str, Sequence[float]], kind: str) -> dict[str, Tensor]:
    """Return offsets of decays as tensors.

    Raises:
        ValueError: unknown ones, or what is not as many finite numbers.
    """
    unknown = set(decays) - (set(OFFSETS) if kind == "mlp" else set())
    if unknown:
        raise ValueError(
            f"decays must be of {', '.join(OFFSETS)}, of 'mlp'; got {sorted(unknown)} of {kind!r}, leave them out"
        )
    return {key: _read_numbers(key, own, COUNTS[key]) for key, own in decays.items()}


def _read_numbers(key: str, values: Any, count: int) -> Tensor:
    try:
        array = np.asarray(values)
    except (TypeError, ValueError):
        array = np.zeros(0)
    if array.dtype.kind not in "fiu" or array.shape != (count,) or not bool(np.isfinite(array).all()):
        example = [0.0] * count
        raise ValueError(f"{key} must be a list of {count} finite numbers; got {values!r}, use e.g. {key}={example}")
    return torch.from_numpy(array.astype(np.float32))  # pyright: ignore[reportUnknownMemberType]


def _read_layout(
    tensors: dict[str, Tensor], kind: str, path: str | os.PathLike[str]
) -> tuple[Layers, dict[str, Tensor]]:
    """Return the layers of a file of one of a kind's layouts, and what else is in it."""
    leaves: dict[str, Tensor] = {}
    # Of all layouts the one that knows most of the names states what is wrong.
    nearest, found = 0, f"{brief(', '.join(sorted(tensors)[:4]) or 'nothing')}, import them as the kind that they are"
    for name, value in tensors.items():
        leaf = name.split("/")[-1]
        if leaf in leaves:
            found, nearest = f"two tensors named {brief(leaf)}, leave one out", len(tensors)
        leaves[leaf] = value
    for layout in LAYOUTS[kind]:
        left = dict(leaves)
        try:
            layers = layout(left)
            others = sorted(left.keys() - (OFFSETS if kind == "mlp" else {}))
            if len(layers) > 1 and not others and len(leaves) == len(tensors):
                return layers, left
            wrong = (
                f"{brief(', '.join(others))} beside them, leave it out" if others else "one layer, import them whole"
            )
        except KeyError as error:
            wrong = f"no {brief(str(error.args[0]))}, import them whole"
        # Weights that are no matrices, or do not fit together.
        except RuntimeError as error:
            wrong = f"{shortened(str(error))}, import them as the kind that they are"
        if len(leaves) - len(left) > nearest:
            nearest, found = len(leaves) - len(left), wrong
    raise FileFormatError(
        f"imported weights must be named as PyLO or learned_optimization name those of {kind!r}; got "
        f"{os.fspath(path)} with {found}"
    )


def _state_dict_of_mlp(left: dict[str, Tensor]) -> Layers:
    prefix = "network." if "network.input.weight" in left else ""
    hidden = [f"linear_{index}" for index in range(len(left) // 2 - 2)]
    return [_take_linear(left, prefix + name) for name in ("input", *hidden, "output")]


def _tree_of_mlp(left: dict[str, Tensor]) -> Layers:
    count = sum(name.startswith("w") for name in left)
    return [(left.pop(f"w{index}").mT, left.pop(f"b{index}")) for index in range(count)]


def _state_dict_of_celo2(left: dict[str, Tensor]) -> Layers:
    return [_take_linear(left, name) for name in ("first_layer", "hidden", "output")]


def _parted_state_dict_of_celo2(left: dict[str, Tensor]) -> Layers:
    first = _take_parts(left, "w0."), left.pop("b0")
    count = sum(name.startswith("dense_w.") for name in left)
    return [first, *((left.pop(f"dense_w.{index}").mT, left.pop(f"dense_b.{index}")) for index in range(count))]


def _tree_of_celo2(left: dict[str, Tensor]) -> Layers:
    first = _take_parts(left, "w0__"), left.pop("b0")
    count = sum(name.startswith("w") for name in left)
    return [first, *((left.pop(f"w{index}").mT, left.pop(f"b{index}")) for index in range(1, count + 1))]


def _take_linear(left: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    return left.pop(f"{name}.weight"), left.pop(f"{name}.bias")


def _take_parts(left: dict[str, Tensor], prefix: str) -> Tensor:
    """Return the first layer's weight of its parts, one for a group of features, each ``[features, units]``."""
    count = sum(name.startswith(prefix) for name in left)
    parts = [left.pop(f"{prefix}{index}") for index in range(max(count, 1))]
    if (found := tuple(len(part) for part in parts)) != CELO2_GROUPS:
        raise RuntimeError(f"parts of {found} features where {CELO2_GROUPS} are wanted")
    return torch.cat(parts).mT


LAYOUTS: dict[str, tuple[Callable[[dict[str, Tensor]], Layers], ...]] = {
    "mlp": (_state_dict_of_mlp, _tree_of_mlp),
    "celo2": (_state_dict_of_celo2, _parted_state_dict_of_celo2, _tree_of_celo2),
}
"""Of each kind the layouts known, which take the layers out of what a file holds, or raise KeyError or RuntimeError."""
