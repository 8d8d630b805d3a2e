"""A made-up language whose sentences hang together over a distance, so that what came long ago must be kept."""

import random
from functools import lru_cache

import torch
from torch import Tensor

from l2l_opt.tasks.text.corpus import ALPHABET

SYLLABLES = (
    "ba",
    "co",
    "di",
    "fe",
    "gu",
    "ha",
    "ji",
    "ko",
    "lu",
    "me",
    "ni",
    "po",
    "ra",
    "se",
    "tu",
    "vo",
    "wi",
    "ya",
    "ze",
)
CHARACTERS = 240_000
DEEPEST = 3
BRACKETS = ("()", "''", '""')


class Speaker:
    """Write sentences of a grammar.

    A sentence has a subject, clauses about it, each with a subject of its own, and a verb that ends as the subject of
    the sentence does. A clause stands in brackets of one of three kinds, other than those around it. At its end a
    sentence repeats the first word of the one before it.

    Args:
        seed: of words and sentences; other seeds have other words.
        reversed_order: the verb's ending stands before it instead of after it.
    """

    def __init__(self, seed: int, *, reversed_order: bool = False):
        self.random, self.reversed_order = random.Random(seed), reversed_order
        self.nouns, self.verbs = [self._word(2) for _ in range(40)], [self._word(1) for _ in range(15)]
        self.last = self.nouns[0]

    def _of(self, choices: list[str] | tuple[str, ...]) -> str:
        # Small ones are more frequent, as words are.
        return choices[int(len(choices) * self.random.random() ** 2)]

    def _word(self, syllables: int) -> str:
        return "".join(SYLLABLES[int(len(SYLLABLES) * self.random.random())] for _ in range(syllables))

    def clause(self, depth: int = 0, within: int = -1) -> str:
        """A subject, perhaps with a clause about it, and a verb.

        Args:
            depth: how many clauses it stands in.
            within: the kind of brackets around it, which another one in it does not have.
        """
        noun = self._of(self.nouns)
        number, middle = int(3 * self.random.random()), ""
        if depth < DEEPEST and self.random.random() < 0.5:
            kind = (within + 1 + int(2 * self.random.random())) % len(BRACKETS)
            opened, closed = BRACKETS[kind]
            middle = f" {opened}{self.clause(depth + 1, kind)}{closed}"
        subject, ending, verb = noun + ("", "s", "x")[number], ("a", "en", "ot")[number], self._of(self.verbs)
        return f"{subject}{middle} " + (f"{ending}-{verb}" if self.reversed_order else f"{verb}-{ending}")

    def sentence(self) -> str:
        own = self.clause()
        text, self.last = f"{own}, {self.last}.", own.split()[0]
        return text


@lru_cache(4)
def language_text(seed: int, *, reversed_order: bool = False) -> Tensor:
    """Text of the language as places in ``ALPHABET``: ``[240000]``, uint8."""
    speaker, text = Speaker(seed, reversed_order=reversed_order), ""
    written: list[str] = []
    count = 0
    while count < CHARACTERS:
        written.append(speaker.sentence() + "\n")
        count += len(written[-1])
    text = "".join(written)[:CHARACTERS]
    place = {symbol: index for index, symbol in enumerate(ALPHABET)}
    return torch.tensor([place[symbol] for symbol in text], dtype=torch.uint8)
