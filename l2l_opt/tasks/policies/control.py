"""Reinforcement learning as a task family: a policy, an environment in torch, and the policy gradient."""

import abc
from typing import NamedTuple

import torch
from torch import Tensor

from l2l_opt.checks import check_numbers, check_positive_integers
from l2l_opt.tasks.base import Split
from l2l_opt.tasks.drawing import placed
from l2l_opt.tasks.policies.policy import Policy
from l2l_opt.tasks.policies.policy_gradient import advantages_over_others, returns_to_go, surrogate
from l2l_opt.tasks.student_module import fresh_parameters, reset_parameters
from l2l_opt.types import Batch, Params, TaskData


class Episodes(NamedTuple):
    """E episodes of at most H steps; nothing in them is differentiable.

    Attributes:
        observations: ``[E, H, num_observations]``, what the policy saw.
        actions: ``[E, H, ...]``.
        rewards: ``[E, H]``, 0 after an episode's end.
        alive: ``[E, H]``, 1 before an episode's end and 0 after it.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    alive: Tensor


class ControlTask(abc.ABC):
    """A student is a policy; a batch is the randomness of E episodes, drawn beforehand; the loss plays them.

    ``loss = best_return - mean return``, what the episodes of a batch miss, and its derivatives are those of
    ``policy_gradient.surrogate``: estimates of the derivatives of the *expected* return. So any rule trains a policy as
    it trains any other student, curves of losses are curves of returns, and with second derivatives the inner steps are
    MAML's. Splits differ by nothing but what is drawn: support episodes are "train", query episodes "test".

    An environment is a subclass: ``sample`` draws what varies, ``start`` where episodes begin, ``step`` moves
    them. ``step`` works under vmap, so without Python branches on the values of tensors.

    Args:
        policy: the student.
        episodes: a batch, E.
        steps: of an episode at most, H.
        discount: of rewards, a step; below 1 far rewards count less, which adds bias and takes variance away. Only
            derivatives know of it.
        memory: of ``surrogate``, for second derivatives only.
        best_return: that no episode exceeds, so that losses are not negative; in units of reward.
        device: of the tensors.
        dtype: of all floating-point tensors.

    Raises:
        ValueError: numbers that are not positive integers, a discount or memory outside [0, 1].

    Source: arXiv 1703.03400, section 4.2.
    Differs from source: the baseline is the mean of the other episodes, not a linear fit to the same ones.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        episodes: int,
        steps: int,
        discount: float,
        memory: float,
        best_return: float = 0.0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        check_positive_integers(episodes=episodes, steps=steps)
        check_numbers(0, discount=discount, memory=memory)
        for key, value in {"discount": discount, "memory": memory}.items():
            if value > 1:
                raise ValueError(f"{key} must be at most 1; got {value!r}, use e.g. {key}=0.99")
        self.episodes, self.steps, self.discount, self.memory = episodes, steps, float(discount), float(memory)
        self.best_return = float(best_return)
        self.device, self.dtype = torch.device(device), dtype
        self.policy = policy.to(device=self.device, dtype=dtype)

    @abc.abstractmethod
    def sample(self, generator: torch.Generator) -> TaskData:
        """Draw one environment."""

    @abc.abstractmethod
    def start(self, generator: torch.Generator) -> Tensor:
        """Draw first states ``[E, num_states]``, on the CPU."""

    @abc.abstractmethod
    def step(self, data: TaskData, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Move all episodes by one step.

        Args:
            data: of the environment.
            states: ``[E, num_states]``.
            actions: ``[E, ...]``.

        Returns:
            Next states, rewards ``[E]``, and whether this was the last step ``[E]``.
        """

    def observe(self, states: Tensor) -> Tensor:
        """What the policy sees of states ``[..., num_states]``: all, unless overridden."""
        return states

    def init_params(self, data: TaskData, generator: torch.Generator) -> Params:
        return fresh_parameters(self.policy, reset_parameters, generator, self.device)

    def sample_batch(self, data: TaskData, generator: torch.Generator, split: Split = "train") -> Batch:
        """``start [E, num_states]`` and ``noise [H, E, ...]``, which makes actions of the policy's outputs."""
        start = self.start(generator).to(dtype=self.dtype)
        noise = self.policy.draw_noise((self.steps, self.episodes), generator=generator, dtype=self.dtype)
        return {"start": placed(start, self.device), "noise": placed(noise, self.device)}

    def outputs(self, params: Params, observations: Tensor) -> tuple[Tensor, ...]:
        """The policy's outputs, with these weights, for observations ``[..., num_observations]``."""
        return torch.func.functional_call(self.policy, params, (observations,))

    @torch.no_grad()
    def play(self, params: Params, data: TaskData, batch: Batch) -> Episodes:
        """The episodes of a batch under a policy."""
        states, alive = batch["start"], torch.ones_like(batch["start"][:, 0])
        steps: list[tuple[Tensor, ...]] = []
        for noise in batch["noise"].unbind(0):
            observations = self.observe(states)
            actions = self.policy.act(self.outputs(params, observations), noise)
            moved, rewards, last = self.step(data, states, actions)
            steps.append((observations, actions, rewards * alive, alive))
            # An episode that is over stays where it is, so that nothing overflows.
            states = torch.where(alive.unsqueeze(-1) > 0, moved, states)
            alive = alive * ~last
        return Episodes(*(torch.stack(part, dim=1) for part in zip(*steps, strict=True)))

    def episode_return(self, params: Params, data: TaskData, batch: Batch) -> Tensor:
        """The mean return of a batch's episodes, not discounted: 0-dim, in units of reward."""
        return self.play(params, data, batch).rewards.sum(-1).mean()

    def score(self, params: Params, data: TaskData, batch: Batch) -> Tensor:
        """The score of few-shot learners: ``episode_return``."""
        return self.episode_return(params, data, batch)

    def loss(self, params: Params, data: TaskData, batch: Batch) -> Tensor:
        # Played without a graph and looked at once more, all steps in one batch, to be differentiated.
        played = self.play(params, data, batch)
        returns = returns_to_go(played.rewards, discount=self.discount)
        advantages = advantages_over_others(returns, played.alive)
        outputs = self.outputs(params, played.observations)
        log_probabilities = self.policy.log_probability(outputs, played.actions) * played.alive
        missed = self.best_return - played.rewards.sum(-1).mean()
        return missed + surrogate(log_probabilities, advantages, memory=self.memory)
