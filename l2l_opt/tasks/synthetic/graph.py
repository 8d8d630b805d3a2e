"""A graph convolutional network; of the suite ``seen``."""

from functools import lru_cache, partial

import torch
from torch import Tensor, nn

from l2l_opt.tasks.base import register_module_task
from l2l_opt.tasks.module_task import ModuleTask

NODES, COMMUNITIES, FEATURES = 400, 4, 8
WITHIN, ACROSS = 0.05, 0.01


@lru_cache(1)
def stochastic_block_model() -> tuple[Tensor, Tensor, Tensor]:
    """Edges ``D^-1/2 (A + 1) D^-1/2 [nodes, nodes]``, features ``[nodes, 8]`` and communities ``[nodes]``.

    Nodes of one community are linked with probability 0.05, others with 0.01; features are mostly noise.
    """
    generator = torch.Generator().manual_seed(0)
    community = torch.randint(COMMUNITIES, (NODES,), generator=generator)
    chance = torch.where(community[:, None] == community, WITHIN, ACROSS)
    drawn = (torch.rand(NODES, NODES, generator=generator, dtype=torch.float64) < chance).double().triu(1)
    linked = drawn + drawn.T + torch.eye(NODES, dtype=torch.float64)
    scale = linked.sum(0) ** -0.5
    centres = torch.randn(COMMUNITIES, FEATURES, generator=generator, dtype=torch.float64)
    noise = torch.randn(NODES, FEATURES, generator=generator, dtype=torch.float64)
    return scale[:, None] * linked * scale, 0.5 * centres[community] + noise, community


class GraphConvolution(nn.Module):
    """``H' = E H W + b``, E the edges: two layers over all nodes, then the nodes that are asked for.

    Args:
        hidden: units between the layers.

    Source: arXiv 1609.02907, section 2.
    """

    edges: Tensor
    features: Tensor

    def __init__(self, hidden: int):
        super().__init__()
        edges, features, _ = stochastic_block_model()
        self.register_buffer("edges", edges.clone())
        self.register_buffer("features", features.clone())
        self.first, self.second = nn.Linear(FEATURES, hidden), nn.Linear(hidden, COMMUNITIES)

    def forward(self, nodes: Tensor) -> Tensor:
        hidden = torch.relu(self.first(self.edges @ self.features))
        return self.second(self.edges[nodes] @ hidden)


@register_module_task("graph-convolution", batch_size=32)
def graph_convolution(*, hidden: int = 16) -> partial[ModuleTask]:
    """Graph convolutional network that separates four communities of a generated graph of 400 nodes.

    Args:
        hidden: units between the two layers.

    Raises:
        ValueError: a size that is not a positive integer.
    """
    nodes, community = torch.arange(NODES), stochastic_block_model()[2]
    half = NODES // 2
    return partial(
        ModuleTask,
        GraphConvolution(hidden),
        nn.functional.cross_entropy,
        (nodes[:half], community[:half]),
        test_dataset=(nodes[half:], community[half:]),
    )
