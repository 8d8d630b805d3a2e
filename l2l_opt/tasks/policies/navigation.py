"""Navigation of a point in the plane to a goal that it does not see."""

import torch
from torch import Tensor

from l2l_opt.tasks.base import register_task
from l2l_opt.tasks.policies.control import ControlTask
from l2l_opt.tasks.policies.networks import GaussianPolicy
from l2l_opt.types import TaskData

REACH = 0.5
SPEED = 0.1
ARRIVED = 0.01


@register_task("navigation")
class Navigation(ControlTask):
    """Policy gradients for a point that is to walk to a hidden goal, each student's own.

    From the origin the point moves by ``0.1 clip(a, -1, 1)`` a step; its goal is uniform in [-.5, .5]^2, the
    reward minus the squared distance to it after the move. An episode ends within .01 of the goal.

    Args:
        hidden: units of each of the policy's two hidden layers.
        deviation: of actions at first, in units of the largest move.
        episodes: a batch.
        steps: of an episode at most.
        discount: of rewards, a step.
        memory: of second derivatives: 1 unbiased, 0 of low variance (``policy_gradient.surrogate``).
        device: of the tensors.
        dtype: of all tensors.

    Raises:
        ValueError: sizes that are not positive integers, a deviation not above 0, a discount or memory outside [0, 1].

    Source: arXiv 1703.03400, section 5.3.
    Differs from source: actions are in units of the largest move.
    """

    def __init__(
        self,
        *,
        hidden: int = 32,
        deviation: float = 0.5,
        episodes: int = 20,
        steps: int = 100,
        discount: float = 0.99,
        memory: float = 0.0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__(
            GaussianPolicy(2, 2, deviation=deviation, hidden=hidden),
            episodes=episodes,
            steps=steps,
            discount=discount,
            memory=memory,
            device=device,
            dtype=dtype,
        )

    def sample(self, generator: torch.Generator) -> TaskData:
        """``goal [2]``."""
        goal = REACH * (2 * torch.rand(2, generator=generator, dtype=self.dtype) - 1)
        return {"goal": goal.to(self.device)}

    def start(self, generator: torch.Generator) -> Tensor:
        return torch.zeros(self.episodes, 2)

    def step(self, data: TaskData, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        states = states + SPEED * actions.clamp(-1, 1)
        squared = (states - data["goal"]).square().sum(-1)
        return states, -squared, squared < ARRIVED**2
