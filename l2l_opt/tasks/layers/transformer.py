"""Transformers as GPT-2 and vision transformers have them: pre-norm blocks, branches that may be scaled."""

from typing import Any

import torch
from torch import Tensor, nn

from l2l_opt.tasks.student_module import reset_parameters

DEVIATION = 0.02
"""Of GPT-2's first weights."""


class Heads(nn.Module):
    """Multi-head self-attention with biases: ``[batch, length, width]`` to the same.

    Args:
        width: features.
        heads: how many; they share the width.
        causal: whether a place sees itself and those before it only.

    Raises:
        ValueError: heads that do not divide the width.
    """

    def __init__(self, width: int, heads: int, *, causal: bool):
        super().__init__()
        if width % heads:
            raise ValueError(f"heads must divide width; got {heads} and {width}, use e.g. width={heads * 8}")
        self.heads, self.causal = heads, causal
        self.enter, self.leave = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        query, key, value = self.enter(x).reshape(batch, length, 3 * self.heads, -1).transpose(1, 2).chunk(3, 1)
        scores = query @ key.mT / (width // self.heads) ** 0.5
        if self.causal:
            scores = scores + torch.full_like(scores[0, 0], -1e9).triu(1)
        return self.leave((scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, length, width))


class Scale(nn.Module):
    """LayerScale: every feature times a learned number, the same one at first.

    Source: arXiv 2103.17239, section 2.
    """

    def __init__(self, width: int, first: float):
        super().__init__()
        self.first = first
        self.weight = nn.Parameter(torch.full((width,), first))

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, self.first)

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x


class Block(nn.Module):
    """``x + s Attention(Norm(x))``, then ``x + s MLP(Norm(x))``, with GELU and four times the width within.

    Args:
        width: features.
        heads: of attention.
        causal: whether a place sees itself and those before it only.
        scale: first value of LayerScale, s; no such scale where None.

    Source: GPT-2 (Radford et al., 2019, section 2.3); arXiv 2010.11929, section 3.1.
    """

    def __init__(self, width: int, heads: int, *, causal: bool, scale: float | None = None):
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attention = Heads(width, heads, causal=causal)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scales = nn.ModuleList(nn.Identity() if scale is None else Scale(width, scale) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scales[0](self.attention(self.norms[0](x)))
        return x + self.scales[1](self.down(nn.functional.gelu(self.up(self.norms[1](x)))))


def gpt2_weights(module: nn.Module) -> None:
    """Draw first weights as GPT-2's: deviation .02, biases zero, and what leaves a branch less by sqrt(2 blocks).

    Source: Radford et al., "Language models are unsupervised multitask learners", 2019, section 2.3.
    """
    reset_parameters(module)
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding)):
            nn.init.normal_(part.weight, std=DEVIATION)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
    blocks: list[Any] = [part for part in module.modules() if isinstance(part, Block)]
    for block in blocks:
        for last in (block.attention.leave, block.down):
            nn.init.normal_(last.weight, std=DEVIATION / (2 * len(blocks)) ** 0.5)


class CharacterTransformer(nn.Module):
    """Embeddings of symbols and places, blocks, a norm and a linear layer: ``[batch, length] -> [.., symbols]``.

    Args:
        symbols: how many.
        length: of a text.
        width: features.
        blocks: how many.
        heads: of attention.
    """

    def __init__(self, symbols: int, length: int, *, width: int, blocks: int, heads: int):
        super().__init__()
        self.symbols, self.places = nn.Embedding(symbols, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads, causal=True) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, symbols, bias=False)

    def forward(self, text: Tensor) -> Tensor:
        x = self.symbols(text.long()) + self.places.weight[: text.shape[-1]]
        return self.head(self.norm(self.blocks(x)))
