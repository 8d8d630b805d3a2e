"""MAML for policies: first weights, and a rule, that adapt to an environment in one to three policy gradients.

    python -m scripts.examples.reinforcement_learning.adapting_policies
    python -m scripts.examples.reinforcement_learning.adapting_policies --task cartpole --rule sgd:lr=0.01
    python -m scripts.examples.reinforcement_learning.adapting_policies --rule rnnprop:hidden_size=8,output_scale=0.3

Needs no network. Environments are few-shot episodes like any other: what is learned from are episodes that the policy
plays before each step, and its score those that it plays after the last.
"""

import click
import torch

from l2l_opt.few_shot.evaluation import evaluate_learner
from l2l_opt.few_shot.meta_learner import MetaLearner
from l2l_opt.few_shot.methods import Method
from l2l_opt.randomness import Stream, make_generator
from l2l_opt.rules import make_rule
from l2l_opt.tasks import make_task
from l2l_opt.tasks.policies.control import ControlTask


def fresh_learner(
    family: ControlTask, rule: str, *, outer_steps: int, inner_steps: int, environments: int, seed: int = 0
) -> MetaLearner:
    """First weights as a fresh student has them; they and the rule (of sgd, its rate) are learned.

    Args:
        family: of environments.
        rule: any registered rule that adapts policies.
        outer_steps: planned.
        inner_steps: policy gradients of an adaptation.
        environments: that an outer step adapts to.
        seed: of everything random.
    """
    generator = make_generator(seed, Stream.RULE)
    params = family.init_params(family.sample(generator), generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        method = Method(make_rule(rule), learns_rule=True)
    return MetaLearner(
        method,
        params,
        family,
        validation_family=family,
        outer_steps=outer_steps,
        inner_steps=inner_steps,
        meta_batch=environments,
        meta_lr=3e-3,
        meta_lr_schedule="cosine",
        validate_every=0,
        validation_episodes=environments,
        seed=seed,
    )


def returns_after_steps(learner: MetaLearner, *, most: int, environments: int) -> list[float]:
    """Mean returns after 0 ... ``most`` steps, in environments that meta-training never sees."""
    method, theta, family = learner.method, learner.theta, learner.family
    scores = [
        evaluate_learner("policy", method, theta, family, inner_steps=steps, episodes=environments)
        for steps in range(most + 1)
    ]
    return [float(own.scores.mean()) for own in scores]


@click.command(context_settings={"show_default": True})
@click.option("--task", default="navigation", help="navigation or cartpole, with options.")
@click.option("--rule", default="sgd:lr=0.0003", help="The rule that adapts, meta-trained with the first weights.")
@click.option("--outer-steps", default=150, type=click.IntRange(1))
@click.option("--inner-steps", default=1, type=click.IntRange(1), help="Policy gradients of an adaptation.")
@click.option("--environments", default=10, type=click.IntRange(1), help="For each outer step.")
def main(task: str, rule: str, outer_steps: int, inner_steps: int, environments: int) -> None:
    torch.set_num_threads(1)
    family = make_task(task)
    if not isinstance(family, ControlTask):
        raise click.BadParameter(f"a task must be of policies; got {task!r}, use navigation or cartpole")
    learner = fresh_learner(family, rule, outer_steps=outer_steps, inner_steps=inner_steps, environments=environments)

    def show(outer_step: int) -> None:
        returns = returns_after_steps(learner, most=3, environments=40)
        print(f"{outer_step:10}  " + "  ".join(f"{value:8.1f}" for value in returns), flush=True)

    print("outer step  mean return in 40 new environments after 0, 1, 2 and 3 policy gradients")
    show(0)
    for outer_step in range(1, outer_steps + 1):
        learner.outer_step()
        if outer_step % 30 == 0 or outer_step == outer_steps:
            show(outer_step)


if __name__ == "__main__":
    main()
