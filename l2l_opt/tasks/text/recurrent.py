"""Recurrent character models."""

from functools import partial
from typing import Annotated

import torch
from torch import Tensor, nn

from l2l_opt.checks import check_choices
from l2l_opt.tasks.base import register_module_task
from l2l_opt.tasks.module_task import ModuleTask
from l2l_opt.tasks.text.corpus import NOVEL, VERSE, text_task

GATES = {"elman": 1, "gru": 3, "lstm": 4}
"""Vectors of the hidden size that a cell computes."""


class Recurrence(nn.Module):
    """A recurrent layer, unrolled over the length: ``[batch, length, inputs] -> [batch, length, hidden]``.

    Of plain operations, since the fused recurrent layers of PyTorch do not run under ``vmap``. The state is zero at
    first.

    Elman: ``h' = tanh(W x + U h + b)``. GRU, gates r, z: ``h' = (1 - z) tanh(W x + r (U h + c) + b) + z h``.
    LSTM, gates i, f, g, o: ``c' = f c + i g, h' = o tanh(c')``.

    Args:
        cell: elman, gru or lstm.
        num_inputs: features of x.
        hidden: features of h.

    Source: gru: arXiv 1406.1078; PyTorch's variant of it.
    """

    def __init__(self, cell: str, num_inputs: int, hidden: int):
        super().__init__()
        self.cell, self.hidden = cell, hidden
        self.of_input = nn.Linear(num_inputs, GATES[cell] * hidden)
        self.of_state = nn.Linear(hidden, GATES[cell] * hidden, bias=cell == "gru")

    def forward(self, x: Tensor) -> Tensor:
        from_input = self.of_input(x)
        step = {"elman": self._elman, "gru": self._gru, "lstm": self._lstm}[self.cell]
        h = c = from_input.new_zeros(x.shape[0], self.hidden)
        states = []
        for place in range(x.shape[1]):
            h, c = step(from_input[:, place], h, c)
            states.append(h)
        return torch.stack(states, 1)

    def _elman(self, drive: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tanh(drive + self.of_state(h)), c

    def _gru(self, drive: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        recurrent, gates = self.of_state(h), 2 * self.hidden
        reset, keep = torch.sigmoid(drive[:, :gates] + recurrent[:, :gates]).chunk(2, -1)
        new = torch.tanh(drive[:, gates:] + reset * recurrent[:, gates:])
        return new + keep * (h - new), c

    def _lstm(self, drive: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        both, three = drive + self.of_state(h), 3 * self.hidden
        write, forget, read = torch.sigmoid(both[:, :three]).chunk(3, -1)
        c = forget * c + write * torch.tanh(both[:, three:])
        return read * torch.tanh(c), c


@register_module_task("novel-rnn", batch_size=32)
def novel_rnn(
    *,
    hidden: int = 32,
    cell: Annotated[str, partial(check_choices, ("gru", "elman"))] = "gru",
    embedding: int = 16,
    length: int = 12,
) -> partial[ModuleTask]:
    """Recurrent character model (GRU or Elman) of a novel, Northanger Abbey.

    Args:
        hidden: units of the recurrent layer.
        cell: gru or elman.
        embedding: features of a character.
        length: characters read, and predicted, at a stretch.

    Raises:
        ValueError: a size that is not a positive integer, an unknown cell.
    """
    return text_task(NOVEL, length, embedding, Recurrence(cell, embedding, hidden), num_features=hidden)


@register_module_task("verse-lstm", batch_size=32)
def verse_lstm(*, hidden: int = 32, embedding: int = 16, length: int = 16) -> partial[ModuleTask]:
    """LSTM character model of the Psalms.

    Args:
        hidden: units of the recurrent layer.
        embedding: features of a character.
        length: characters read, and predicted, at a stretch.

    Raises:
        ValueError: a size that is not a positive integer.
    """
    return text_task(VERSE, length, embedding, Recurrence("lstm", embedding, hidden), num_features=hidden)
