"""Texts, shipped or a user's own, and next-character prediction on them."""

import gzip
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from l2l_opt.tasks.data_files import Stamp, files_of, stamp_of
from l2l_opt.tasks.examples import Examples
from l2l_opt.tasks.module_task import ModuleTask
from l2l_opt.tasks.text_file import read_text

ALPHABET = "\n abcdefghijklmnopqrstuvwxyz.,;:!?'\"-()"
"""Symbols of the shipped texts, after they are put into lower case; other characters are left out."""

NOVEL, VERSE, ADVERBS = "northanger_abbey", "psalms", "adverbs"
OTHER = "\N{REPLACEMENT CHARACTER}"
"""The symbol of a user's own text for characters that its training part has not, or that are too rare."""
MOST_SYMBOLS = 255
"""Of a user's own text, the most frequent ones, beside that for all others."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text as places in an alphabet.

    Attributes:
        places: ``[length]``, uint8.
        alphabet: its symbols.
    """

    places: Tensor
    alphabet: str


@lru_cache(3)
def shipped_text(name: str) -> Corpus:
    """Read a text that ships.

    Args:
        name: ``northanger_abbey`` (a paragraph a line), ``psalms`` (a verse a line) or ``adverbs`` (a definition).

    Source: see the notice beside the files.
    """
    with resources.files("l2l_opt.tasks").joinpath(f"data/{name}.txt.gz").open("rb") as file:
        text = gzip.decompress(file.read()).decode("ascii").lower()
    place = {symbol: index for index, symbol in enumerate(ALPHABET)}
    return Corpus(torch.tensor([place[symbol] for symbol in text if symbol in place], dtype=torch.uint8), ALPHABET)


def own_text(data: str) -> Corpus:
    """Read a file of text, or all files of a folder and below it, in an order drawn once, a line between them.

    The alphabet is of the characters in the first nine tenths, of which stretches for training are.

    Args:
        data: path of the file, as ``read_text`` takes it, or of the folder; its hidden files do not count.

    Raises:
        ValueError: a folder without files, a file that is no text, a single character throughout.
    """
    path = Path(data)
    return _read(path.resolve(), stamp_of(path))


@lru_cache(4)
def _read(path: Path, stamp: Stamp) -> Corpus:
    del stamp  # a file that has changed is read again
    files = files_of(path)
    if not files:
        raise ValueError(f"a folder of texts must hold files; got none in {str(path)!r}, use another")
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0)).tolist()
    text = "\n".join(read_text(files[place], "text", form="plain text") for place in order)
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    found, counts = np.unique(codes[: _border(len(codes))], return_counts=True)
    if len(found) < 2:
        raise ValueError(
            f"a text must have two different characters at least; got {len(codes)} characters of {len(found)} kinds in "
            f"{str(path)!r}, use another"
        )
    kept = np.sort(found[np.argsort(-counts, kind="stable")[:MOST_SYMBOLS]])
    places = np.minimum(np.searchsorted(kept, codes), len(kept) - 1)
    places = np.where(kept[places] == codes, places, len(kept)).astype(np.uint8)
    return Corpus(torch.from_numpy(places), "".join(map(chr, kept.tolist())) + OTHER)


def _border(length: int) -> int:
    return length * 9 // 10


@lru_cache(16)
def text_examples(corpus: Corpus, length: int) -> Examples:
    """Every stretch of a text, as ``stretches_of`` has them."""
    return stretches_of(corpus.places, length)


def stretches_of(text: Tensor, length: int) -> Examples:
    """Every stretch of a text, and the same one character further: views of one tensor, ``[places, length]``.

    The last tenth of the text is the test split; no stretch reaches from one split into the other.

    Args:
        text: ``[characters]``, places in an alphabet.
        length: of a stretch.

    Raises:
        ValueError: stretches of a twentieth of the text or more.
    """
    if length >= len(text) // 20:
        longest = len(text) // 20 - 1
        raise ValueError(
            f"length must leave many stretches in a text of {len(text)} characters; got {length}, use "
            + (f"e.g. length={min(longest, 16)}" if longest > 0 else "a longer text")
        )
    stretches = text.unfold(0, length + 1, 1)
    border = _border(len(text))
    ranges = {"train": (0, border - length), "test": (border, len(stretches))}
    return Examples(stretches[:, :-1], stretches[:, 1:], ranges)


def next_character_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of ``outputs [batch, length, symbols]``, mean over all characters, in nats."""
    return nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten().long())


class CharacterEmbedding(nn.Embedding):
    """Characters as vectors of deviation 1 / sqrt(width): ``[batch, length] -> [batch, length, width]``."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.embedding_dim**-0.5)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.long())


def text_task(corpus: Corpus, length: int, width: int, *layers: nn.Module, num_features: int) -> partial[ModuleTask]:
    """Next-character prediction: characters as vectors of a width, some layers, and a linear one of their features."""
    symbols = len(corpus.alphabet)
    module = nn.Sequential(CharacterEmbedding(symbols, width), *layers, nn.Linear(num_features, symbols))
    return partial(ModuleTask, module, next_character_loss, text_examples(corpus, length))
