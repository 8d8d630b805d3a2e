"""Self-attention of plain operations, as layers of students."""

import torch
from torch import Tensor, nn

from l2l_opt.tasks.layers.basic import Residual


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
