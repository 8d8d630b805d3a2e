"""GPT-2's first weights, and low-rank pairs in a frozen network."""

import pytest
import torch

from l2l_opt.tasks import make_task
from l2l_opt.tasks.layers.transformer import CharacterTransformer, gpt2_weights
from l2l_opt.tasks.text import transformer
from l2l_opt.tasks.text.corpus import ALPHABET


def drawn(family, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return family.init_params({}, generator), family.sample_batch({}, generator)


def test_first_weights_are_gpt_2s():
    params, _ = drawn(make_task("adverbs-gpt:width=64,blocks=2"))
    for name, size in (("symbols", 0.02), ("places", 0.02), ("blocks.0.attention.enter", 0.02), ("head", 0.02)):
        assert params[f"{name}.weight"].std() == pytest.approx(size, rel=0.1)
    for name in ("attention.leave", "down"):
        assert params[f"blocks.1.{name}.weight"].std() == pytest.approx(0.01, rel=0.1)
        assert not params[f"blocks.1.{name}.bias"].any()


def test_a_place_sees_none_after_it():
    module = CharacterTransformer(len(ALPHABET), 8, width=16, blocks=2, heads=2)
    text = torch.arange(8).unsqueeze(0)
    changed = text.clone()
    changed[0, 5] = 30
    apart = (module(text) - module(changed)).abs().sum(-1)[0]
    assert not apart[:5].any()
    assert apart[5:].all()
    gpt2_weights(module)
    with pytest.raises(ValueError, match="heads must divide width; got 3 and 16"):
        CharacterTransformer(3, 8, width=16, blocks=1, heads=3)


def test_pairs_alone_are_trained_and_the_network_is_the_shipped_one_at_first():
    family = make_task("language-lora:rank=2")
    params, batch = drawn(family)
    assert {name.rpartition(".")[2] for name in params} == {"inward", "outward"}
    assert len(params) == 2 * 4 * transformer.BASE["blocks"]
    assert not any(value.any() for name, value in params.items() if name.endswith("outward"))
    base = CharacterTransformer(len(ALPHABET), transformer.BASE_LENGTH, **transformer.BASE)
    base.load_state_dict(transformer.base_weights())
    inputs, targets = family.select({}, batch)
    torch.testing.assert_close(family.loss(params, {}, batch), family.loss_fn(base(*inputs), targets))


def test_the_shipped_network_knows_its_own_language_and_not_the_other():
    base = CharacterTransformer(len(ALPHABET), transformer.BASE_LENGTH, **transformer.BASE)
    base.load_state_dict(transformer.base_weights())
    losses = []
    for text in (
        transformer.language_text(transformer.SPOKEN),
        transformer.language_text(transformer.LEARNED, reversed_order=True),
    ):
        test = transformer.stretches_of(text, transformer.BASE_LENGTH)
        index = torch.arange(*test.ranges["test"], 97)
        with torch.no_grad():
            losses.append(float(transformer.next_character_loss(base(test.inputs[index]), test.targets[index])))
    assert losses[0] < 1.0 < 2.0 < losses[1]
