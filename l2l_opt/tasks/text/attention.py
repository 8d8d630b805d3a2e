"""Character models with causal self-attention."""

from functools import partial
from typing import Annotated

from torch import nn

from l2l_opt.checks import check_choices
from l2l_opt.tasks.base import register_module_task
from l2l_opt.tasks.data_files import DataPath
from l2l_opt.tasks.layers.attention import Places, attention_blocks
from l2l_opt.tasks.module_task import ModuleTask
from l2l_opt.tasks.text.corpus import NOVEL, VERSE, Corpus, own_text, shipped_text, text_task


def attention_text(text: Corpus, *, width: int, blocks: int, heads: int, norm: str, length: int) -> partial[ModuleTask]:
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
    return attention_text(shipped_text(NOVEL), width=width, blocks=1, heads=1, norm=norm, length=length)


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
    return attention_text(shipped_text(VERSE), width=width, blocks=blocks, heads=heads, norm="layer", length=length)


@register_module_task("text-transformer", batch_size=32)
def text_transformer(
    *, data: DataPath, width: int = 32, blocks: int = 2, heads: int = 2, length: int = 32
) -> partial[ModuleTask]:
    """Transformer character model of a text of your own, a file or a folder of files.

    Causal attention and layer norm. The last tenth of the text is the test split; of a folder the files come in an
    order drawn once.

    Args:
        data: path of the file or folder.
        width: features of a character.
        blocks: attention and perceptron, each.
        heads: of attention.
        length: characters read, and predicted, at a stretch.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: a size that is not a positive integer; heads that do not divide the width; no text, or one too
            short for the length.
    """
    return attention_text(own_text(str(data)), width=width, blocks=blocks, heads=heads, norm="layer", length=length)
