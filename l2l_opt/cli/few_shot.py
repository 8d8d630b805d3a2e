"""l2l-opt few-shot: meta-train, evaluate, adapt, predict."""

import click

from l2l_opt.cli.adapt import adapt, predict
from l2l_opt.cli.few_shot_evaluate import evaluate
from l2l_opt.cli.few_shot_meta_train import meta_train


@click.group(commands=[meta_train, evaluate, adapt, predict])
def few_shot() -> None:
    """Learn from a handful of examples: a model that adapts to a support set, and a rule that trains it.

    Example: l2l-opt few-shot meta-train --episodes sinusoids --method maml --out runs/sines
    """
