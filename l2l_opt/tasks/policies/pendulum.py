"""A pendulum that is to be swung up and held there; held out."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from l2l_opt.checks import check_positive_integers
from l2l_opt.tasks.base import register_task
from l2l_opt.tasks.policies.control import ControlTask
from l2l_opt.tasks.policies.policy import Policy
from l2l_opt.types import TaskData

GRAVITY, STRENGTH, FASTEST = 5.0, 4.0, 8.0
"""In radians / s^2, of the largest push too; in radians / s."""
SECONDS = 0.1
DEVIATION = 0.7
"""Of actions at first, in units of the largest push."""


class Head(nn.Linear):
    """A linear layer of orthogonal first rows of length .05 and zero biases, as is usual for policies."""

    def reset_parameters(self) -> None:
        nn.init.orthogonal_(self.weight, gain=0.05)
        nn.init.zeros_(self.bias)


class Pusher(Policy):
    """``a = m(s) + exp(d(s)) noise``, m and d by one network with layer norm: ``[..., 3]`` to two of ``[..., 1]``.

    Args:
        hidden: units of its hidden layer.
    """

    noise_shape = (1,)

    def __init__(self, hidden: int):
        super().__init__()
        self.enter, self.norm, self.leave = nn.Linear(3, hidden), nn.LayerNorm(hidden), Head(hidden, 2)

    def forward(self, observations: Tensor) -> tuple[Tensor, ...]:
        hidden = nn.functional.silu(self.norm(self.enter(observations)))
        mean, log_deviation = self.leave(hidden).chunk(2, -1)
        return mean, log_deviation + math.log(DEVIATION)

    def draw_noise(self, shape: Sequence[int], *, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        return torch.randn(*shape, *self.noise_shape, generator=generator, dtype=dtype)

    def act(self, outputs: tuple[Tensor, ...], noise: Tensor) -> Tensor:
        mean, log_deviation = outputs
        return mean + log_deviation.exp() * noise

    def log_probability(self, outputs: tuple[Tensor, ...], actions: Tensor) -> Tensor:
        mean, log_deviation = outputs
        density = torch.distributions.Normal(mean, log_deviation.exp(), validate_args=False)
        return density.log_prob(actions).sum(-1)


@register_task("pendulum")
class Pendulum(ControlTask):
    """Policy gradients for a pendulum that hangs at first and is to be swung up and held.

    A push is worth 4 radians / s^2 at most and gravity 5, so that it rises slowly and is hard to stop. The angle is 0
    at the top; a step's reward is ``-(angle^2 / pi^2 + .01 speed^2 + .01 push^2)``. Students share the pendulum.

    Args:
        hidden: units of the policy's hidden layer.
        episodes: a batch.
        steps: of an episode.
        discount: of rewards, a step.
        memory: of second derivatives: 1 unbiased, 0 of low variance (``policy_gradient.surrogate``).
        device: of the tensors.
        dtype: of all tensors.

    Raises:
        ValueError: sizes that are not positive integers, a discount or memory outside [0, 1].
    """

    def __init__(
        self,
        *,
        hidden: int = 32,
        episodes: int = 16,
        steps: int = 50,
        discount: float = 0.95,
        memory: float = 0.0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        check_positive_integers(hidden=hidden)
        super().__init__(
            Pusher(hidden),
            episodes=episodes,
            steps=steps,
            discount=discount,
            memory=memory,
            device=device,
            dtype=dtype,
        )

    def sample(self, generator: torch.Generator) -> TaskData:
        """Nothing: students share the pendulum."""
        return {}

    def start(self, generator: torch.Generator) -> Tensor:
        """Angle and speed; hanging, a little to either side, almost at rest."""
        aside = torch.rand(self.episodes, 2, generator=generator, dtype=self.dtype) - 0.5
        return aside + torch.tensor([math.pi, 0.0], dtype=self.dtype)

    def observe(self, states: Tensor) -> Tensor:
        angle, speed = states.unbind(-1)
        return torch.stack([angle.cos(), angle.sin(), speed / 4], -1)

    def step(self, data: TaskData, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        angle, speed = states.unbind(-1)
        push = actions.squeeze(-1).clamp(-1, 1)
        speed = (speed + SECONDS * (GRAVITY * angle.sin() + STRENGTH * push)).clamp(-FASTEST, FASTEST)
        angle = angle + SECONDS * speed
        from_top = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
        reward = -(from_top.square() / math.pi**2 + 0.01 * speed.square() + 0.01 * push.square())
        return torch.stack([angle, speed], -1), reward, torch.zeros_like(angle, dtype=torch.bool)
