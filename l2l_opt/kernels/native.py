"""The compiled kernels: found, described, and what their calls are made of."""

import ctypes
import importlib.machinery
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

TILE = 64
"""Coordinates that the kernels take at a time; as in lstm.h."""
DISABLED_BY = "L2L_OPT_NO_NATIVE"
"""Environment variable that, when set to anything, leaves the compiled kernels unused."""
INSTRUCTIONS_BY = "L2L_OPT_CPU_CAPABILITY"
"""Environment variable that names the instruction set of the compiled kernels, as ATEN_CPU_CAPABILITY does torch's."""
INSTRUCTIONS = ("default", "avx2", "avx512")
"""Its values, the least first, as lstm.cpp counts them."""


def _load() -> tuple[ctypes.CDLL | None, str]:
    if os.environ.get(DISABLED_BY):
        return None, f"compiled kernels are switched off by {DISABLED_BY}"
    folder = Path(__file__).parent
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = folder / f"_native{suffix}"
        if path.exists():
            try:
                library = ctypes.CDLL(str(path))
            except OSError as error:
                return None, f"compiled kernels could not be loaded: {error}"
            library.l2l_opt_instructions.restype = ctypes.c_char_p
            choose_instructions(library)
            return library, "compiled"
    return None, "compiled kernels were not built: no C++ compiler was found when l2l_opt was installed"


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


library, status = _load()


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
        and len({t.dtype for t in states}) == 1
        and states[0].dtype in (torch.float32, torch.bfloat16)
    )


def table(numbers: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
    """Whole numbers, addresses among them, as an array of C."""
    return (ctypes.c_int64 * len(numbers))(*numbers)


def addresses(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    """Where the first numbers of tensors lie."""
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))
