"""The compiled kernels: found, described, and what their calls are made of.

Kernels and callers hand one another tables whose entries have names. The library lists these, in order (layouts.h).
"""

import ctypes
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
Rows = tuple[int, int, int]
"""Address and strides of ``[rows, P, N]``: of rows and of particles; those of coordinates are one."""
NOWHERE: Rows = (0, 0, 0)
TILE = 64
"""Coordinates that the kernels take at a time; as in lstm.h."""
TYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Of parameters and gradients that a step in place takes; as in layouts.h."""
DISABLED_BY = "L2L_OPT_NO_NATIVE"
"""Environment variable that, when set to anything, leaves the compiled kernels unused."""
INSTRUCTIONS_BY = "L2L_OPT_CPU_CAPABILITY"
"""Environment variable that names the instruction set of the compiled kernels, as ATEN_CPU_CAPABILITY does torch's."""
INSTRUCTIONS = ("default", "avx2", "avx512")
"""Its values, the least first, as lstm.cpp counts them."""
NOT_BUILT = "compiled kernels were not built: no C++ compiler was found when l2l_opt was installed"


def _load() -> tuple[ctypes.CDLL | None, str]:
    if os.environ.get(DISABLED_BY):
        return None, f"compiled kernels are switched off by {DISABLED_BY}"
    path = Path(__file__).with_name("_native.abi3.so")
    if not path.exists():
        return None, NOT_BUILT
    try:
        library = ctypes.CDLL(str(path))
        library.l2l_opt_instructions.restype = ctypes.c_char_p
        library.l2l_opt_layouts.restype = ctypes.c_char_p
    except (OSError, AttributeError) as error:
        return None, f"compiled kernels could not be loaded: {error}"
    choose_instructions(library)
    return library, "compiled"


def choose_instructions(library: ctypes.CDLL) -> None:
    """Use the instruction set that the environment names, or else the best that this processor has.

    Raises:
        ValueError: a name that is unknown, or of what this processor lacks.
    """
    best = library.l2l_opt_choose_instructions(len(INSTRUCTIONS) - 1)
    named = os.environ.get(INSTRUCTIONS_BY)
    if not named:
        return
    there = INSTRUCTIONS[: best + 1]
    if named not in there:
        raise ValueError(
            f"{INSTRUCTIONS_BY} must name an instruction set of this processor; got {named!r}, use {' or '.join(there)}"
        )
    library.l2l_opt_choose_instructions(there.index(named))


def _layouts() -> dict[str, tuple[str, ...]]:
    lines = [] if library is None else library.l2l_opt_layouts().decode().splitlines()
    pairs = (line.split(": ") for line in lines)
    return {name: tuple(entries.split(", ")) if entries else () for name, entries in pairs}


library, status = _load()
layouts = _layouts()
"""What the tables and structs of the kernels hold, in order; empty without kernels."""


def describe() -> str:
    """One line for people: which kernels compute the recurrent step on this machine, and why."""
    if library is None:
        return f"PyTorch ({status})"
    return f"compiled, {library.l2l_opt_instructions().decode()}"


def serves(tensors: Sequence[Tensor], *, states: Sequence[Tensor]) -> bool:
    """Whether the compiled kernels can compute on these: float32 on the CPU, states in float32 or bfloat16."""
    return (
        library is not None
        and all(t.device.type == "cpu" for t in (*tensors, *states))
        and all(t.dtype == torch.float32 for t in tensors)
        and len({t.dtype for t in states}) <= 1
        and all(t.dtype in (torch.float32, torch.bfloat16) for t in states)
    )


def in_order(layout: str, values: Mapping[str, T]) -> list[T]:
    """Values in the order in which the kernels read them.

    Raises:
        RuntimeError: other names than those of the layout: the library was compiled from another source.
    """
    names = layouts[layout]
    if values.keys() != set(names):
        raise RuntimeError(
            f"compiled kernels must be those of this l2l_opt; they read {', '.join(names)} as {layout} and were given "
            f"{', '.join(values)}, install l2l_opt again"
        )
    return [values[name] for name in names]


def integers(numbers: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
    """Whole numbers, addresses among them, as an array of C."""
    return (ctypes.c_int64 * len(numbers))(*numbers)


def addresses(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_int64]:
    """Where the first numbers of tensors lie."""
    return integers([tensor.data_ptr() for tensor in tensors])


def tensor_table(layout: str, counts: Sequence[int], **columns: Iterable[Rows]) -> ctypes.Array[ctypes.c_int64]:
    """Return what kernels are given of tensors of so many coordinates: where all that the layout names lies."""
    table: list[int] = []
    for count, *entries in zip(counts, *in_order(layout, columns), strict=True):
        table.append(count)
        for rows in entries:
            table += rows
    return integers(table)


class Formats:
    """How tensors lie that are not float32 or not contiguous, where the kernels read it for as long as this is kept."""

    def __init__(self) -> None:
        self._kept: list[ctypes.Array[ctypes.c_int64]] = []

    def of(self, tensor: Tensor) -> int:
        """Return the address of a tensor's format; 0 for contiguous float32."""
        contiguous = tensor.is_contiguous()
        if contiguous and tensor.dtype == torch.float32:
            return 0
        table = in_order("format", {"type": TYPES.index(tensor.dtype), "rank": 0 if contiguous else tensor.dim()})
        for size, stride in () if contiguous else zip(tensor.shape, tensor.stride(), strict=True):
            table += in_order("format.axis", {"size": size, "stride": stride})
        self._kept.append(integers(table))
        return ctypes.addressof(self._kept[-1])


def join(parts: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
    """Return ``[sets, n]`` of each part one after the other, ``[sets, sum of n]``, and where each begins in a set."""
    lengths = [part.shape[1] for part in parts]
    return torch.cat(list(parts), 1), [0, *itertools.accumulate(lengths)][:-1]


def point(table: ctypes.Array[ctypes.c_int64], layout: str, column: str, addresses: Sequence[int]) -> None:
    """Set where a column of a table lies now."""
    names = layouts[layout]
    length, place = 1 + 3 * len(names), 1 + 3 * names.index(column)
    for index, address in enumerate(addresses):
        table[index * length + place] = address


def problem(
    weights: Sequence[Tensor],
    *,
    particles: int,
    tensors: int,
    state_dtype: torch.dtype,
    averages_dtype: torch.dtype = torch.float32,
    steps: int = 1,
    options: int = 0,
) -> ctypes.Array[ctypes.c_int64]:
    """Return the sizes that a call of the kernels is about.

    Args:
        weights: as ``Operands`` has them.
        particles: beside one another in every tensor.
        tensors: how many there are.
        state_dtype: of hidden and cell states, float32 or bfloat16.
        averages_dtype: of moments, likewise.
        steps: of a window that is replayed.
        options: numbers that a rule's options take.
    """
    num_sets, num_outputs, units = weights[-1].shape
    sizes = {
        "inputs": weights[0].shape[2],
        "hidden": units,
        "layers": len(weights) // 2,
        "outputs": num_outputs,
        "particles": particles,
        "weight_sets": num_sets,
        "tensors": tensors,
        "steps": steps,
        "options": options,
        "threads": torch.get_num_threads(),
        "state_is_bfloat16": int(state_dtype == torch.bfloat16),
        "averages_are_bfloat16": int(averages_dtype == torch.bfloat16),
    }
    return integers(in_order("problem", sizes))
