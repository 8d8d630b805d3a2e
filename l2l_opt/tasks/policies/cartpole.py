"""Poles on carts: gymnasium's CartPole-v1 in torch, with physics of each student's own."""

import math

import torch
from torch import Tensor

from l2l_opt.checks import check_numbers
from l2l_opt.tasks.base import register_task
from l2l_opt.tasks.policies.control import ControlTask
from l2l_opt.tasks.policies.networks import CategoricalPolicy
from l2l_opt.types import TaskData

STANDARD = {"gravity": 9.8, "masscart": 1.0, "masspole": 0.1, "length": 0.5, "force_mag": 10.0}
"""CartPole-v1's own physics by the names of its attributes: m / s^2, kg, kg, m (half the pole), N."""
LARGEST_POSITION = 2.4
LARGEST_ANGLE = 12 * 2 * math.pi / 360
SECONDS = 0.02
UNITS = (LARGEST_POSITION, 3.0, LARGEST_ANGLE, 3.0)
"""Of position, its speed, angle, its speed, as the policy sees them: m, m / s, radians, radians / s."""


@register_task("cartpole")
class CartPole(ControlTask):
    """Policy gradients for balancing a pole on a cart, each with physics of its own; actions may be swapped.

    ``length``, ``masscart``, ``gravity`` and ``force_mag`` are CartPole-v1's times ``spread^u`` with u uniform in
    [-1, 1]; with ``swapped`` the force's sign is a coin's, so that no policy is right everywhere and each has to
    adapt. Rewards are 1 a step, the one that lets the pole fall included; the loss is the number of steps missed.

    Args:
        spread: the largest factor of the physics, 1 or more; 1 for CartPole-v1's own.
        swapped: whether in half the environments the actions push the other way.
        hidden: units of each of the policy's two hidden layers.
        episodes: a batch.
        steps: of an episode at most.
        discount: of rewards, a step.
        memory: of second derivatives: 1 unbiased, 0 of low variance (``policy_gradient.surrogate``).
        device: of the tensors.
        dtype: of floating-point tensors.

    Raises:
        ValueError: sizes that are not positive integers, a spread below 1, a discount or memory outside [0, 1].

    Source: gymnasium 1.4, ``envs/classic_control/cartpole.py`` (Euler's method), after Barto, Sutton and Anderson 1983,
    IEEE Transactions on Systems, Man, and Cybernetics 13.
    """

    def __init__(
        self,
        *,
        spread: float = 1.5,
        swapped: bool = True,
        hidden: int = 32,
        episodes: int = 20,
        steps: int = 200,
        discount: float = 0.99,
        memory: float = 0.0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        check_numbers(1, spread=spread)
        self.spread, self.swapped = float(spread), bool(swapped)
        super().__init__(
            CategoricalPolicy(4, 2, hidden=hidden),
            episodes=episodes,
            steps=steps,
            discount=discount,
            memory=memory,
            best_return=steps,
            device=device,
            dtype=dtype,
        )

    def sample(self, generator: torch.Generator) -> TaskData:
        """Each of ``STANDARD``, 0-dim; a negative ``force_mag`` swaps the actions, as it does in gymnasium."""
        drawn: TaskData = {}
        for name, standard in STANDARD.items():
            exponent = 2 * torch.rand((), generator=generator, dtype=self.dtype) - 1
            factor = 1.0 if name == "masspole" else self.spread**exponent
            drawn[name] = (factor * torch.full((), standard, dtype=self.dtype)).to(self.device)
        coin = torch.rand((), generator=generator) < 0.5
        if self.swapped:
            drawn["force_mag"] = torch.where(coin.to(self.device), -drawn["force_mag"], drawn["force_mag"])
        return drawn

    def start(self, generator: torch.Generator) -> Tensor:
        return 0.1 * torch.rand(self.episodes, 4, generator=generator, dtype=self.dtype) - 0.05

    def observe(self, states: Tensor) -> Tensor:
        return states / torch.tensor(UNITS, dtype=states.dtype, device=states.device)

    def step(self, data: TaskData, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, speed, angle, turning = states.unbind(-1)
        mass = data["masspole"] + data["masscart"]
        moment = data["masspole"] * data["length"]
        sine, cosine = angle.sin(), angle.cos()
        push = (data["force_mag"] * (2 * actions - 1) + moment * turning.square() * sine) / mass
        turned = (data["gravity"] * sine - cosine * push) / (
            data["length"] * (4 / 3 - data["masspole"] * cosine.square() / mass)
        )
        pushed = push - moment * turned * cosine / mass
        change = torch.stack([speed, pushed, turning, turned], dim=-1)
        states = states + SECONDS * change
        fallen = (states[..., 0].abs() > LARGEST_POSITION) | (states[..., 2].abs() > LARGEST_ANGLE)
        return states, torch.ones_like(x), fallen
