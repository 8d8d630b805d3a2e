"""The coordinatewise LSTM as one operator over the tensors of a student.

It works in blocks of coordinates that stay in cache, keeps no activations for the backward pass but recomputes them
from the state, and under vmap folds students that share weights into coordinates.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from l2l_opt.kernels.reference import LSTMWeights, ReadoutWeights, coordinatewise_lstm

BLOCK_LENGTH = 2048
"""Coordinates a block on a CPU: the gates of 20 units then take 650 kB, whatever the size of the student."""


def fused_coordinatewise_lstm(
    inputs: list[Tensor], hidden: list[Tensor], cell: list[Tensor], layers: list[LSTMWeights], readout: ReadoutWeights
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """``reference.coordinatewise_lstm`` for a list of tensors at once, in less time and memory.

    Args:
        inputs: of each tensor ``[num_inputs, N]``, N its own number of coordinates.
        hidden: of each tensor ``[num_layers * hidden_size, N]``.
        cell: of each tensor ``[num_layers * hidden_size, N]``.
        layers: weights of each layer, all of one hidden size.
        readout: weights of the linear map at the end.

    Returns:
        Outputs ``[num_outputs, N]``, next hidden states and next cell states, a list of each.
    """
    weights = [tensor for layer in layers for tensor in layer] + list(readout)
    results = _FusedLSTM.apply(len(inputs), *inputs, *hidden, *cell, *weights)
    assert isinstance(results, tuple)
    outputs, next_hidden, next_cell = _thirds(results)
    return outputs, next_hidden, next_cell


def _thirds(tensors: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    count = len(tensors) // 3
    return list(tensors[:count]), list(tensors[count : 2 * count]), list(tensors[2 * count :])


def _unpack(weights: tuple[Tensor, ...]) -> tuple[list[LSTMWeights], ReadoutWeights]:
    layers = [LSTMWeights(*weights[start : start + 3]) for start in range(0, len(weights) - 2, 3)]
    return layers, ReadoutWeights(*weights[-2:])


def _blocks(tensor: Tensor) -> Iterator[slice]:
    length = BLOCK_LENGTH if tensor.device.type == "cpu" else max(tensor.shape[1], 1)
    return (slice(start, start + length) for start in range(0, tensor.shape[1], length))


def _gates(inputs: Tensor, hidden: Tensor, layer: LSTMWeights) -> tuple[Tensor, ...]:
    gates = torch.addmm(layer.bias.unsqueeze(1), layer.input, inputs).addmm_(layer.hidden, hidden)
    i, f, g, o = gates.chunk(4)
    return i.sigmoid_(), f.sigmoid_(), g.tanh_(), o.sigmoid_()


class _FusedLSTM(torch.autograd.Function):
    @staticmethod
    def forward(num_tensors: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        layers, readout = _unpack(tensors[3 * num_tensors :])
        all_outputs: list[Tensor] = []
        all_hidden: list[Tensor] = []
        all_cell: list[Tensor] = []
        for x, h, c in zip(*_thirds(tensors[: 3 * num_tensors]), strict=True):
            outputs = x.new_empty(readout.weight.shape[0], x.shape[1])
            next_hidden, next_cell = (torch.empty_like(s, memory_format=torch.contiguous_format) for s in (h, c))
            for block in _blocks(x):
                inputs = x[:, block]
                states = zip(*(s[:, block].chunk(len(layers)) for s in (h, c, next_hidden, next_cell)), strict=True)
                for layer, (h_old, c_old, h_new, c_new) in zip(layers, states, strict=True):
                    i, f, g, o = _gates(inputs, h_old, layer)
                    torch.addcmul(f.mul_(c_old), i, g, out=c_new)
                    inputs = torch.mul(o, torch.tanh(c_new, out=f), out=h_new)
                torch.addmm(readout.bias.unsqueeze(1), readout.weight, inputs, out=outputs[:, block])
            all_outputs.append(outputs)
            all_hidden.append(next_hidden)
            all_cell.append(next_cell)
        return *all_outputs, *all_hidden, *all_cell

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        num_tensors, *tensors = inputs
        ctx.num_tensors = num_tensors
        ctx.save_for_backward(*tensors, *output[num_tensors:])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        saved: tuple[Tensor, ...] = ctx.saved_tensors
        count = ctx.num_tensors
        arguments, weights = saved[: 3 * count], saved[3 * count : -2 * count]
        next_hidden, next_cell = saved[-2 * count : -count], saved[-count:]
        layers, readout = _unpack(weights)
        d_weights = tuple(torch.zeros_like(weight) for weight in weights)
        d_layers, d_readout = _unpack(d_weights)
        d_arguments = tuple(torch.empty_like(s, memory_format=torch.contiguous_format) for s in arguments)
        per_tensor = zip(
            *_thirds(arguments), next_hidden, next_cell, *_thirds(gradients), *_thirds(d_arguments), strict=True
        )
        for x, h, c, h_new, c_new, d_out, d_h_new, d_c_new, d_x, d_h, d_c in per_tensor:
            for block in _blocks(x):
                states = (s[:, block].chunk(len(layers)) for s in (h, c, h_new, c_new, d_h_new, d_c_new, d_h, d_c))
                per_layer = list(zip(layers, d_layers, *states, strict=True))
                d_readout.weight.addmm_(d_out[:, block], per_layer[-1][4].T)
                d_readout.bias.add_(d_out[:, block].sum(1))
                d_above = readout.weight.T @ d_out[:, block]
                for index in reversed(range(len(layers))):
                    layer, d_layer, h_l, c_l, _, c_new_l, d_h_new_l, d_c_new_l, d_h_l, d_c_l = per_layer[index]
                    below = x[:, block] if index == 0 else per_layer[index - 1][4]
                    i, f, g, o = _gates(below, h_l, layer)
                    tanh_cell = c_new_l.tanh()
                    d_above.add_(d_h_new_l)
                    d_cell = torch.addcmul(d_c_new_l, d_above.mul(o), 1 - tanh_cell * tanh_cell)
                    torch.mul(d_cell, f, out=d_c_l)
                    d_gates = torch.cat(
                        [
                            d_cell.mul(g).mul_(i).mul_(1 - i),
                            d_cell.mul(c_l).mul_(f).mul_(1 - f),
                            d_cell.mul(i).mul_(1 - g * g),
                            d_above.mul_(tanh_cell).mul_(o).mul_(1 - o),
                        ]
                    )
                    torch.mm(layer.hidden.T, d_gates, out=d_h_l)
                    d_layer.input.addmm_(d_gates, below.T)
                    d_layer.hidden.addmm_(d_gates, h_l.T)
                    d_layer.bias.add_(d_gates.sum(1))
                    d_above = layer.input.T @ d_gates
                d_x[:, block] = d_above
        return None, *d_arguments, *d_weights

    @staticmethod
    def vmap(  # pyright: ignore[reportIncompatibleMethodOverride]
        info: Any, in_dims: tuple[int | None, ...], num_tensors: int, *tensors: Tensor
    ) -> tuple[Any, Any]:
        dims, size = in_dims[1:], info.batch_size
        states, weights = tensors[: 3 * num_tensors], tensors[3 * num_tensors :]
        if any(dim is not None for dim in dims[3 * num_tensors :]):

            def per_student(*values: Tensor) -> tuple[Tensor, ...]:
                layers, readout = _unpack(values[3 * num_tensors :])
                columns = zip(*_thirds(values[: 3 * num_tensors]), strict=True)
                results = [coordinatewise_lstm(*column, layers, readout) for column in columns]
                return tuple(value for kind in zip(*results, strict=True) for value in kind)

            return torch.func.vmap(per_student, in_dims=dims)(*tensors), (0,) * (3 * num_tensors)
        folded = [
            (s.unsqueeze(1).expand(-1, size, -1) if dim is None else s.movedim(dim, 1)).flatten(1)
            for s, dim in zip(states, dims[: 3 * num_tensors], strict=True)
        ]
        results = _FusedLSTM.apply(num_tensors, *folded, *weights)
        assert isinstance(results, tuple)
        return tuple(result.unflatten(1, (size, -1)) for result in results), (1,) * len(results)
