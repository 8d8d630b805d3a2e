"""Texts, recurrent cells and attention."""

import pytest
import torch
from torch import nn

from l2l_opt.tasks import make_task
from l2l_opt.tasks.layers.attention import SelfAttention
from l2l_opt.tasks.text.corpus import ALPHABET, NOVEL, VERSE, shipped_text, text_examples
from l2l_opt.tasks.text.recurrent import Recurrence


def spell(places):
    return "".join(ALPHABET[place] for place in places.tolist())


@pytest.mark.parametrize(
    ("name", "length", "words"),
    [
        (NOVEL, 430_000, "no one who had ever seen catherine morland in her infancy would have supposed"),
        (VERSE, 223_000, "blessed is the man that walketh not in the counsel of the ungodly"),
    ],
)
def test_texts_ship_in_a_small_alphabet(name, length, words):
    text = shipped_text(name).places
    assert len(text) > length
    assert len(ALPHABET) == len(set(ALPHABET)) == 39
    assert spell(text[: len(words)]) == words
    assert len(text.unique()) > 30


def test_targets_are_one_character_further_and_splits_do_not_overlap():
    examples = text_examples(shipped_text(VERSE), 10)
    assert spell(examples.inputs[0]) == "blessed is"
    assert spell(examples.targets[0]) == "lessed is "
    (first, border), (start, end) = examples.ranges["train"], examples.ranges["test"]
    assert first == 0
    assert end == len(examples.inputs)
    # The last training stretch with its target ends where the first test stretch begins.
    assert border + 10 == start
    # Views: no copy of the text for every stretch.
    assert examples.inputs.untyped_storage().nbytes() == len(shipped_text(VERSE).places)


@pytest.mark.parametrize(("cell", "reference"), [("elman", nn.RNN), ("gru", nn.GRU), ("lstm", nn.LSTM)])
def test_cells_are_those_of_torch(cell, reference):
    torch.manual_seed(0)
    own, theirs = Recurrence(cell, 3, 5).double(), reference(3, 5, batch_first=True).double()
    order = torch.arange(own.of_input.out_features)
    if cell == "lstm":
        order = torch.cat([order[:10], order[15:], order[10:15]])
    with torch.no_grad():
        own.of_input.weight.copy_(theirs.weight_ih_l0[order])
        own.of_input.bias.copy_(theirs.bias_ih_l0[order])
        own.of_state.weight.copy_(theirs.weight_hh_l0[order])
        if cell == "gru":
            own.of_state.bias.copy_(theirs.bias_hh_l0)
        else:
            theirs.bias_hh_l0.zero_()
    x = torch.randn(2, 7, 3, dtype=torch.float64)
    torch.testing.assert_close(own(x), theirs(x)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("causal", [True, False])
def test_attention_is_torchs(causal):
    torch.manual_seed(0)
    attention = SelfAttention(6, heads=2, causal=causal).double()
    x = torch.randn(3, 5, 6, dtype=torch.float64)
    query, key, value = attention.mix(x).reshape(3, 5, 3, 2, 3).permute(2, 0, 3, 1, 4)
    expected = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
    expected = attention.out(expected.transpose(1, 2).reshape(3, 5, 6))
    torch.testing.assert_close(attention(x), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["novel-rnn", "novel-attention", "verse-lstm", "verse-transformer"])
def test_no_model_sees_what_it_must_predict(name):
    family = make_task(name, length=8, dtype=torch.float64)
    params = family.init_params({}, torch.Generator().manual_seed(0))
    inputs = family.examples.inputs[:4].clone()
    changed = inputs.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % len(ALPHABET)
    outputs, others = (torch.func.functional_call(family.module, params, (x,)) for x in (inputs, changed))
    assert outputs.shape == (4, 8, len(ALPHABET))
    torch.testing.assert_close(outputs[:, :5], others[:, :5], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(outputs[:, 5:], others[:, 5:])


def test_a_fresh_model_is_near_chance():
    family = make_task("novel-rnn")
    generator = torch.Generator().manual_seed(0)
    loss = family.loss(family.init_params({}, generator), {}, family.sample_batch({}, generator))
    assert float(loss) == pytest.approx(torch.tensor(39.0).log().item(), abs=0.2)
