"""A policy trained in gymnasium's own environment by LearnedOptimizer, where torch.optim.Adam could stand.

    python -m scripts.examples.reinforcement_learning.gymnasium_policy
    python -m scripts.examples.reinforcement_learning.gymnasium_policy --environment Acrobot-v1 --steps 500

Needs the extra [rl] and no network. Environments of real observations and a choice of actions.
"""

from typing import Any

import click
import gymnasium
import torch
from gymnasium import spaces
from torch import Tensor

from l2l_opt import LearnedOptimizer
from l2l_opt.tasks.policies.networks import CategoricalPolicy
from l2l_opt.tasks.policies.policy_gradient import advantages_over_others, returns_to_go, surrogate

DISCOUNT = 0.99


@torch.no_grad()
def play(environment: Any, policy: CategoricalPolicy, *, steps: int, seed: int) -> tuple[Tensor, ...]:
    """One episode in each of the vector environment's places.

    Returns:
        Observations ``[E, H, num_observations]``, actions, rewards and whether the episode was not over, ``[E, H]``.
    """
    generator = torch.Generator().manual_seed(seed)
    observations, _ = environment.reset(seed=seed)
    alive, played = torch.ones(environment.num_envs), []
    for _ in range(steps):
        seen = torch.as_tensor(observations, dtype=torch.float32)
        noise = policy.draw_noise(alive.shape, generator=generator, dtype=torch.float32)
        actions = policy.act(policy(seen), noise)
        observations, rewards, terminated, truncated, _ = environment.step(actions.numpy())
        played.append((seen, actions, alive * torch.as_tensor(rewards, dtype=torch.float32), alive))
        # What is played after an episode's end belongs to the next one.
        alive = alive * ~torch.as_tensor(terminated | truncated)
    return tuple(torch.stack(part, dim=1) for part in zip(*played, strict=True))


def train(environment: str, *, rule: str, updates: int, episodes: int, steps: int, seed: int = 0) -> list[float]:
    """Mean returns before each update.

    Raises:
        ValueError: an environment of other observations than a vector of numbers, or other actions than a choice.
    """
    places = gymnasium.make_vec(environment, num_envs=episodes, max_episode_steps=steps)
    seen, done = places.single_observation_space, places.single_action_space
    if not isinstance(seen, spaces.Box) or len(seen.shape) != 1 or not isinstance(done, spaces.Discrete):
        raise ValueError(
            f"an environment must show a vector of numbers and offer a choice of actions; got {environment!r} with "
            f"{seen} and {done}, use e.g. CartPole-v1"
        )
    torch.manual_seed(seed)
    policy = CategoricalPolicy(seen.shape[0], int(done.n), hidden=32)
    # torch.optim.Adam(policy.parameters(), lr=0.01) could stand here.
    optimizer = LearnedOptimizer(policy.parameters(), rule, num_steps=updates)
    returns = []
    for update in range(updates):
        observations, actions, rewards, alive = play(places, policy, steps=steps, seed=seed + update)
        advantages = advantages_over_others(returns_to_go(rewards, discount=DISCOUNT), alive)
        log_probabilities = policy.log_probability(policy(observations), actions) * alive
        optimizer.zero_grad()
        surrogate(log_probabilities, advantages, memory=0.0).backward()
        optimizer.step()
        returns.append(float(rewards.sum(-1).mean()))
    places.close()
    return returns


@click.command(context_settings={"show_default": True})
@click.option("--environment", default="CartPole-v1", help="Of gymnasium.")
@click.option("--rule", default="default-1", help="A shipped rule, or the path of an artefact.")
@click.option("--updates", default=100, type=click.IntRange(1))
@click.option("--episodes", default=10, type=click.IntRange(2), help="For each update.")
@click.option("--steps", default=200, type=click.IntRange(1), help="Of an episode at most.")
def main(environment: str, rule: str, updates: int, episodes: int, steps: int) -> None:
    torch.set_num_threads(1)
    returns = train(environment, rule=rule, updates=updates, episodes=episodes, steps=steps)
    for start in range(0, updates, max(updates // 10, 1)):
        part = returns[start : start + max(updates // 10, 1)]
        print(f"update {start:4}: mean return {sum(part) / len(part):8.1f}")


if __name__ == "__main__":
    main()
