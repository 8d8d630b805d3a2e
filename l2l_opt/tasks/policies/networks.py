"""Perceptrons as policies: real actions with Gaussian noise, and one of some actions."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from l2l_opt.checks import check_positive_integers, check_positive_numbers
from l2l_opt.tasks.layers.basic import perceptron
from l2l_opt.tasks.policies.policy import Policy


class LastLayer(nn.Linear):
    """A linear layer that starts near zero, so that a fresh policy prefers no action much."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        with torch.no_grad():
            self.weight.mul_(0.01)
            self.bias.zero_()


class PerceptronPolicy(Policy):
    """A perceptron from observations to the numbers that make up a distribution of actions.

    Args:
        num_observations: numbers of one observation.
        num_outputs: numbers that the last layer gives.
        hidden: units of each hidden layer.
        layers: hidden layers.
        activation: between them.
    """

    def __init__(self, num_observations: int, num_outputs: int, *, hidden: int, layers: int, activation: str):
        super().__init__()
        check_positive_integers(hidden=hidden, layers=layers)
        body = perceptron([num_observations, *[hidden] * layers], activation=activation, activate_last=True)
        self.network = nn.Sequential(*body, LastLayer(hidden, num_outputs))

    def forward(self, observations: Tensor) -> tuple[Tensor, ...]:
        return (self.network(observations),)


class GaussianPolicy(PerceptronPolicy):
    """``a = mean(s) + exp(log_deviation) * noise``: real actions, their deviation learned and the same everywhere.

    Args:
        num_observations: numbers of one observation.
        num_actions: numbers of one action.
        deviation: at first, in the action's unit.
        hidden: units of each hidden layer.
        layers: hidden layers.
        activation: between them.
    """

    def __init__(
        self,
        num_observations: int,
        num_actions: int,
        *,
        deviation: float,
        hidden: int,
        layers: int = 2,
        activation: str = "tanh",
    ):
        super().__init__(num_observations, num_actions, hidden=hidden, layers=layers, activation=activation)
        check_positive_numbers(deviation=deviation)
        self.noise_shape, self.first_deviation = (num_actions,), deviation
        self.log_deviation = nn.Parameter(torch.empty(num_actions))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The deviation alone; layers reset themselves."""
        nn.init.constant_(self.log_deviation, math.log(self.first_deviation))

    def forward(self, observations: Tensor) -> tuple[Tensor, ...]:
        return self.network(observations), self.log_deviation

    def draw_noise(self, shape: Sequence[int], *, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        return torch.randn(*shape, *self.noise_shape, generator=generator, dtype=dtype)

    def act(self, outputs: tuple[Tensor, ...], noise: Tensor) -> Tensor:
        mean, log_deviation = outputs
        return mean + log_deviation.exp() * noise

    def log_probability(self, outputs: tuple[Tensor, ...], actions: Tensor) -> Tensor:
        mean, log_deviation = outputs
        apart = (actions - mean) * (-log_deviation).exp()
        return -(apart.square() / 2 + log_deviation + math.log(2 * math.pi) / 2).sum(-1)


class CategoricalPolicy(PerceptronPolicy):
    """``p(a) = softmax(logits(s))_a``: one of some actions; the noise is uniform in [0, 1), and p its steps.

    Args:
        num_observations: numbers of one observation.
        num_actions: actions to choose from.
        hidden: units of each hidden layer.
        layers: hidden layers.
        activation: between them.
    """

    def __init__(
        self, num_observations: int, num_actions: int, *, hidden: int, layers: int = 2, activation: str = "tanh"
    ):
        super().__init__(num_observations, num_actions, hidden=hidden, layers=layers, activation=activation)

    def draw_noise(self, shape: Sequence[int], *, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=dtype)

    def act(self, outputs: tuple[Tensor, ...], noise: Tensor) -> Tensor:
        edges = outputs[0].softmax(-1).cumsum(-1)[..., :-1]
        return (noise.unsqueeze(-1) >= edges).sum(-1)

    def log_probability(self, outputs: tuple[Tensor, ...], actions: Tensor) -> Tensor:
        return outputs[0].log_softmax(-1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)
