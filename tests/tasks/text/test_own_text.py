"""A text of one's own: its alphabet is of the training part, no model sees what it predicts, bad ones are refused."""

import pytest
import torch

from l2l_opt.tasks import make_task
from l2l_opt.tasks.text.corpus import OTHER, own_text
from tests.own_data import write_texts


def test_the_alphabet_is_of_the_training_part(tmp_path):
    (tmp_path / "t.txt").write_text("abba " * 90 + "c" * 50)
    corpus = own_text(str(tmp_path / "t.txt"))
    assert corpus.alphabet == " ab" + OTHER
    spelt = "".join(corpus.alphabet[place] for place in corpus.places.tolist())
    assert spelt == "abba " * 90 + OTHER * 50


def test_the_rarest_of_many_symbols_are_one(tmp_path):
    common = "".join(chr(0x4E00 + place) for place in range(255))
    (tmp_path / "t.txt").write_text(common * 20 + "xyz" + common * 20, encoding="utf-8")
    corpus = own_text(str(tmp_path / "t.txt"))
    assert corpus.alphabet == common + OTHER
    assert (corpus.places == 255).sum() == 3


def test_a_folder_is_all_of_its_files(tmp_path):
    folder = write_texts(tmp_path / "texts")
    corpus = own_text(str(folder))
    assert len(corpus.places) == sum(len(file.read_text()) for file in folder.rglob("*.txt")) + 3
    (folder / ".notes").write_bytes(b"\x00\x01")
    assert torch.equal(own_text(str(folder)).places, corpus.places)


@pytest.mark.parametrize("name", ["text-rnn:cell=gru", "text-rnn:cell=lstm", "text-transformer:width=8"])
def test_no_model_sees_what_it_must_predict(name, tmp_path):
    family = make_task(name, data=str(write_texts(tmp_path / "texts")), length=8, dtype=torch.float64)
    params = family.init_params({}, torch.Generator().manual_seed(0))
    inputs = family.examples.inputs[:4].clone()
    changed = inputs.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % family.module[0].num_embeddings
    outputs, others = (torch.func.functional_call(family.module, params, (x,)) for x in (inputs, changed))
    torch.testing.assert_close(outputs[:, :5], others[:, :5], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(outputs[:, 5:], others[:, 5:])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"short text " * 5, "length must leave many stretches in a text of 55 characters; got 32, use e.g. length=1"),
        (b"shorter " * 4, "length must leave many stretches in a text of 32 characters; got 32, use a longer text"),
        (b"a" * 2000, "two different characters at least; got 2000 characters of 1 kinds"),
        (b"", "two different characters at least; got 0 characters"),
        (bytes(range(256)) * 9, "a text must be plain text; got other bytes"),
    ],
)
def test_what_cannot_be_learned_is_refused(content, message, tmp_path):
    (tmp_path / "t.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        make_task("text-rnn", data=str(tmp_path / "t.txt"))


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a folder of texts must hold files; got none"):
        make_task("text-transformer", data=str(tmp_path))
