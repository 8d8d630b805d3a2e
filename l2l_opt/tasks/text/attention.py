"""Character models with causal self-attention."""

import torch
from torch import nn

from l2l_opt.checks import check_choices, check_positive_integers
from l2l_opt.tasks.base import register_task
from l2l_opt.tasks.layers.attention import Places, attention_blocks
from l2l_opt.tasks.module_task import ModuleTask
from l2l_opt.tasks.text.corpus import ALPHABET, NOVEL, VERSE, CharacterEmbedding, next_character_loss, text_examples


def attention_text(
    text: str,
    *,
    width: int,
    blocks: int,
    heads: int,
    norm: str,
    length: int,
    batch_size: int,
    device: torch.device | str,
    dtype: torch.dtype,
) -> ModuleTask:
    """Next-character prediction by embeddings of characters and places, attention blocks and a linear layer."""
    check_positive_integers(width=width, blocks=blocks, heads=heads, length=length)
    check_choices(("none", "layer"), norm=norm)
    module = nn.Sequential(
        CharacterEmbedding(width),
        Places(length, width),
        *attention_blocks(blocks, width, heads=heads, norm=norm),
        *([nn.LayerNorm(width)] if norm == "layer" else []),
        nn.Linear(width, len(ALPHABET)),
    )
    return ModuleTask(
        module,
        next_character_loss,
        text_examples(text, length, torch.device(device)),
        batch_size=batch_size,
        device=device,
        dtype=dtype,
    )


@register_task("novel-attention")
def novel_attention(
    *,
    width: int = 24,
    norm: str = "layer",
    length: int = 16,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ModuleTask:
    """Character model of a novel, Northanger Abbey: one block of causal attention with a single head.

    Args:
        width: features of a character.
        norm: before attention, perceptron and outputs: none or layer.
        length: characters read, and predicted, at a stretch.
        batch_size: stretches a batch.
        device: where tensors live.
        dtype: of the weights.

    Raises:
        ValueError: a size that is not a positive integer, an unknown norm.
    """
    return attention_text(
        NOVEL,
        width=width,
        blocks=1,
        heads=1,
        norm=norm,
        length=length,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
    )


@register_task("verse-transformer")
def verse_transformer(
    *,
    width: int = 32,
    blocks: int = 2,
    heads: int = 2,
    length: int = 24,
    batch_size: int = 16,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ModuleTask:
    """Transformer character model of the Psalms: two blocks of causal attention with two heads and layer norm.

    Args:
        width: features of a character.
        blocks: attention and perceptron, each.
        heads: of attention.
        length: characters read, and predicted, at a stretch.
        batch_size: stretches a batch.
        device: where tensors live.
        dtype: of the weights.

    Raises:
        ValueError: a size that is not a positive integer; heads that do not divide the width.
    """
    return attention_text(
        VERSE,
        width=width,
        blocks=blocks,
        heads=heads,
        norm="layer",
        length=length,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
    )
