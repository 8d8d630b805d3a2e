"""The LSTM by the compiled kernels: a step, its derivatives, and many steps back from their inputs alone."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.profiler import record_function

from l2l_opt.kernels import native


def forward(
    inputs: Sequence[Tensor],
    hidden: Sequence[Tensor],
    cell: Sequence[Tensor],
    biases: Sequence[Tensor],
    weights: Sequence[Tensor],
    into: tuple[Sequence[Tensor], Sequence[Tensor]] | None = None,
) -> list[Tensor]:
    """``portable.forward`` by the compiled kernels, on ``torch.get_num_threads()`` threads.

    Args:
        into: where the next hidden and cell states go, perhaps where the old ones lie; new memory where None.
    """
    assert native.library is not None
    inputs, hidden, cell, biases = ([_dense(t) for t in kind] for kind in (inputs, hidden, cell, biases))
    weights = [weight.contiguous() for weight in weights]
    outputs = [x.new_empty(weights[-1].shape[1], *x.shape[1:]) for x in inputs]
    next_hidden, next_cell = into or (
        [torch.empty_like(t, memory_format=torch.contiguous_format) for t in kind] for kind in (hidden, cell)
    )
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
        native.library.l2l_opt_lstm_forward(
            _shape(inputs, weights),
            native.addresses(weights),
            native.table(tensors),
            ctypes.c_int(torch.get_num_threads()),
            ctypes.c_int(hidden[0].dtype == torch.bfloat16),
        )
    return [*outputs, *next_hidden, *next_cell]


def backward(
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
    assert native.library is not None
    inputs, hidden, cell, biases = ([_dense(t) for t in kind] for kind in (inputs, hidden, cell, biases))
    next_hidden = [_dense(h) for h in next_hidden]
    weights = [weight.contiguous() for weight in weights]
    d_results = [None if d is None else _dense(d) for d in d_results]
    d_inputs, d_hidden, d_cell = (
        [torch.empty_like(t, memory_format=torch.contiguous_format) for t in kind] for kind in (inputs, hidden, cell)
    )
    d_biases = [torch.zeros_like(bias, memory_format=torch.contiguous_format) for bias in biases]
    d_flat = _flat_weights(weights)
    tensors: list[int] = []
    for index, (x, h, c, bias, h_new, d_x, d_h, d_c, d_bias) in enumerate(
        zip(inputs, hidden, cell, biases, next_hidden, d_inputs, d_hidden, d_cell, d_biases, strict=True)
    ):
        given = (d_results[index + kind * len(inputs)] for kind in range(3))
        tensors += (x.shape[2], *_rows(x), *_rows(h), *_rows(c), *_bias(bias), *_rows(h_new))
        tensors += (number for d in given for number in _rows(d))
        tensors += (*_rows(d_x if needs_d_inputs else None), *_rows(d_h), *_rows(d_c), *_bias(d_bias))
    if inputs:
        native.library.l2l_opt_lstm_backward(
            _shape(inputs, weights),
            native.addresses(weights),
            native.table(tensors),
            ctypes.c_void_p(d_flat.data_ptr()),
            ctypes.c_int(torch.get_num_threads()),
            ctypes.c_int(hidden[0].dtype == torch.bfloat16),
        )
    return [*d_inputs, *d_hidden, *d_cell, *d_biases, *_weights_of(d_flat, weights)]


@record_function("l2l_opt::lstm_replay")
def replay(
    inputs: Sequence[Tensor],
    hidden: Sequence[Tensor],
    cell: Sequence[Tensor],
    biases: Sequence[Tensor],
    weights: Sequence[Tensor],
    d_outputs: Sequence[Tensor],
    d_last: Sequence[tuple[Tensor | None, Tensor | None]],
    *,
    num_steps: int,
    needs_d_inputs: bool,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Back-propagation through K steps of which nothing but the inputs was kept.

    Every tile of coordinates runs through all steps again from its first state, and back while all is in cache.

    Args:
        inputs: of each tensor ``[K * num_inputs, P, N]``, one step after the other.
        hidden: of each tensor ``[num_layers * hidden_size, P, N]``, before the first step.
        cell: likewise.
        biases: of each tensor ``[P, 4 * hidden_size * num_layers + num_outputs]``.
        weights: as ``portable.forward`` takes them.
        d_outputs: derivatives of the outputs of each tensor, ``[K * num_outputs, P, N]``.
        d_last: derivatives of hidden and cell state after the last step, float32; None for zeros.
        num_steps: K.
        needs_d_inputs: without it those derivatives are not computed.

    Returns:
        Derivatives of inputs (an empty list where not needed), of biases, and of weights.
    """
    assert native.library is not None
    inputs, hidden, cell, biases, d_outputs = (
        [_dense(t) for t in kind] for kind in (inputs, hidden, cell, biases, d_outputs)
    )
    weights = [weight.contiguous() for weight in weights]
    d_inputs = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs] if needs_d_inputs else []
    d_biases = [bias.new_zeros(bias.shape) for bias in biases]
    d_flat = _flat_weights(weights)
    ends = [tuple(None if d is None else _dense(d) for d in pair) for pair in d_last]
    tensors: list[int] = []
    for index, (x, h, c, bias, d_out, (d_h, d_c), d_bias) in enumerate(
        zip(inputs, hidden, cell, biases, d_outputs, ends, d_biases, strict=True)
    ):
        tensors += (x.shape[2], *_rows(x), *_rows(h), *_rows(c), *_bias(bias), *_rows(d_out), *_rows(d_h), *_rows(d_c))
        tensors += (*_rows(d_inputs[index] if needs_d_inputs else None), *_bias(d_bias))
    if inputs:
        native.library.l2l_opt_lstm_replay(
            _shape(inputs, weights, num_steps=num_steps),
            native.addresses(weights),
            native.table(tensors),
            ctypes.c_int(num_steps),
            ctypes.c_void_p(d_flat.data_ptr()),
            ctypes.c_int(torch.get_num_threads()),
            ctypes.c_int(hidden[0].dtype == torch.bfloat16),
        )
    return d_inputs, d_biases, _weights_of(d_flat, weights)


def _flat_weights(weights: Sequence[Tensor]) -> Tensor:
    """Zeros for derivatives of weights: all of one set lie together, each layer's two matrices side by side."""
    num_sets, num_outputs, units = weights[-1].shape
    return weights[-1].new_zeros(num_sets, 4 * units * sum(_widths(weights)) + num_outputs * units)


def _weights_of(flat: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    (num_sets, num_outputs, units), widths = weights[-1].shape, _widths(weights)
    *by_layer, readout = flat.split([*(4 * units * width for width in widths), num_outputs * units], dim=1)
    matrices: list[Tensor] = []
    for width, layer in zip(widths, by_layer, strict=True):
        matrices += layer.reshape(num_sets, 4 * units, width).split([width - units, units], dim=2)
    matrices.append(readout.reshape(num_sets, num_outputs, units))
    return [matrix.clone(memory_format=torch.contiguous_format) for matrix in matrices]


def _widths(weights: Sequence[Tensor]) -> list[int]:
    """Inputs of each layer, its own hidden state among them."""
    return [weights[2 * layer].shape[2] + weights[-1].shape[2] for layer in range(len(weights) // 2)]


def _dense(tensor: Tensor) -> Tensor:
    """The tensor itself where its coordinates lie one after the other, otherwise a copy in which they do."""
    return tensor if tensor.shape[-1] <= 1 or tensor.stride(-1) == 1 else tensor.contiguous()


def _rows(tensor: Tensor | None) -> tuple[int, int, int]:
    """Address and strides of ``[rows, P, N]``."""
    return (0, 0, 0) if tensor is None else (tensor.data_ptr(), tensor.stride(0), tensor.stride(1))


def _bias(tensor: Tensor) -> tuple[int, int, int]:
    """Address and strides of ``[P, biases]``."""
    return tensor.data_ptr(), 0, tensor.stride(0)


def _shape(inputs: Sequence[Tensor], weights: Sequence[Tensor], *, num_steps: int = 1) -> ctypes.Array[ctypes.c_int64]:
    rows, particles, _ = inputs[0].shape
    num_sets, num_outputs, units = weights[-1].shape
    return native.table([rows // num_steps, units, len(weights) // 2, num_outputs, particles, num_sets, len(inputs)])
