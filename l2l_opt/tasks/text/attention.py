"""Character models with causal self-attention."""

from functools import partial
from typing import Annotated

from torch import nn

from l2l_opt.checks import check_choices
from l2l_opt.tasks.base import register_module_task
from l2l_opt.tasks.layers.attention import Places, attention_blocks
from l2l_opt.tasks.module_task import ModuleTask
from l2l_opt.tasks.text.corpus import NOVEL, VERSE, text_task


def attention_text(text: str, *, width: int, blocks: int, heads: int, norm: str, length: int) -> partial[ModuleTask]:
    """Next-character prediction by embeddings of characters and places, attention blocks and a linear layer."""
    blocks_of_layers = attention_blocks(blocks, width, heads=heads, norm=norm)
    last = [nn.LayerNorm(width)] if norm == "layer" else []
    return text_task(text, length, width, Places(length, width), *blocks_of_layers, *last, num_features=width)


@register_module_task("novel-attention", batch_size=32)
def novel_attention(
    *, width: int = 24, norm: Annotated[str, partial(check_choices, ("none", "layer"))] = "layer", length: int = 16
) -> partial[ModuleTask]:
    """Character model of a novel, Northanger Abbey: one block of causal attention with a single head.

    Args:
        width: features of a character.
        norm: before attention, perceptron and outputs: none or layer.
        length: characters read, and predicted, at a stretch.

    Raises:
        ValueError: a size that is not a positive integer, an unknown norm.
    """
    return attention_text(NOVEL, width=width, blocks=1, heads=1, norm=norm, length=length)


@register_module_task("verse-transformer", batch_size=16)
def verse_transformer(*, width: int = 32, blocks: int = 2, heads: int = 2, length: int = 24) -> partial[ModuleTask]:
    """Transformer character model of the Psalms: two blocks of causal attention with two heads and layer norm.

    Args:
        width: features of a character.
        blocks: attention and perceptron, each.
        heads: of attention.
        length: characters read, and predicted, at a stretch.

    Raises:
        ValueError: a size that is not a positive integer; heads that do not divide the width.
    """
    return attention_text(VERSE, width=width, blocks=blocks, heads=heads, norm="layer", length=length)
