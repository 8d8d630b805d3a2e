"""The compiled kernels: found, described, and called with tables of addresses."""

import ctypes
import importlib.machinery
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

DISABLED_BY = "L2L_OPT_NO_NATIVE"
"""Environment variable that, when set to anything, leaves the compiled kernels unused."""


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
            return library, "compiled"
    return None, "compiled kernels were not built: no C++ compiler was found when l2l_opt was installed"


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


def lstm_forward(
    inputs: Sequence[Tensor],
    hidden: Sequence[Tensor],
    cell: Sequence[Tensor],
    biases: Sequence[Tensor],
    weights: Sequence[Tensor],
) -> list[Tensor]:
    """``portable.forward`` by the compiled kernels, on ``torch.get_num_threads()`` threads."""
    assert library is not None
    inputs, hidden, cell, biases = ([_dense(t) for t in kind] for kind in (inputs, hidden, cell, biases))
    weights = [weight.contiguous() for weight in weights]
    outputs = [x.new_empty(weights[-1].shape[1], *x.shape[1:]) for x in inputs]
    next_hidden = [torch.empty_like(h, memory_format=torch.contiguous_format) for h in hidden]
    next_cell = [torch.empty_like(c, memory_format=torch.contiguous_format) for c in cell]
    tensors: list[int] = []
    for x, h, c, bias, out, h_new, c_new in zip(
        inputs, hidden, cell, biases, outputs, next_hidden, next_cell, strict=True
    ):
        tensors += (
            x.shape[2],
            *_rows(x),
            *_rows(h),
            *_rows(c),
            *_bias(bias),
            *_rows(out),
            *_rows(h_new),
            *_rows(c_new),
        )
    if inputs:
        library.l2l_opt_lstm_forward(
            _shape(inputs, weights),
            _addresses(weights),
            _table(tensors),
            ctypes.c_int(torch.get_num_threads()),
            ctypes.c_int(hidden[0].dtype == torch.bfloat16),
        )
    return [*outputs, *next_hidden, *next_cell]


def lstm_backward(
    inputs: Sequence[Tensor],
    hidden: Sequence[Tensor],
    cell: Sequence[Tensor],
    biases: Sequence[Tensor],
    weights: Sequence[Tensor],
    next_hidden: Sequence[Tensor],
    d_results: Sequence[Tensor | None],
    *,
    needs_d_inputs: bool,
) -> list[Tensor]:
    """``portable.backward`` by the compiled kernels; without ``needs_d_inputs`` those derivatives are left unset."""
    assert library is not None
    inputs, hidden, cell, biases = ([_dense(t) for t in kind] for kind in (inputs, hidden, cell, biases))
    next_hidden = [_dense(h) for h in next_hidden]
    weights = [weight.contiguous() for weight in weights]
    d_results = [None if d is None else _dense(d) for d in d_results]
    d_inputs, d_hidden, d_cell = (
        [torch.empty_like(t, memory_format=torch.contiguous_format) for t in kind] for kind in (inputs, hidden, cell)
    )
    d_biases = [torch.zeros_like(bias, memory_format=torch.contiguous_format) for bias in biases]
    # All weights of one set lie together, each layer's two matrices side by side.
    (num_sets, num_outputs, units), num_layers = weights[-1].shape, len(weights) // 2
    widths = [weights[2 * layer].shape[2] + units for layer in range(num_layers)]
    d_flat = weights[-1].new_zeros(num_sets, 4 * units * sum(widths) + num_outputs * units)
    tensors: list[int] = []
    for index, (x, h, c, bias, h_new, d_x, d_h, d_c, d_bias) in enumerate(
        zip(inputs, hidden, cell, biases, next_hidden, d_inputs, d_hidden, d_cell, d_biases, strict=True)
    ):
        given = (d_results[index + kind * len(inputs)] for kind in range(3))
        tensors += (x.shape[2], *_rows(x), *_rows(h), *_rows(c), *_bias(bias), *_rows(h_new))
        tensors += (number for d in given for number in _rows(d))
        tensors += (*_rows(d_x if needs_d_inputs else None), *_rows(d_h), *_rows(d_c), *_bias(d_bias))
    if inputs:
        library.l2l_opt_lstm_backward(
            _shape(inputs, weights),
            _addresses(weights),
            _table(tensors),
            ctypes.c_void_p(d_flat.data_ptr()),
            ctypes.c_int(torch.get_num_threads()),
            ctypes.c_int(hidden[0].dtype == torch.bfloat16),
        )
    *by_layer, d_readout = d_flat.split([*(4 * units * width for width in widths), num_outputs * units], dim=1)
    d_weights: list[Tensor] = []
    for width, d_layer in zip(widths, by_layer, strict=True):
        below, own = d_layer.reshape(num_sets, 4 * units, width).split([width - units, units], dim=2)
        d_weights += [
            below.clone(memory_format=torch.contiguous_format),
            own.clone(memory_format=torch.contiguous_format),
        ]
    d_weights.append(d_readout.reshape(num_sets, num_outputs, units).clone(memory_format=torch.contiguous_format))
    return [*d_inputs, *d_hidden, *d_cell, *d_biases, *d_weights]


KINDS = ("log_sign", "ratios", "residual")
"""Rules whose whole step is compiled: by what their network sees."""


def step(
    kind: str,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    hidden: Sequence[Tensor],
    cell: Sequence[Tensor],
    averages: Sequence[Tensor],
    squares: Sequence[Tensor],
    numbers: Tensor,
    weights: Sequence[Tensor],
    biases: Tensor,
    options: Tensor,
    *,
    lr: float,
    decay: float,
    sign: float,
    guarded: bool,
) -> Tensor:
    """``operator.recurrent_step_`` by the compiled kernels."""
    assert library is not None
    weights = [weight.contiguous() for weight in weights]
    numbers, biases, options = numbers.contiguous(), biases.contiguous(), options.contiguous()
    bad = torch.zeros(len(params), dtype=torch.uint8)
    table: list[int] = []
    for index, (p, g, h, c) in enumerate(zip(params, grads, hidden, cell, strict=True)):
        table += (p.numel(), p.data_ptr(), g.data_ptr(), *_whole(h), *_whole(c))
        table += (*_whole(averages[index]), *_whole(squares[index])) if averages else (0,) * 6
        table.append(numbers[index].data_ptr() if numbers.numel() else 0)
    num_outputs, units = weights[-1].shape
    shape = _table([weights[0].shape[1], units, len(weights) // 2, num_outputs, 1, 1, len(params)])
    if params:
        library.l2l_opt_step(
            shape,
            ctypes.c_int(KINDS.index(kind)),
            _addresses(weights),
            _table(table),
            ctypes.c_void_p(biases.data_ptr()),
            ctypes.c_void_p(options.data_ptr()),
            (ctypes.c_float * 3)(lr, decay, sign),
            ctypes.c_int(guarded),
            ctypes.c_int(hidden[0].dtype == torch.bfloat16),
            ctypes.c_int(torch.get_num_threads()),
            ctypes.c_void_p(bad.data_ptr()),
        )
    return bad


def _whole(state: Tensor) -> tuple[int, int, int]:
    """Address and strides of a contiguous ``[rows, *param.shape]``."""
    return state.data_ptr(), state.numel() // max(state.shape[0], 1), 0


def _dense(tensor: Tensor) -> Tensor:
    """The tensor itself where its coordinates lie one after the other, otherwise a copy in which they do."""
    return tensor if tensor.shape[-1] <= 1 or tensor.stride(-1) == 1 else tensor.contiguous()


def _rows(tensor: Tensor | None) -> tuple[int, int, int]:
    """Address and strides of ``[rows, P, N]``."""
    return (0, 0, 0) if tensor is None else (tensor.data_ptr(), tensor.stride(0), tensor.stride(1))


def _bias(tensor: Tensor) -> tuple[int, int, int]:
    """Address and strides of ``[P, biases]``."""
    return tensor.data_ptr(), 0, tensor.stride(0)


def _shape(inputs: Sequence[Tensor], weights: Sequence[Tensor]) -> ctypes.Array[ctypes.c_int64]:
    num_inputs, particles, _ = inputs[0].shape
    num_sets, num_outputs, units = weights[-1].shape
    return _table([num_inputs, units, len(weights) // 2, num_outputs, particles, num_sets, len(inputs)])


def _table(numbers: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(numbers))(*numbers)


def _addresses(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))
