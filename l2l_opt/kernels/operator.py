"""The coordinatewise LSTM as one operator, ``torch.ops.l2l_opt.coordinatewise_lstm``, over the tensors of students.

It is computed by the compiled kernels where they serve, on a GPU by Triton and elsewhere in PyTorch, keeps no
activations for the backward pass but recomputes them from the state, and under vmap folds students into its axis of
particles.
"""

import itertools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from l2l_opt.kernels import inductor, native_lstm, portable
from l2l_opt.kernels.operands import Operands, new_like, thirds
from l2l_opt.kernels.reference import LSTMWeights, ReadoutWeights

_library = torch.library.Library("l2l_opt", "DEF")
_OPERANDS = ", ".join(f"Tensor[] {name}" for name in Operands._fields)
_library.define(f"coordinatewise_lstm({_OPERANDS}) -> Tensor[]")
_library.define(
    f"coordinatewise_lstm_backward({_OPERANDS}, Tensor[] next_hidden, Tensor?[] d_results, bool needs_d_inputs) "
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
    return thirds([result.squeeze(1) for result in results])


def _implementation(operands: Operands) -> Any:
    """Return the module that computes fastest on these."""
    return next((module for module in (native_lstm, inductor) if module.serves(operands)), portable)


@torch.library.impl(_library, "coordinatewise_lstm", "CompositeExplicitAutograd")
def _forward(*parts: list[Tensor]) -> list[Tensor]:
    operands = Operands(*parts)
    return _as_announced(_implementation(operands).forward(operands))


@torch.library.impl(_library, "coordinatewise_lstm_backward", "CompositeExplicitAutograd")
def _backward(*arguments: Any) -> list[Tensor]:
    *parts, next_hidden, d_results, needs_d_inputs = arguments
    operands = Operands(*parts)
    found = _implementation(operands).backward(operands, next_hidden, d_results, needs_d_inputs=needs_d_inputs)
    return _as_announced(found)


def _as_announced(results: list[Tensor]) -> list[Tensor]:
    """Contiguous, as the functions that stand for these where a graph is made promise."""
    return [result.contiguous() for result in results]


@torch.library.register_fake(FORWARD)
def _fake_forward(*parts: list[Tensor]) -> list[Tensor]:
    operands = Operands(*parts)
    return [*operands.new_outputs(), *new_like([*operands.hidden, *operands.cell])]


@torch.library.register_fake(BACKWARD)
def _fake_backward(*arguments: Any) -> list[Tensor]:
    return new_like([tensor for part in arguments[:5] for tensor in part])


def _setup_context(ctx: Any, inputs: tuple[list[Tensor], ...], output: list[Tensor]) -> None:
    _, next_hidden, _ = thirds(output)
    parts = (*inputs, next_hidden)
    ctx.lengths = [len(part) for part in parts]
    ctx.needs_d_inputs = any(x.requires_grad for x in inputs[0])
    ctx.save_for_backward(*itertools.chain(*parts))


def _autograd(ctx: Any, d_results: list[Tensor | None]) -> tuple[list[Tensor | None], ...]:
    parts = _parts(ctx.saved_tensors, ctx.lengths)
    found = torch.ops.l2l_opt.coordinatewise_lstm_backward(*parts, d_results, ctx.needs_d_inputs)
    gradients = _parts(found, ctx.lengths[:5])
    if not ctx.needs_d_inputs:
        gradients[0] = [None] * ctx.lengths[0]
    return tuple(gradients)


def _parts(tensors: Iterable[Any], lengths: list[int]) -> list[list[Any]]:
    rest = iter(tensors)
    return [list(itertools.islice(rest, length)) for length in lengths]


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
