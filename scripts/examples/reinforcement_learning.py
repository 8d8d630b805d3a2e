"""MAML for policies: first weights, and a rule, that adapt to an environment in one to three policy gradients.

    python scripts/examples/reinforcement_learning.py
    python scripts/examples/reinforcement_learning.py --task cartpole --rule rnnprop:output_scale=0.3 --outer-steps 100

Needs no network. Environments are tasks like any other, so that the adaptation is ``unroll``: batch k is the episodes
that are played before step k, and ``losses[k]`` what their mean return misses.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import click
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from l2l_opt.randomness import Stream, make_generator
from l2l_opt.rules import make_rule
from l2l_opt.rules.base import UpdateRule
from l2l_opt.tasks import make_task
from l2l_opt.tasks.control import ControlTask
from l2l_opt.types import Batch, Params, TaskData
from l2l_opt.unroll import InnerState, unroll


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
        adam, lambda done: 0.1 + 0.45 * (1 + math.cos(math.pi * min(done / outer_steps, 1)))
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


@torch.no_grad()
def returns_while_adapting(
    learner: Learner, family: ControlTask, *, inner_steps: int, environments: int, seed: int = 0
) -> Tensor:
    """Mean returns ``[inner_steps + 1, R, environments]`` before and after each step, in environments never seen."""
    generators = [make_generator(seed, Stream.REPORTING, run) for run in range(learner.num_runs)]
    data, batches = draw(family, generators, environments=environments, batches=inner_steps + 1)
    inner, phi = learner.start(environments)
    _, losses = unroll(learner.rule, family, data, inner, batches, phi=phi)
    return family.best_return - losses.unflatten(1, (learner.num_runs, environments))


@click.command(context_settings={"show_default": True})
@click.option("--task", default="navigation", help="navigation or cartpole, with options.")
@click.option("--rule", default="sgd:lr=0.003", help="The rule that adapts, meta-trained with the first weights.")
@click.option("--outer-steps", default=60, type=click.IntRange(1))
@click.option("--inner-steps", default=3, type=click.IntRange(1), help="Policy gradients of an adaptation.")
@click.option("--environments", default=10, type=click.IntRange(1), help="For each outer step.")
def main(task: str, rule: str, outer_steps: int, inner_steps: int, environments: int) -> None:
    torch.set_num_threads(1)
    family = make_task(task)
    if not isinstance(family, ControlTask):
        raise click.BadParameter(f"a task must be of policies; got {task!r}, use navigation or cartpole")
    learner = fresh_learner(rule, family, runs=1)

    def show(outer_step: int) -> None:
        returns = returns_while_adapting(learner, family, inner_steps=inner_steps, environments=40).mean((1, 2))
        print(f"{outer_step:10}  " + "  ".join(f"{value:8.1f}" for value in returns.tolist()), flush=True)

    print("outer step  return in 40 new environments after " + ", ".join(map(str, range(inner_steps + 1))) + " steps")
    show(0)
    outer = meta_train(learner, family, outer_steps=outer_steps, inner_steps=inner_steps, environments=environments)
    for outer_step, _ in enumerate(outer, start=1):
        if outer_step % 20 == 0 or outer_step == outer_steps:
            show(outer_step)


if __name__ == "__main__":
    main()
