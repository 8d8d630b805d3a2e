"""The LSTM by the compiled kernels: a step, its derivatives, and many steps back from their inputs alone."""

import ctypes
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.profiler import record_function

from l2l_opt.kernels import native
from l2l_opt.kernels.operands import Operands, new_like, thirds

T = TypeVar("T", Tensor, Tensor | None)


def serves(operands: Operands) -> bool:
    """Whether the compiled kernels can compute on these."""
    inputs, hidden, cell, biases, weights = operands
    return native.serves([*inputs, *biases, *weights], states=[*hidden, *cell])


def forward(operands: Operands, into: Sequence[Sequence[Tensor]] | None = None) -> list[Tensor]:
    """``portable.forward`` by the compiled kernels, on ``torch.get_num_threads()`` threads.

    Args:
        operands: in float32, states in float32 or bfloat16.
        into: where outputs and the next hidden and cell states go, these perhaps where the old ones lie; new memory
            where None.
    """
    operands = _dense_operands(operands)
    outputs, next_hidden, next_cell = into or (
        operands.new_outputs(),
        new_like(operands.hidden),
        new_like(operands.cell),
    )
    results = {"outputs": outputs, "next_hidden": next_hidden, "next_cell": next_cell}
    _run("forward", operands, results)
    return [*outputs, *next_hidden, *next_cell]


def backward(
    operands: Operands, next_hidden: Sequence[Tensor], d_results: Sequence[Tensor | None], *, needs_d_inputs: bool
) -> list[Tensor]:
    """``portable.backward`` by the compiled kernels."""
    operands = _dense_operands(operands)
    d_outputs, d_next_hidden, d_next_cell = thirds(_dense(d_results))
    d_inputs, d_hidden, d_cell = map(new_like, operands[:3])
    d_biases = [torch.zeros_like(bias, memory_format=torch.contiguous_format) for bias in operands.biases]
    d_flat = _flat_weights(operands.weights)
    others = {
        "next_hidden": _dense(next_hidden),
        "d_outputs": d_outputs,
        "d_next_hidden": d_next_hidden,
        "d_next_cell": d_next_cell,
        "d_inputs": d_inputs if needs_d_inputs else [None] * len(d_inputs),
        "d_hidden": d_hidden,
        "d_cell": d_cell,
        "d_bias": d_biases,
    }
    _run("backward", operands, others, d_flat)
    return [*d_inputs, *d_hidden, *d_cell, *d_biases, *_weights_of(d_flat, operands.weights)]


@record_function("l2l_opt::lstm_replay")
def replay(
    operands: Operands,
    d_outputs: Sequence[Tensor],
    d_last: Sequence[tuple[Tensor | None, Tensor | None]],
    *,
    num_steps: int,
    needs_d_inputs: bool,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Back-propagation through K steps of which nothing but the inputs was kept.

    Every tile of coordinates runs through all steps again from its first state, and back while all is in cache.

    Args:
        operands: of the first step, but inputs of each tensor ``[K * num_inputs, P, N]``, one step after the other.
        d_outputs: derivatives of the outputs of each tensor, ``[K * num_outputs, P, N]``.
        d_last: derivatives of hidden and cell state after the last step, float32; None for zeros.
        num_steps: K.
        needs_d_inputs: without it those derivatives are not computed.

    Returns:
        Derivatives of inputs (an empty list where not needed), of biases, and of weights.
    """
    operands = _dense_operands(operands)
    d_inputs = new_like(operands.inputs) if needs_d_inputs else []
    d_biases = [bias.new_zeros(bias.shape) for bias in operands.biases]
    d_flat = _flat_weights(operands.weights)
    others = {
        "d_outputs": _dense(d_outputs),
        "d_last_hidden": _dense([d_hidden for d_hidden, _ in d_last]),
        "d_last_cell": _dense([d_cell for _, d_cell in d_last]),
        "d_inputs": d_inputs or [None] * len(d_biases),
        "d_bias": d_biases,
    }
    _run("replay", operands, others, d_flat, steps=num_steps)
    return d_inputs, d_biases, _weights_of(d_flat, operands.weights)


def _run(
    name: str,
    operands: Operands,
    others: Mapping[str, Sequence[Tensor | None]],
    d_weights: Tensor | None = None,
    *,
    steps: int = 1,
) -> None:
    """Call a kernel on operands and all else that its layout names."""
    assert native.library is not None
    inputs, hidden, cell, biases, weights = operands
    if not inputs:
        return
    columns = {"inputs": inputs, "hidden": hidden, "cell": cell, "bias": biases, **others}
    _, particles, _ = inputs[0].shape
    arguments = (
        native.problem(weights, particles=particles, tensors=len(inputs), state_dtype=hidden[0].dtype, steps=steps),
        native.addresses(weights),
        native.tensor_table(
            name, [x.shape[2] for x in inputs], **{key: map(_rows, own) for key, own in columns.items()}
        ),
    )
    ends = () if d_weights is None else (ctypes.c_void_p(d_weights.data_ptr()),)
    getattr(native.library, f"l2l_opt_lstm_{name}")(*arguments, *ends)


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
    """Return inputs of each layer, its own hidden state among them."""
    return [weights[2 * layer].shape[2] + weights[-1].shape[2] for layer in range(len(weights) // 2)]


def _dense_operands(operands: Operands) -> Operands:
    inputs, hidden, cell, biases = map(_dense, operands[:4])
    return Operands(inputs, hidden, cell, biases, [weight.contiguous() for weight in operands.weights])


def _dense(tensors: Sequence[T]) -> list[T]:
    """Tensors themselves where their coordinates lie one after the other, otherwise copies in which they do."""
    return [t if t is None or t.shape[-1] <= 1 or t.stride(-1) == 1 else t.contiguous() for t in tensors]


def _rows(tensor: Tensor | None) -> native.Rows:
    """Where ``[rows, P, N]`` lies, or ``[P, biases]``."""
    if tensor is None:
        return native.NOWHERE
    *rows, particles, _ = tensor.stride()
    return tensor.data_ptr(), sum(rows), particles
