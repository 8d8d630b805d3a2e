"""l2l-opt few-shot meta-train."""

from functools import partial
from typing import Any

import click
import torch

from l2l_opt.cli.common import (
    COUNT,
    DTYPES,
    FROM_ZERO,
    SEED,
    GroupedCommand,
    device_options,
    fields_of,
    option,
    option_group,
    read_device,
    read_rule,
    wrong_usage,
)
from l2l_opt.cli.running import META_LR_SCHEDULE, OUTER_STEPS, RunOptions, follow, run_options
from l2l_opt.few_shot.meta_learner import META_LOSSES, MetaLearner, MetaLearnerOptions
from l2l_opt.few_shot.run import FewShotRun
from l2l_opt.few_shot.saved_learner import LearnerConfig, load_weights
from l2l_opt.few_shot.sources import make_episodes
from l2l_opt.few_shot.task import BATCH_NORMS
from l2l_opt.inspection.tensorboard.few_shot import FewShotLog
from l2l_opt.tasks.layers.basic import INITS


@click.command("meta-train", cls=GroupedCommand)
@option_group(
    "Student",
    option(
        "--method",
        "maml",
        "maml, fomaml, anil, meta-sgd, reptile, meta-lstm or learned-rule, with options: maml:lr=0.4.",
    ),
    option(
        "--rule",
        None,
        "Of learned-rule: a rule's name (with fresh weights), or an artefact to go on from.",
        show_default="none",
    ),
    option(
        "--episodes",
        "sinusoids",
        "sinusoids, omniglot, clusters, images, table or imbalanced, with options: omniglot:ways=5,shots=1.",
    ),
    option("--model", "mlp", "mlp or conv, with options: mlp:hidden=64x64."),
    option(
        "--batch-norm",
        "transductive",
        "Whose statistics batch norm takes: of the batch at hand, or of the support set.",
        type=click.Choice(BATCH_NORMS),
    ),
    option("--init", "default", "First weights.", type=click.Choice([*INITS, "module"])),
    option("--inner-steps", 1, "Updates by a support set.", type=COUNT),
)
@option_group(
    "Meta-optimizer",
    OUTER_STEPS,
    option(
        "--meta-loss",
        "last",
        "The query loss after the last inner step, or its mean over those after each.",
        type=click.Choice(META_LOSSES),
    ),
    option("--meta-batch", 32, "Episodes an outer step.", type=COUNT),
    option("--meta-lr", 1e-3, "AdamW's learning rate."),
    META_LR_SCHEDULE,
    option("--clip-norm", 10.0, "Bound on the meta-gradient's norm."),
)
@option_group(
    "Validation",
    option("--validate-every", 500, "Outer steps; 0 = at the end only.", type=FROM_ZERO),
    option("--validation-episodes", 200, "Of other classes.", type=COUNT),
    option("--validation-inner-steps", None, "Updates by a support set.", show_default="as --inner-steps", type=COUNT),
)
@run_options(SEED)
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
        run = FewShotRun(own.out, learner, config=config, options=options, card=card, **own.of_folder())
    log = partial(FewShotLog, own.out / "events", start=learner.outer_steps_done)
    follow(run, own, artefact="learner", watchers=[log])


def make_learner(**options: Any) -> tuple[LearnerConfig, MetaLearner]:
    """Return a fresh learner and its config from the options of ``meta-train``; others are left aside.

    Raises:
        ValueError: an option that cannot be.
    """
    place: dict[str, Any] = {"device": read_device(options["device"]), "dtype": DTYPES[options["dtype"]]}
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
