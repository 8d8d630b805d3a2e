"""Character models with causal self-attention."""

import torch
from torch import Tensor, nn

from l2l_opt.tasks.base import register_task
from l2l_opt.tasks.layers import Residual
from l2l_opt.tasks.module_task import ModuleTask
from l2l_opt.tasks.options import check_choices, check_positive_integers
from l2l_opt.tasks.text import ALPHABET, NOVEL, VERSE, CharacterEmbedding, next_character_loss, text_examples


class SelfAttention(nn.Module):
    """``softmax(Q K^T / sqrt(d)) V`` for every head, then a linear layer: ``[batch, length, width]`` to the same.

    Args:
        width: features.
        heads: how many; they share the width.
        causal: whether a place sees itself and those before it only.

    Source: arXiv 1706.03762, section 3.2.
    """

    def __init__(self, width: int, *, heads: int = 1, causal: bool = True):
        super().__init__()
        if width % heads:
            raise ValueError(f"heads must divide width; got {heads} and {width}, use e.g. width={heads * 8}")
        self.heads, self.causal = heads, causal
        self.mix, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.mix(x).reshape(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        scores = query @ key.transpose(-2, -1) * (width // self.heads) ** -0.5
        if self.causal:
            later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(later, -torch.inf)
        return self.out((scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, length, width))


class Places(nn.Module):
    """A learned vector for each place, added: ``[batch, length, width]`` to the same."""

    def __init__(self, length: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(length, width))

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.weight.shape[-1] ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight


def attention_blocks(
    blocks: int, width: int, *, heads: int, norm: str = "layer", causal: bool = True
) -> list[nn.Module]:
    """Attention and a perceptron of twice the width, each on what is normalised and added to it."""

    def normalised(*branch: nn.Module) -> Residual:
        return Residual(*([nn.LayerNorm(width)] if norm == "layer" else []), *branch)

    return [
        module
        for _ in range(blocks)
        for module in (
            normalised(SelfAttention(width, heads=heads, causal=causal)),
            normalised(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)),
        )
    ]


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
