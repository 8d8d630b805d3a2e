"""The made-up language: its grammar holds over any distance, and a seed is a language."""

import re

import torch

from l2l_opt.tasks.text.corpus import ALPHABET
from l2l_opt.tasks.text.language import CHARACTERS, language_text

ENDINGS = {"a": "", "en": "s", "ot": "x"}
INNERMOST = re.compile(r" (?:\([^()'\"]*\)|'[^()'\"]*'|\"[^()'\"]*\")")


def lines(**options):
    text = "".join(ALPHABET[place] for place in language_text(5, **options).tolist())
    return text.splitlines()[:-1]


def flat(sentence):
    """The outermost clause, once all within it are taken out, innermost first."""
    while (shorter := INNERMOST.sub("", sentence)) != sentence:
        sentence = shorter
    return sentence


def test_verbs_agree_with_subjects_across_clauses_and_sentences_repeat_what_came_before():
    before, agreed = None, 0
    for sentence in lines()[:500]:
        own, _, last = flat(sentence).rstrip(".").rpartition(", ")
        subject, verb = own.split()
        assert subject.endswith(ENDINGS[verb.rpartition("-")[2]])
        agreed += verb.endswith(("en", "ot"))
        assert before is None or last == before
        before = sentence.split()[0].rstrip(",")
    assert agreed > 100


def test_a_seed_is_a_language():
    assert len(language_text(5)) == CHARACTERS
    assert torch.equal(language_text(5), language_text(5))
    assert not torch.equal(language_text(5)[:100], language_text(6)[:100])
    assert re.match(r"\S+( .*)? (a|en|ot)-\w+, ", lines(reversed_order=True)[0])
