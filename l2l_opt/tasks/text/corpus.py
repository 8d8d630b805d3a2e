"""Texts that ship, and next-character prediction on them."""

import gzip
from functools import lru_cache, partial
from importlib import resources

import torch
from torch import Tensor, nn

from l2l_opt.tasks.examples import Examples
from l2l_opt.tasks.module_task import ModuleTask

ALPHABET = "\n abcdefghijklmnopqrstuvwxyz.,;:!?'\"-()"
"""Symbols of every text, after it is put into lower case; other characters are left out."""

NOVEL, VERSE, ADVERBS = "northanger_abbey", "psalms", "adverbs"


@lru_cache(3)
def load_text(name: str) -> Tensor:
    """A shipped text as places in ``ALPHABET``: ``[length]``, uint8.

    Args:
        name: ``northanger_abbey`` (a paragraph a line), ``psalms`` (a verse a line) or ``adverbs`` (a definition).

    Source: see the notice beside the files.
    """
    with resources.files("l2l_opt.tasks").joinpath(f"data/{name}.txt.gz").open("rb") as file:
        text = gzip.decompress(file.read()).decode("ascii").lower()
    place = {symbol: index for index, symbol in enumerate(ALPHABET)}
    return torch.tensor([place[symbol] for symbol in text if symbol in place], dtype=torch.uint8)


@lru_cache(16)
def text_examples(name: str, length: int) -> Examples:
    """Every stretch of a shipped text, as ``stretches_of`` has them."""
    return stretches_of(load_text(name), length)


def stretches_of(text: Tensor, length: int) -> Examples:
    """Every stretch of a text, and the same one character further: views of one tensor, ``[places, length]``.

    The last tenth of the text is the test split; no stretch reaches from one split into the other.

    Args:
        text: ``[characters]``, places in ``ALPHABET``.
        length: of a stretch.

    Raises:
        ValueError: stretches of a twentieth of the text or more.
    """
    if length >= len(text) // 20:
        raise ValueError(
            f"length must leave many stretches in a text of {len(text)} characters; got {length}, use e.g. length=16"
        )
    stretches = text.unfold(0, length + 1, 1)
    border = len(text) * 9 // 10
    ranges = {"train": (0, border - length), "test": (border, len(stretches))}
    return Examples(stretches[:, :-1], stretches[:, 1:], ranges)


def next_character_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of ``outputs [batch, length, symbols]``, mean over all characters, in nats."""
    return nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten().long())


class CharacterEmbedding(nn.Embedding):
    """Characters as vectors of deviation 1 / sqrt(width): ``[batch, length] -> [batch, length, width]``."""

    def __init__(self, width: int):
        super().__init__(len(ALPHABET), width)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.embedding_dim**-0.5)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.long())


def text_task(text: str, length: int, width: int, *layers: nn.Module, num_features: int) -> partial[ModuleTask]:
    """Next-character prediction: characters as vectors of a width, some layers, and a linear one of their features."""
    module = nn.Sequential(CharacterEmbedding(width), *layers, nn.Linear(num_features, len(ALPHABET)))
    return partial(ModuleTask, module, next_character_loss, text_examples(text, length))
