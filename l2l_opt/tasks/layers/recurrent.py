"""Recurrent cells of plain operations: the fused recurrent layers of PyTorch do not run for many students at once.

Elman: ``h' = tanh(W x + U h + b)``. GRU, gates r, z: ``h' = (1 - z) tanh(W x + r (U h + c) + b) + z h``.
LSTM, gates i, f, o: ``c' = f c + i tanh(W x + U h + b), h' = o tanh(c')``.

A cell takes ``drive = W x + b`` and ``recurrent = U h + c``, both ``[batch, gates * hidden]``, h and c, and returns the
next h and c.

Source: gru: arXiv 1406.1078; PyTorch's variant of it.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

Cell = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def elman(drive: Tensor, recurrent: Tensor, _: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Of ``nn.RNN`` with tanh."""
    return torch.tanh(drive + recurrent), c


def elman_relu(drive: Tensor, recurrent: Tensor, _: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Of ``nn.RNN`` with relu."""
    return torch.relu(drive + recurrent), c


def gru(drive: Tensor, recurrent: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Gates in the order r, z and the new h."""
    gates = 2 * h.shape[-1]
    reset, keep = torch.sigmoid(drive[:, :gates] + recurrent[:, :gates]).chunk(2, -1)
    new = torch.tanh(drive[:, gates:] + reset * recurrent[:, gates:])
    return new + keep * (h - new), c


def lstm(drive: Tensor, recurrent: Tensor, _: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Gates in the order i, f, o and the new c."""
    both, three = drive + recurrent, 3 * c.shape[-1]
    write, forget, read = torch.sigmoid(both[:, :three]).chunk(3, -1)
    c = forget * c + write * torch.tanh(both[:, three:])
    return read * torch.tanh(c), c


CELLS: dict[str, Cell] = {"elman": elman, "gru": gru, "lstm": lstm}


def recur(
    cell: Cell, drives: Iterable[Tensor], of_state: Callable[[Tensor], Tensor], h: Tensor, c: Tensor
) -> tuple[list[Tensor], Tensor]:
    """Run a cell over a sequence: h after each place, and c after the last."""
    states: list[Tensor] = []
    for drive in drives:
        h, c = cell(drive, of_state(h), h, c)
        states.append(h)
    return states, c


GATES = {"elman": 1, "gru": 3, "lstm": 4}
"""Vectors of the hidden size that a cell computes."""


class Recurrence(nn.Module):
    """A recurrent layer, unrolled over the length: ``[batch, length, inputs] -> [batch, length, hidden]``.

    The state is zero at first.

    Args:
        cell: elman, gru or lstm.
        num_inputs: features of x.
        hidden: features of h.
    """

    def __init__(self, cell: str, num_inputs: int, hidden: int):
        super().__init__()
        self.cell, self.hidden = cell, hidden
        self.of_input = nn.Linear(num_inputs, GATES[cell] * hidden)
        self.of_state = nn.Linear(hidden, GATES[cell] * hidden, bias=cell == "gru")

    def forward(self, x: Tensor) -> Tensor:
        drive = self.of_input(x)
        zero = drive.new_zeros(x.shape[0], self.hidden)
        return torch.stack(recur(CELLS[self.cell], drive.unbind(1), self.of_state, zero, zero)[0], 1)
