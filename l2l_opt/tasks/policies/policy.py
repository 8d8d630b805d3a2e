"""What a policy is: a module that gives each action's probability, and turns noise drawn beforehand into actions."""

import abc
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Policy(nn.Module, abc.ABC):
    """From observations to a distribution of actions; subclass it for networks of one's own."""

    noise_shape: tuple[int, ...] = ()
    """Of the noise that one action takes."""

    @abc.abstractmethod
    def forward(self, observations: Tensor) -> tuple[Tensor, ...]:
        """``[..., num_observations]`` to what ``act`` and ``log_probability`` take."""

    @abc.abstractmethod
    def draw_noise(self, shape: Sequence[int], *, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        """Noise ``[*shape, *noise_shape]`` for so many actions."""

    @abc.abstractmethod
    def act(self, outputs: tuple[Tensor, ...], noise: Tensor) -> Tensor:
        """Actions, a deterministic function of noise."""

    @abc.abstractmethod
    def log_probability(self, outputs: tuple[Tensor, ...], actions: Tensor) -> Tensor:
        """``log pi(a | s)`` in nats, one number an action."""
