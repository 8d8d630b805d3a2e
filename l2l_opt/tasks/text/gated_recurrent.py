"""A recurrent character model of two layers with one gate each; held out."""

from functools import partial

import torch
from torch import Tensor, nn

from l2l_opt.tasks.base import register_module_task
from l2l_opt.tasks.module_task import ModuleTask
from l2l_opt.tasks.text.corpus import ALPHABET, next_character_loss, stretches_of
from l2l_opt.tasks.text.language import language_text

SEED = 3


class MinimalGate(nn.Module):
    """``f = sigmoid(W_f [x, h])``, ``h' = (1 - f) h + f tanh(W_h [x, f h])``, h being 0 at first.

    Where sizes agree, x is added to h.

    Args:
        num_inputs: features of x.
        hidden: features of h.

    Source: arXiv 1603.09420, section 3.
    """

    def __init__(self, num_inputs: int, hidden: int):
        super().__init__()
        self.hidden, self.adds = hidden, num_inputs == hidden
        self.of_input = nn.Linear(num_inputs, 2 * hidden)
        self.gate, self.state = nn.Linear(hidden, hidden, bias=False), nn.Linear(hidden, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        of_gate, of_state = self.of_input(x).chunk(2, -1)
        h, states = of_gate.new_zeros(x.shape[0], self.hidden), []
        for place in range(x.shape[1]):
            forget = torch.sigmoid(of_gate[:, place] + self.gate(h))
            h = h + forget * (torch.tanh(of_state[:, place] + self.state(forget * h)) - h)
            states.append(h)
        found = torch.stack(states, 1)
        return found + x if self.adds else found


class RecurrentText(nn.Module):
    """Embeddings of deviation 1, two layers, and a linear one: ``[batch, length] -> [batch, length, symbols]``."""

    def __init__(self, hidden: int, embedding: int):
        super().__init__()
        self.symbols = nn.Embedding(len(ALPHABET), embedding)
        self.layers = nn.Sequential(MinimalGate(embedding, hidden), MinimalGate(hidden, hidden))
        self.head = nn.Linear(hidden, len(ALPHABET))

    def forward(self, text: Tensor) -> Tensor:
        return self.head(self.layers(self.symbols(text.long())))


@register_module_task("language-recurrent", batch_size=16)
def language_recurrent(*, hidden: int = 32, embedding: int = 16, length: int = 16) -> partial[ModuleTask]:
    """Recurrent character model, two layers of minimal gated units, of a made-up language with agreement and brackets.

    Args:
        hidden: units of each layer.
        embedding: features of a character.
        length: characters read, and predicted, at a stretch.

    Raises:
        ValueError: a size that is not a positive integer.
    """
    return partial(
        ModuleTask, RecurrentText(hidden, embedding), next_character_loss, stretches_of(language_text(SEED), length)
    )
