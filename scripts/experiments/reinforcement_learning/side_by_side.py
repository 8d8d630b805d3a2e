"""MAML for policies in several runs at once, so that results have intervals: one batch of all runs' environments.

Each run is what ``MetaLearner`` does, with two differences: the meta-loss is over all inner steps, since the episodes
that the next step learns from are played anyway, and the rule has a rate of its own.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from l2l_opt.inner_loop.unroll import InnerState, unroll
from l2l_opt.randomness import Stream, make_generator
from l2l_opt.rules import make_rule
from l2l_opt.rules.base import UpdateRule
from l2l_opt.tasks.policies.control import ControlTask
from l2l_opt.types import Batch, Params, TaskData


@dataclass
class Learner:
    """What meta-training learns, of R runs side by side that know nothing of each other.

    Attributes:
        rule: how policies adapt.
        theta: where they start, parameter name -> ``[R, *param.shape]``.
        phi: the rule's weights, name -> ``[R, *weight.shape]``.
    """

    rule: UpdateRule
    theta: Params
    phi: Params

    @property
    def num_runs(self) -> int:
        return next(iter(self.theta.values())).shape[0]

    def start(self, environments: int) -> tuple[InnerState, Params]:
        """Every run's policies, one an environment, and their rules: each tensor ``[R * environments, ...]``."""
        theta, phi = (
            {name: value.repeat_interleave(environments, dim=0) for name, value in weights.items()}
            for weights in (self.theta, self.phi)
        )
        count = self.num_runs * environments
        state = self.rule.init_state({name: value[0].detach() for name, value in theta.items()})
        state = tree_map(lambda leaf: leaf.expand(count, *leaf.shape), state)
        return InnerState(theta, state, None), phi


def fresh_learner(rule: str, family: ControlTask, *, runs: int, seed: int = 0) -> Learner:
    """First weights as a student has them, and a rule's as it is made."""
    thetas, phis, made = [], [], None
    for run in range(runs):
        generator = make_generator(seed, Stream.RULE, run)
        thetas.append(family.init_params(family.sample(generator), generator))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**63 - 1, (), generator=generator)))
            made = make_rule(rule)
        phis.append({name: weight.detach() for name, weight in made.named_parameters()})
    assert made is not None
    return Learner(made, stacked(thetas), stacked(phis))


def stacked(trees: list[Params]) -> Params:
    return tree_map(lambda *leaves: torch.stack(leaves), *trees)


def draw(
    family: ControlTask, generators: list[torch.Generator], *, environments: int, batches: int
) -> tuple[TaskData, list[Batch]]:
    """Environments of each run, by its own generator, and so many batches of episodes in each."""
    data = [(family.sample(generator), generator) for generator in generators for _ in range(environments)]
    drawn = [stacked([family.sample_batch(own, generator) for own, generator in data]) for _ in range(batches)]
    return stacked([own for own, _ in data]), drawn


def meta_train(
    learner: Learner,
    family: ControlTask,
    *,
    outer_steps: int,
    inner_steps: int,
    environments: int = 10,
    theta_lr: float = 3e-3,
    phi_lr: float = 1e-2,
    seed: int = 0,
) -> Iterator[Tensor]:
    """Adam on theta and phi, whose rates fall as a cosine; the meta-loss is what returns miss after each inner step.

    Args:
        learner: changed in place.
        family: of environments.
        outer_steps: of Adam.
        inner_steps: of adaptation; 0 trains one policy for all environments, and no rule.
        environments: drawn for each outer step and run.
        theta_lr: Adam's rate for first weights.
        phi_lr: and for the rule's.
        seed: of environments and episodes.

    Yields:
        Mean returns ``[inner_steps + 1, R]`` of each outer step, before it.
    """
    weights = [value.requires_grad_() for value in learner.theta.values()]
    rule_weights = [value.requires_grad_() for value in learner.phi.values()] if inner_steps else []
    adam = torch.optim.Adam([{"params": weights, "lr": theta_lr}, {"params": rule_weights, "lr": phi_lr}])
    # From the full rate to a tenth.
    cosine = torch.optim.lr_scheduler.LambdaLR(
        adam, lambda done: 0.1 + 0.45 * (1 + math.cos(math.pi * min(done / max(outer_steps, 1), 1)))
    )
    for outer_step in range(outer_steps):
        generators = [make_generator(seed, Stream.META_TRAINING, run, outer_step) for run in range(learner.num_runs)]
        data, batches = draw(family, generators, environments=environments, batches=inner_steps + 1)
        inner, phi = learner.start(environments)
        _, losses = unroll(learner.rule, family, data, inner, batches, phi=phi, second_derivatives=True)
        losses = losses.unflatten(1, (learner.num_runs, environments)).mean(-1)
        # Runs share no weight, so that the gradient of a sum over them is each one's own.
        (losses[1:] if inner_steps else losses).mean(0).sum().backward()
        adam.step()
        adam.zero_grad()
        cosine.step()
        yield family.best_return - losses.detach()
