"""The compiled kernels: found, described, and called with tables of addresses."""

import ctypes
import importlib.machinery
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function

TILE = 64
"""Coordinates that the kernels take at a time; as in lstm.h."""
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
    into: tuple[Sequence[Tensor], Sequence[Tensor]] | None = None,
) -> list[Tensor]:
    """``portable.forward`` by the compiled kernels, on ``torch.get_num_threads()`` threads.

    Args:
        into: where the next hidden and cell states go, perhaps where the old ones lie; new memory where None.
    """
    assert library is not None
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
        library.l2l_opt_lstm_backward(
            _shape(inputs, weights),
            _addresses(weights),
            _table(tensors),
            ctypes.c_void_p(d_flat.data_ptr()),
            ctypes.c_int(torch.get_num_threads()),
            ctypes.c_int(hidden[0].dtype == torch.bfloat16),
        )
    return [*d_inputs, *d_hidden, *d_cell, *d_biases, *_weights_of(d_flat, weights)]


@record_function("l2l_opt::lstm_replay")
def lstm_replay(
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
    assert library is not None
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
        library.l2l_opt_lstm_replay(
            _shape(inputs, weights, num_steps=num_steps),
            _addresses(weights),
            _table(tensors),
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


KINDS = ("log_sign", "ratios", "residual", "scale_free")
"""Rules whose whole step is compiled: by what their network sees."""
MOST_WHITENED = 128
"""Rows or columns, whichever are fewer, of matrices that the kernels whiten themselves; as in whiten.h."""
MOST_MEMORIES = 9
"""Numbers that a kind may keep of a tensor; as in lstm.cpp."""


class PreparedStep:
    """A step in place of tensors that stay where they are, but for their gradients.

    What is passed in is kept alive. Of P particles every tensor of a student has a leading axis of length P.

    Args:
        kind: of ``KINDS``.
        params: the parameters.
        hidden: ``[P, rows, *param.shape]``; the cell and moments likewise, these lists empty for a kind without any.
        memories: each ``[P]``, all tensors' first memory first.
        numbers: ``[tensors, P, numbers]``.
        weights: of each layer input and hidden weights, then the read-out's, each ``[sets, ...]``.
        biases: ``[sets, biases]``.
        options: ``[sets, options]``.
        whitening: as ``CompiledStep`` has it.
        leaves_directions: whether updates are made of directions.
    """

    ROW, GRADIENT, DIRECTION = 18 + MOST_MEMORIES, 2, 17 + MOST_MEMORIES

    def __init__(
        self,
        kind: str,
        params: Sequence[Tensor],
        hidden: Sequence[Tensor],
        cell: Sequence[Tensor],
        averages: Sequence[Tensor],
        squares: Sequence[Tensor],
        memories: Sequence[Tensor],
        numbers: Tensor,
        weights: Sequence[Tensor],
        biases: Tensor,
        options: Tensor,
        whitening: Tensor,
        *,
        leaves_directions: bool,
    ):
        weights = [weight.contiguous() for weight in weights]
        numbers, biases, options = numbers.contiguous(), biases.contiguous(), options.contiguous()
        num_sets, num_outputs, units = weights[-1].shape
        particles = numbers.shape[1]
        table: list[int] = []
        for index, (p, h, c) in enumerate(zip(params, hidden, cell, strict=True)):
            count = p.numel() // particles
            table += (count, p.data_ptr(), 0, *_whole(h, count, particles), *_whole(c, count, particles))
            if averages:
                table += (*_whole(averages[index], count, particles), *_whole(squares[index], count, particles))
            else:
                table += (0,) * 6
            table += (numbers[index].data_ptr() if numbers.numel() else 0, numbers.shape[2])
            kept = [memory.data_ptr() for memory in memories[index :: len(params)]]
            table += (*kept, *[0] * (MOST_MEMORIES - len(kept)), 0)
        self.table, self.addresses = _table(table), _addresses(weights)
        self.shape = _table(
            [weights[0].shape[2], units, len(weights) // 2, num_outputs, particles, num_sets, len(params)]
        )
        self.kind, self.is_bfloat16 = KINDS.index(kind), bool(hidden) and hidden[0].dtype == torch.bfloat16
        self.numbers, self.biases, self.options, self.whitening = numbers, biases, options, whitening
        self.starts = [0]
        for p in params:
            self.starts.append(self.starts[-1] + (p.numel() if leaves_directions else 0))
        self.kept = (list(params), list(hidden), list(cell), list(averages), list(squares), list(memories), weights)

    def run(
        self, gradients: Sequence[int], *, lr: float, decay: float, sign: float, guarded: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Take one step.

        Args:
            gradients: addresses, of contiguous float32 in the order of params.
            lr: of the update; decay, sign and guarded as for ``recurrent_step_``.

        Returns:
            Flags ``[tensors]``, choices ``[tensors, P, 2]``, and all directions one after the other (see ``starts``).
        """
        assert library is not None
        count = len(gradients)
        flags = torch.zeros(count, dtype=torch.uint8)
        choices = torch.zeros(count, self.numbers.shape[1], 2)
        directions = torch.empty(self.starts[-1])
        base = directions.data_ptr()
        for index, address in enumerate(gradients):
            row = index * self.ROW
            self.table[row + self.GRADIENT] = address
            if self.starts[-1]:
                self.table[row + self.DIRECTION] = base + 4 * self.starts[index]
        if count:
            library.l2l_opt_step(
                self.shape,
                ctypes.c_int(self.kind),
                self.addresses,
                self.table,
                ctypes.c_void_p(self.biases.data_ptr()),
                ctypes.c_void_p(self.options.data_ptr()),
                ctypes.c_int64(self.options.shape[1]),
                (ctypes.c_float * 3)(lr, decay, sign),
                ctypes.c_int(guarded),
                ctypes.c_int(self.is_bfloat16),
                ctypes.c_int(torch.get_num_threads()),
                ctypes.c_void_p(flags.data_ptr()),
                ctypes.c_void_p(choices.data_ptr()),
                ctypes.c_void_p(self.whitening.data_ptr()),
                ctypes.c_int64(self.whitening.numel() // 3),
            )
        return flags, choices, directions


def step(
    kind: str,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    *state: Any,
    leaves_directions: bool,
    lr: float,
    decay: float,
    sign: float,
    guarded: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """``operator.recurrent_step_`` by the compiled kernels."""
    prepared = PreparedStep(kind, params, *state, leaves_directions=leaves_directions)
    addresses = [gradient.data_ptr() for gradient in grads]
    return prepared.run(addresses, lr=lr, decay=decay, sign=sign, guarded=guarded)


def finishes(shape: Sequence[int]) -> bool:
    """Whether the kernels make updates of directions of this shape, or leave that to the caller."""
    rows = shape[0] if len(shape) else 1
    return min(rows, math.prod(shape) // max(rows, 1)) <= MOST_WHITENED


def _whole(state: Tensor, count: int, particles: int) -> tuple[int, int, int]:
    """Address and strides of a contiguous ``[particles, rows, *param.shape]`` of so many coordinates a particle."""
    return state.data_ptr(), count, state.numel() // particles


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
    return _table([rows // num_steps, units, len(weights) // 2, num_outputs, particles, num_sets, len(inputs)])


def _table(numbers: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(numbers))(*numbers)


def _addresses(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))
