"""The coordinatewise LSTM written out in plain PyTorch: the definition that the fused operator is tested against."""

from typing import NamedTuple

import torch
from torch import Tensor


class LSTMWeights(NamedTuple):
    """One layer, gates in the order input, forget, cell, output.

    Attributes:
        input: ``[4 * hidden_size, num_inputs]``.
        hidden: ``[4 * hidden_size, hidden_size]``.
        bias: ``[4 * hidden_size]``.
    """

    input: Tensor
    hidden: Tensor
    bias: Tensor


class ReadoutWeights(NamedTuple):
    """The linear map from the last layer to the outputs.

    Attributes:
        weight: ``[num_outputs, hidden_size]``.
        bias: ``[num_outputs]``.
    """

    weight: Tensor
    bias: Tensor


def coordinatewise_lstm(
    inputs: Tensor, hidden: Tensor, cell: Tensor, layers: list[LSTMWeights], readout: ReadoutWeights
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of a stack of LSTM layers on N coordinates that share its weights and have a state each.

        i, f, g, o = split(W_x x + W_h h + b)
        c' = sigmoid(f) c + sigmoid(i) tanh(g);   h' = sigmoid(o) tanh(c')
        output = V h'_last + u

    The cell is written out because ``nn.LSTMCell`` has no vmap rule; features come first, so that gates are contiguous.

    Args:
        inputs: ``[num_inputs, N]``.
        hidden: ``[num_layers * hidden_size, N]``.
        cell: ``[num_layers * hidden_size, N]``.
        layers: weights of each layer, all of one hidden size.
        readout: weights of the linear map at the end.

    Returns:
        Outputs ``[num_outputs, N]``, the next hidden state and the next cell state.

    Source: arXiv 1606.04474, section 2.1 (coordinatewise network); the cell is that of arXiv 1409.2329.
    """
    next_hidden: list[Tensor] = []
    next_cell: list[Tensor] = []
    for layer, h, c in zip(layers, hidden.chunk(len(layers)), cell.chunk(len(layers)), strict=True):
        # One product for W_x x + W_h h + b: a third of the passes over gates that three terms would take.
        gates = torch.addmm(
            layer.bias.unsqueeze(1), torch.cat([layer.input, layer.hidden], dim=1), torch.cat([inputs, h])
        )
        i, f, g, o = gates.chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        inputs = o.sigmoid() * c.tanh()
        next_hidden.append(inputs)
        next_cell.append(c)
    outputs = torch.addmm(readout.bias.unsqueeze(1), readout.weight, inputs)
    return outputs, torch.cat(next_hidden), torch.cat(next_cell)
