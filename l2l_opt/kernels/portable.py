"""The coordinatewise LSTM in PyTorch alone, for every device and dtype: what serves where nothing was compiled.

It works in blocks of coordinates that stay in cache and keeps no activations for the backward pass but recomputes them
from the state. Shapes are the operator's: coordinates ``[rows, P, N]``, weights ``[P or 1, ...]``.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from l2l_opt.kernels.operands import Operands, new_like

BLOCK_LENGTH = 2048
"""Coordinates a block on a CPU: the gates of 20 units then take 650 kB, whatever the size of the student."""


def forward(operands: Operands) -> list[Tensor]:
    """Return outputs, next hidden and next cell states of each tensor, one list after the other."""
    inputs, hidden, cell, biases, weights = operands
    *gate_weights, readout = weights
    outputs, next_hidden, next_cell = operands.new_outputs(), new_like(hidden), new_like(cell)
    num_layers, units = len(gate_weights) // 2, readout.shape[-1]
    for x, h, c, bias, out, h_new, c_new in zip(
        inputs, hidden, cell, biases, outputs, next_hidden, next_cell, strict=True
    ):
        for block in _blocks(x):
            below = _by_particle(x[..., block])
            for layer in range(num_layers):
                rows = slice(layer * units, (layer + 1) * units)
                i, f, g, o = _gates(below, _by_particle(h[rows, :, block]).to(x.dtype), layer, bias, gate_weights)
                cells = f * _by_particle(c[rows, :, block]).to(x.dtype) + i * g
                below = o * cells.tanh()
                h_new[rows, :, block] = below.movedim(0, 1).to(h.dtype)
                c_new[rows, :, block] = cells.movedim(0, 1).to(c.dtype)
            shift = bias[:, 4 * num_layers * units :].unsqueeze(2)
            out[..., block] = (readout @ below + shift).movedim(0, 1)
    return [*outputs, *next_hidden, *next_cell]


def backward(
    operands: Operands, next_hidden: Sequence[Tensor], d_results: Sequence[Tensor | None], *, needs_d_inputs: bool
) -> list[Tensor]:
    """Return derivatives of inputs, hidden, cell, biases and weights, one list after the other.

    Args:
        operands: of the step.
        next_hidden: what ``forward`` returned of it.
        d_results: derivatives of all that ``forward`` returned; None for zeros.
        needs_d_inputs: without it those derivatives are left unset.
    """
    inputs, hidden, cell, biases, weights = operands
    *gate_weights, readout = weights
    num_layers, units = len(gate_weights) // 2, readout.shape[-1]
    d_inputs, d_hidden, d_cell = map(new_like, (inputs, hidden, cell))
    d_biases = [torch.zeros_like(bias) for bias in biases]
    d_weights = [torch.zeros_like(weight) for weight in weights]
    per_particle = readout.shape[0] > 1

    def add(total: Tensor, left: Tensor, right: Tensor) -> None:
        product = left @ right.transpose(1, 2)
        total += product if per_particle else product.sum(0, keepdim=True)

    for index, (x, h, c, h_new, bias) in enumerate(zip(inputs, hidden, cell, next_hidden, biases, strict=True)):
        d_out, d_h_new, d_c_new = d_results[index :: len(inputs)]
        for block in _blocks(x):

            def part(value: Tensor, layer: int, block: slice = block, dtype: torch.dtype = x.dtype) -> Tensor:
                rows = slice(layer * units, (layer + 1) * units)
                return _by_particle(value[rows, :, block]).to(dtype)

            d_above: Tensor | None = None
            if d_out is not None:
                d_block = _by_particle(d_out[..., block])
                top = _by_particle(h_new[-units:, :, block]).to(x.dtype)
                add(d_weights[-1], d_block, top)
                d_biases[index][:, 4 * num_layers * units :] += d_block.sum(2)
                d_above = readout.transpose(1, 2) @ d_block
            for layer in reversed(range(num_layers)):
                rows = slice(layer * units, (layer + 1) * units)
                h_old, c_old = part(h, layer), part(c, layer)
                below = part(h_new, layer - 1) if layer else _by_particle(x[..., block])
                i, f, g, o = _gates(below, h_old, layer, bias, gate_weights)
                tanh_cell = (f * c_old + i * g).tanh()
                d_here = torch.zeros_like(tanh_cell) if d_above is None else d_above
                d_here = d_here if d_h_new is None else d_here + part(d_h_new, layer)
                d_cell_here = d_here * o * (1 - tanh_cell * tanh_cell)
                d_cell_here = d_cell_here if d_c_new is None else d_cell_here + part(d_c_new, layer)
                d_gates = _d_gates((i, f, g, o), c_old, tanh_cell, d_here, d_cell_here)
                d_cell[index][rows, :, block] = (d_cell_here * f).movedim(0, 1).to(c.dtype)
                d_own = gate_weights[2 * layer + 1].transpose(1, 2) @ d_gates
                d_hidden[index][rows, :, block] = d_own.movedim(0, 1).to(h.dtype)
                add(d_weights[2 * layer], d_gates, below)
                add(d_weights[2 * layer + 1], d_gates, h_old)
                d_biases[index][:, 4 * layer * units : 4 * (layer + 1) * units] += d_gates.sum(2)
                d_above = gate_weights[2 * layer].transpose(1, 2) @ d_gates
            if needs_d_inputs:
                assert d_above is not None
                d_inputs[index][..., block] = d_above.movedim(0, 1)
    return [*d_inputs, *d_hidden, *d_cell, *d_biases, *d_weights]


def _d_gates(gates: tuple[Tensor, ...], c_old: Tensor, tanh_cell: Tensor, d_hidden: Tensor, d_cell: Tensor) -> Tensor:
    """Return derivatives of the four gates before their functions, one after the other."""
    i, f, g, o = gates
    parts = [d_cell * g * i * (1 - i), d_cell * c_old * f * (1 - f), d_cell * i * (1 - g * g)]
    return torch.cat([*parts, d_hidden * tanh_cell * o * (1 - o)], dim=1)


def _blocks(tensor: Tensor) -> Iterator[slice]:
    particles, count = tensor.shape[1:]
    if tensor.device.type != "cpu":
        return iter((slice(None),))
    length = max(BLOCK_LENGTH // max(particles, 1), 64)
    return (slice(start, start + length) for start in range(0, count, length))


def _by_particle(tensor: Tensor) -> Tensor:
    return tensor.movedim(1, 0)


def _gates(
    below: Tensor, hidden: Tensor, layer: int, bias: Tensor, gate_weights: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    units = hidden.shape[1]
    own_bias = bias[:, 4 * layer * units : 4 * (layer + 1) * units].unsqueeze(2)
    gates = gate_weights[2 * layer] @ below + own_bias + gate_weights[2 * layer + 1] @ hidden
    i, f, g, o = gates.chunk(4, dim=1)
    return i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
