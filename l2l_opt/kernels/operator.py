"""The coordinatewise LSTM as one operator, ``torch.ops.l2l_opt.coordinatewise_lstm``, over the tensors of students.

It is computed by the compiled kernels where they serve, on a GPU by Triton and elsewhere in PyTorch, keeps no
activations for the backward pass but recomputes them from the state, and under vmap folds students into its axis of
particles.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from l2l_opt.kernels import inductor, native, native_lstm, portable
from l2l_opt.kernels.reference import LSTMWeights, ReadoutWeights

_library = torch.library.Library("l2l_opt", "DEF")
# Of each tensor coordinates [rows, P, N] and biases [P, 4 * hidden_size * num_layers + num_outputs]; weights of each
# layer [1 or P, 4 * hidden_size, num_inputs] and [1 or P, 4 * hidden_size, hidden_size], then those of the read-out.
_ARGUMENTS = "Tensor[] inputs, Tensor[] hidden, Tensor[] cell, Tensor[] biases, Tensor[] weights"
_library.define(f"coordinatewise_lstm({_ARGUMENTS}) -> Tensor[]")
_library.define(
    f"coordinatewise_lstm_backward({_ARGUMENTS}, Tensor[] next_hidden, Tensor?[] d_results, bool needs_d_inputs) "
    "-> Tensor[]"
)
FORWARD, BACKWARD = "l2l_opt::coordinatewise_lstm", "l2l_opt::coordinatewise_lstm_backward"


def fused_coordinatewise_lstm(
    inputs: list[Tensor],
    hidden: list[Tensor],
    cell: list[Tensor],
    layers: list[LSTMWeights],
    readout: ReadoutWeights,
    biases: list[Tensor] | None = None,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """``reference.coordinatewise_lstm`` for a list of tensors at once, in less time and memory.

    Args:
        inputs: of each tensor ``[num_inputs, N]``, N its own number of coordinates.
        hidden: of each tensor ``[num_layers * hidden_size, N]``; float32 or bfloat16 beside float32 inputs.
        cell: of each tensor ``[num_layers * hidden_size, N]``, of hidden's dtype.
        layers: weights of each layer, all of one hidden size.
        readout: weights of the linear map at the end.
        biases: of each tensor ``[4 * hidden_size * num_layers + num_outputs]``, all layers' biases and the read-out's,
            for a rule that moves them tensor by tensor; None for those of ``layers`` and ``readout``.

    Returns:
        Outputs ``[num_outputs, N]``, next hidden states and next cell states, a list of each.
    """
    if biases is None:
        biases = [torch.cat([*(layer.bias for layer in layers), readout.bias])] * len(inputs)
    weights = [weight for layer in layers for weight in (layer.input, layer.hidden)] + [readout.weight]
    results = torch.ops.l2l_opt.coordinatewise_lstm(
        *([value.unsqueeze(1) for value in kind] for kind in (inputs, hidden, cell)),
        [bias.unsqueeze(0) for bias in biases],
        [weight.unsqueeze(0) for weight in weights],
    )
    outputs, next_hidden, next_cell = _thirds([result.squeeze(1) for result in results])
    return outputs, next_hidden, next_cell


def _thirds(tensors: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    count = len(tensors) // 3
    return list(tensors[:count]), list(tensors[count : 2 * count]), list(tensors[2 * count :])


@torch.library.impl(_library, "coordinatewise_lstm", "CompositeExplicitAutograd")
def _forward(
    inputs: list[Tensor], hidden: list[Tensor], cell: list[Tensor], biases: list[Tensor], weights: list[Tensor]
) -> list[Tensor]:
    if native.serves([*inputs, *biases, *weights], states=[*hidden, *cell]):
        return native_lstm.forward(inputs, hidden, cell, biases, weights)
    where = inductor if inductor.serves(inputs) else portable
    return where.forward(inputs, hidden, cell, biases, weights)


@torch.library.impl(_library, "coordinatewise_lstm_backward", "CompositeExplicitAutograd")
def _backward(
    inputs: list[Tensor],
    hidden: list[Tensor],
    cell: list[Tensor],
    biases: list[Tensor],
    weights: list[Tensor],
    next_hidden: list[Tensor],
    d_results: list[Tensor | None],
    needs_d_inputs: bool,
) -> list[Tensor]:
    arguments = (inputs, hidden, cell, biases, weights, next_hidden, d_results)
    if native.serves([*inputs, *biases, *weights], states=[*hidden, *cell]):
        return native_lstm.backward(*arguments, needs_d_inputs=needs_d_inputs)
    return (inductor if inductor.serves(inputs) else portable).backward(*arguments)


@torch.library.register_fake(FORWARD)
def _fake_forward(
    inputs: list[Tensor], hidden: list[Tensor], cell: list[Tensor], _biases: list[Tensor], weights: list[Tensor]
) -> list[Tensor]:
    return [x.new_empty(weights[-1].shape[-2], *x.shape[1:]) for x in inputs] + [
        torch.empty_like(state, memory_format=torch.contiguous_format) for state in (*hidden, *cell)
    ]


@torch.library.register_fake(BACKWARD)
def _fake_backward(*arguments: Any) -> list[Tensor]:
    return [
        torch.empty_like(tensor, memory_format=torch.contiguous_format) for part in arguments[:5] for tensor in part
    ]


def _setup_context(ctx: Any, inputs: tuple[list[Tensor], ...], output: list[Tensor]) -> None:
    ctx.lengths = [len(part) for part in inputs]
    ctx.needs_d_inputs = any(x.requires_grad for x in inputs[0])
    next_hidden = output[len(inputs[0]) : 2 * len(inputs[0])]
    ctx.save_for_backward(*(tensor for part in inputs for tensor in part), *next_hidden)


def _autograd(ctx: Any, d_results: list[Tensor | None]) -> tuple[list[Tensor | None], ...]:
    saved = list(ctx.saved_tensors)
    parts: list[list[Tensor]] = []
    for length in (*ctx.lengths, ctx.lengths[0]):
        parts.append(saved[:length])
        saved = saved[length:]
    found = torch.ops.l2l_opt.coordinatewise_lstm_backward(*parts, d_results, ctx.needs_d_inputs)
    gradients: list[list[Tensor | None]] = []
    for length in ctx.lengths:
        gradients.append(list(found[:length]))
        found = found[length:]
    if not ctx.needs_d_inputs:
        gradients[0] = [None] * ctx.lengths[0]
    return tuple(gradients)


torch.library.register_autograd(FORWARD, _autograd, setup_context=_setup_context)


def _vmap(info: Any, in_dims: tuple[Any, ...], *arguments: list[Tensor]) -> tuple[list[Tensor], list[int]]:
    """Students become particles, beside one another; weights that they share stay one set."""
    size = info.batch_size
    dims = [
        kind if isinstance(kind, (list, tuple)) else [kind] * len(part)
        for kind, part in zip(in_dims, arguments, strict=True)
    ]
    # The batch axis of every tensor in front, of length 1 where it has none.
    *coordinates, biases, weights = [
        [t.unsqueeze(0) if dim is None else t.movedim(dim, 0) for t, dim in zip(part, kind, strict=True)]
        for part, kind in zip(arguments, dims, strict=True)
    ]
    particles = coordinates[0][0].shape[2] if coordinates[0] else 1

    def fold(tensor: Tensor, axis: int) -> Tensor:
        sizes = list(tensor.shape)
        sizes[0], sizes[1 + axis] = size, particles
        return tensor.expand(sizes).movedim(0, axis).flatten(axis, axis + 1)

    own_weights = any(weight.shape[:2] != (1, 1) for weight in weights)
    results = torch.ops.l2l_opt.coordinatewise_lstm(
        *([fold(tensor, 1) for tensor in kind] for kind in coordinates),
        [fold(bias, 0) for bias in biases],
        [fold(weight, 0) if own_weights else weight.squeeze(0) for weight in weights],
    )
    return [result.unflatten(1, (size, particles)) for result in results], [1] * len(results)


torch.library.register_vmap(FORWARD, _vmap)
