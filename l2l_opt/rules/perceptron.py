"""The perceptron that rules run at every coordinate, on features that are relative to the whole tensor."""

import itertools
import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from l2l_opt.checks import check_positive_integers
from l2l_opt.rules.sharded_sums import shard_sum, tensor_sum
from l2l_opt.types import Params


class Perceptron(nn.Module):
    """Dense layers with rectifiers between them, shared by all coordinates of all tensors of a student.

    Weights begin as a normal distribution of variance 1 / inputs, cut off at two deviations, biases at zero.

    Args:
        num_inputs: features a coordinate, and of what its tensor shares.
        hidden_size: units of a hidden layer.
        num_layers: hidden layers.
        num_outputs: numbers a coordinate.

    Raises:
        ValueError: a size that is not a positive integer.
    """

    def __init__(self, *, num_inputs: int, hidden_size: int, num_layers: int, num_outputs: int):
        super().__init__()
        check_positive_integers(4, hidden_size=hidden_size)
        check_positive_integers(2, num_layers=num_layers)
        sizes = [num_inputs, *[hidden_size] * num_layers, num_outputs]
        self.layers = nn.ModuleList(nn.Linear(below, size) for below, size in itertools.pairwise(sizes))
        for layer in self.linear():
            std = 1 / math.sqrt(layer.in_features)
            nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
            nn.init.zeros_(layer.bias)

    def linear(self) -> Iterable[nn.Linear]:
        """Return the layers, the lowest first."""
        return cast(Iterable[nn.Linear], self.layers)

    def weights_of(self, phi: Params, name: str) -> list[Tensor]:
        """Return weight and bias of each layer, the lowest first, from a rule's weights.

        Args:
            phi: the rule's weights, shared or with a leading axis.
            name: of this network in the rule.
        """
        return [phi[f"{name}.{own}"] for own, _ in self.named_parameters()]

    def forward(self, inputs: Tensor, *, scales: Tensor, shared: Tensor | None = None) -> Tensor:
        """Run the network at every coordinate.

        Args:
            inputs: ``[features, N]``.
            scales: ``[features]``, of the tensor, which features are multiplied by.
            shared: further features, which all coordinates have in common; ``[num_inputs - features]``.

        Returns:
            ``[num_outputs, N]``.
        """
        first, *others = self.linear()
        weight, bias = first.weight.to(inputs.dtype), first.bias.to(inputs.dtype)
        count = inputs.shape[0]
        if shared is not None:
            bias = bias + weight[:, count:] @ shared
        values = (weight[:, :count] * scales) @ inputs + bias.unsqueeze(1)
        for layer in others:
            weight, bias = layer.weight.to(inputs.dtype), layer.bias.to(inputs.dtype)
            values = weight @ torch.relu(values) + bias.unsqueeze(1)
        return values


def over_rms(features: Tensor, *, eps: float) -> Tensor:
    """Return what brings each feature to a root mean square of about one over its tensor, ``[features]``.

        scale_k = (eps + mean(x_k^2))^-1/2

    Args:
        features: ``[features, N]``; of a sharded tensor, this device's coordinates.
        eps: added to mean squares.
    """
    count = tensor_sum(torch.ones_like(features[0])).clamp(min=1)
    return (eps + shard_sum((features * features).sum(1)) / count).rsqrt()
