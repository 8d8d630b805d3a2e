"""Policies played in gymnasium's own CartPole-v1, so that reported returns are not our word for it. Extra ``[rl]``."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from l2l_opt.tasks.policies.cartpole import STANDARD, CartPole
from l2l_opt.types import Params, TaskData


def cartpole_returns(
    family: CartPole, params: Params, data: TaskData, *, episodes: int, generator: torch.Generator
) -> Tensor:
    """Returns of S policies, each in its own environment, for some episodes of at most ``family.steps`` steps.

    Args:
        family: whose policies they are.
        params: parameter name -> ``[S, *param.shape]``.
        data: physics, each ``[S]``, as ``family.sample`` draws them for one.
        episodes: of each policy.
        generator: of first states and actions.

    Returns:
        ``[S, episodes]``, on the CPU, in units of reward.

    Raises:
        ModuleNotFoundError: gymnasium is not installed.
    """
    count = len(data["length"])
    environment = vector_environment({name: value.repeat_interleave(episodes) for name, value in data.items()}, family)
    seed = int(torch.randint(2**31, (), generator=generator))
    observations, _ = environment.reset(seed=seed)
    returns, alive = torch.zeros(count * episodes), torch.ones(count * episodes)
    for _ in range(family.steps):
        seen = torch.as_tensor(observations).to(device=family.device, dtype=family.dtype).reshape(count, episodes, -1)
        noise = family.policy.draw_noise((count, episodes), generator=generator, dtype=family.dtype)
        with torch.no_grad():
            outputs = vmap(family.outputs)(params, family.observe(seen))
            actions = family.policy.act(outputs, noise.to(family.device))
        observations, rewards, fallen, _, _ = environment.step(actions.flatten().cpu().numpy())
        returns += alive * torch.as_tensor(rewards, dtype=torch.float32)
        # What gymnasium plays after an episode's end, once it has started the next, does not count.
        alive *= ~torch.as_tensor(fallen)
    environment.close()
    return returns.reshape(count, episodes)


def vector_environment(data: TaskData, family: CartPole) -> Any:
    """Gymnasium's vector environment of CartPole-v1, its attributes set to the physics of each of N environments.

    Args:
        data: each ``[N]``.
        family: whose steps are the most of an episode.

    Raises:
        ModuleNotFoundError: gymnasium is not installed.
    """
    try:
        import gymnasium
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "playing CartPole-v1 needs gymnasium; got none, use pip install 'l2l_opt[rl]'"
        ) from error
    physics = {name: np.asarray(data[name].cpu(), dtype=np.float64) for name in STANDARD}
    environment = gymnasium.make_vec(
        "CartPole-v1",
        num_envs=len(physics["length"]),
        vectorization_mode="vector_entry_point",
        max_episode_steps=family.steps,
    )
    inside: Any = environment.unwrapped
    for name, value in physics.items():
        setattr(inside, name, value)
    inside.total_mass = physics["masspole"] + physics["masscart"]
    inside.polemass_length = physics["masspole"] * physics["length"]
    return environment
