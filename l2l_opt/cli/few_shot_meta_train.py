"""l2l-opt few-shot meta-train."""

from functools import partial
from typing import Any

import click
import torch

from l2l_opt.cli.common import fields_of, place_of, wrong_usage
from l2l_opt.cli.options import GroupedCommand, count, device_options, option, option_group
from l2l_opt.cli.plugins import plugin_digests
from l2l_opt.cli.running import RunOptions, follow, meta_optimizer_options, run_options, validate_every
from l2l_opt.few_shot.meta_learner import META_LOSSES, MetaLearner, MetaLearnerOptions
from l2l_opt.few_shot.run import FewShotRun
from l2l_opt.few_shot.saved_learner import LearnerConfig, load_weights
from l2l_opt.few_shot.sources import make_episodes
from l2l_opt.few_shot.task import BATCH_NORMS
from l2l_opt.inspection.tensorboard.few_shot import FewShotLog
from l2l_opt.storage.named_rule import read_rule
from l2l_opt.tasks.layers.basic import INITS


@click.command("meta-train", cls=GroupedCommand)
@option_group(
    "Student",
    option("--method", "maml", "Few-shot method (l2l-opt list methods), e.g. maml:lr=0.4."),
    option("--rule", None, "Rule of learned-rule: a name (fresh weights) or an artefact.", show_default="none"),
    option("--episodes", "sinusoids", "Episodes (l2l-opt list episodes), e.g. omniglot:ways=5,shots=1."),
    option("--model", "mlp", "Student (l2l-opt list models), e.g. mlp:hidden=64x64."),
    option(
        "--batch-norm",
        "transductive",
        "Batch norm's statistics: of the batch at hand, or of the support set.",
        type=click.Choice(BATCH_NORMS),
    ),
    option("--init", "default", "How first weights are drawn.", type=click.Choice([*INITS, "module"])),
    count("--inner-steps", 1, "Updates by a support set."),
)
@meta_optimizer_options(
    option(
        "--meta-loss",
        "last",
        "Query loss after the last inner step, or mean over all.",
        type=click.Choice(META_LOSSES),
    ),
    count("--meta-batch", 32, "Episodes of an outer step."),
    clip_norm=10.0,
)
@option_group(
    "Validation",
    validate_every(500),
    count("--validation-episodes", 200, "Episodes of a validation, of other classes."),
    count("--validation-inner-steps", None, "Updates by their support sets.", show_default="as --inner-steps"),
)
@run_options()
@device_options
def meta_train(**options: Any) -> None:
    """Meta-train where a model starts and how it adapts, over many small tasks.

    Writes learner.safetensors (best on validation episodes), last.safetensors, rule.safetensors (a rule that was
    learned and is of use to other students), run.json, checkpoint/ and events/ (TensorBoard) under --out. Ctrl-C,
    SIGTERM and --minutes end it with a checkpoint, from which --resume goes on bit for bit.

    Example: l2l-opt few-shot meta-train --episodes omniglot:ways=5,shots=1 --method maml:lr=0.4
    --model mlp:hidden=256x128x64x64,norm=batch --outer-steps 30000 --out runs/omniglot
    """
    torch.set_num_threads(options["threads"])
    own = RunOptions.taken_from(options)
    with wrong_usage():
        config, learner = make_learner(**options)
        card = {key: options[key] for key in ("episodes", "method", "model", "inner_steps")}
        run = FewShotRun(
            own.out, learner, config=config, options=options, card=card, data=plugin_digests(), **own.of_folder()
        )
    log = partial(FewShotLog, own.out / "events", start=learner.outer_steps_done)
    follow(run, own, artefact="learner", watchers=[log])


def make_learner(**options: Any) -> tuple[LearnerConfig, MetaLearner]:
    """Return a fresh learner and its config from the options of ``meta-train``; others are left aside.

    Raises:
        ValueError: an option that cannot be.
    """
    place = place_of(options)
    rule = None if options["rule"] is None else read_rule(options["rule"], seed=options["seed"])
    parts = fields_of(LearnerConfig, options)
    parts["rule"] = None if rule is None else {"name": rule.registry_name, "config": rule.config}
    config = LearnerConfig(**parts)
    family, validation = (
        config.family(make_episodes(options["episodes"], phase=phase, **place), **place)
        for phase in ("meta-train", "validation")
    )
    params, method = config.fresh(family, seed=options["seed"])
    if rule is not None:
        load_weights(method.rule, dict(rule.named_parameters()))
    own = fields_of(MetaLearnerOptions, options)
    return config, MetaLearner(method, params, family, validation_family=validation, **own)
