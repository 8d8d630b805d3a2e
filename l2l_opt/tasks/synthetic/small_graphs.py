"""A graph isomorphism network on many small graphs; held out."""

from functools import lru_cache, partial

import torch
from torch import Tensor, nn

from l2l_opt.tasks.base import register_module_task
from l2l_opt.tasks.examples import Examples
from l2l_opt.tasks.module_task import ModuleTask

NODES, KINDS, NUMBER = 12, 4, 2500
DENSITY = 0.27
"""Edges, of all pairs, in graphs of every kind on the average, so that counting edges is not enough."""


@lru_cache(1)
def graphs() -> Examples:
    """Adjacency ``[graphs, 12, 12]`` of 0 and 1, and which of four kinds, the nodes in random order.

    Random pairs; two communities; a ring whose neighbours' neighbours are linked; a few hubs that most are linked to.
    """
    generator = torch.Generator().manual_seed(31)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    kinds = torch.arange(NUMBER) % KINDS
    node = torch.arange(NODES)
    apart = (node[:, None] - node).abs()
    ring = torch.minimum(apart, NODES - apart)
    same = (node[:, None] % 2 == node % 2).double()
    hub = (torch.minimum(node[:, None], node) < 2).double()
    chances = torch.stack(
        [
            torch.full((NODES, NODES), DENSITY, dtype=torch.float64),
            torch.where(same > 0, 0.53, 0.05),
            torch.where(ring <= 2, 0.62, 0.06),
            torch.where(hub > 0, 0.62, 0.12),
        ]
    )
    drawn = (uniform(NUMBER, NODES, NODES) < chances[kinds]).triu(1)
    linked = (drawn | drawn.mT).double()
    order = uniform(NUMBER, NODES).argsort(-1)
    linked = linked.gather(1, order[:, :, None].expand(-1, -1, NODES)).gather(2, order[:, None].expand(-1, NODES, -1))
    return Examples.parted(linked, kinds)


class IsomorphismNetwork(nn.Module):
    """``h' = MLP((1 + e) h + sum of neighbours' h)`` from h = the number of neighbours; sums over nodes of every layer.

    Args:
        hidden: features of a node.
        layers: how many.

    Source: arXiv 1810.00826, section 4.
    """

    def __init__(self, hidden: int, layers: int):
        super().__init__()
        self.own = nn.ModuleList(nn.Linear(hidden if layer else 1, hidden) for layer in range(layers))
        self.neighbours = nn.ModuleList(
            nn.Linear(hidden if layer else 1, hidden, bias=False) for layer in range(layers)
        )
        self.after = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(layers * hidden), nn.Linear(layers * hidden, KINDS)

    def forward(self, linked: Tensor) -> Tensor:
        h, sums = linked.sum(-1, keepdim=True) / 4, []
        for own, neighbours, after in zip(self.own, self.neighbours, self.after, strict=True):
            h = torch.relu(after(torch.relu(own(h) + neighbours(linked @ h / 4))))
            sums.append(h.sum(-2))
        return self.head(self.norm(torch.cat(sums, -1)))


@register_module_task("graphs-isomorphism", batch_size=32)
def graphs_isomorphism(*, hidden: int = 24, layers: int = 3) -> partial[ModuleTask]:
    """Graph isomorphism network that recognises four kinds of generated graphs of twelve nodes.

    Args:
        hidden: features of a node.
        layers: how many.

    Raises:
        ValueError: a size that is not a positive integer.
    """
    return partial(ModuleTask, IsomorphismNetwork(hidden, layers), nn.functional.cross_entropy, graphs())
