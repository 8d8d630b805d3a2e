"""l2l-opt meta-train."""

import json
import math
from pathlib import Path
from typing import Any

import click
import torch

from l2l_opt.checkpoint import load_rule
from l2l_opt.cli.common import DTYPES, device_options, read_device, read_task, wrong_usage
from l2l_opt.cli.progress import MetaTrainingProgress
from l2l_opt.estimators import ESTIMATORS, MetaLoss
from l2l_opt.estimators.meta_loss import NORMALISATIONS, STEP_WEIGHTS
from l2l_opt.inspection.meta_training import MetaTrainingLog
from l2l_opt.meta_trainer import MetaTrainer
from l2l_opt.meta_training_run import MetaTrainingRun
from l2l_opt.pretrained import list_pretrained
from l2l_opt.randomness import Stream, make_generator
from l2l_opt.registry import parse_spec
from l2l_opt.rules import RULES, UpdateRule, make_rule
from l2l_opt.schedules import Horizon


@click.command()
@click.option("--rule", default="lstm", show_default=True, help="A rule's name (fresh), or an artefact to go on from.")
@click.option(
    "--task", default="digits-mlp", show_default=True, help="The meta-training task: NAME or NAME:OPTION=VALUE,..."
)
@click.option("--outer-steps", type=click.IntRange(min=1), default=1000, show_default=True, help="Updates of phi.")
@click.option(
    "--horizon", default="100", show_default=True, help="Inner steps of an episode: 100, or 100..2000 (log-uniform)."
)
@click.option(
    "--truncation-length", type=int, default=20, show_default=True, help="Inner steps differentiated together."
)
@click.option(
    "--students", type=click.IntRange(min=1), default=8, show_default=True, help="Students trained side by side."
)
@click.option("--estimator", default="tbptt", show_default=True, help="Of the meta-gradient.")
@click.option("--second-derivatives", is_flag=True, default=False, show_default="off", help="Keep d grad / d params.")
@click.option(
    "--step-weights", type=click.Choice(STEP_WEIGHTS), default="ones", show_default=True, help="Of the meta-loss."
)
@click.option(
    "--normalisation",
    type=click.Choice(NORMALISATIONS),
    default="none",
    show_default=True,
    help="Of losses in the meta-loss.",
)
@click.option("--meta-lr", type=float, default=1e-3, show_default=True, help="Adam's learning rate on phi.")
@click.option(
    "--meta-lr-schedule",
    type=click.Choice(["constant", "cosine"]),
    default="constant",
    show_default=True,
    help="Over outer steps.",
)
@click.option("--clip-norm", type=float, default=1.0, show_default=True, help="Bound on the meta-gradient's norm.")
@click.option(
    "--validate-every",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Outer steps; 0 = at the end only.",
)
@click.option(
    "--validation-students",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Students a validation trains.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of everything random.")
@click.option(
    "--out", type=click.Path(path_type=Path), default="runs/meta-train", show_default=True, help="The run's folder."
)
@click.option("--resume", is_flag=True, default=False, show_default="off", help="Go on from the last checkpoint there.")
@click.option("--allow-changed-options", is_flag=True, default=False, show_default="off", help="With --resume.")
@click.option(
    "--minutes", type=click.FloatRange(min=0, min_open=True), default=None, show_default="no limit", help="Stop after."
)
@click.option(
    "--checkpoint-every", type=click.IntRange(min=1), default=None, show_default="3 minutes", help="Outer steps."
)
@click.option("--json", "as_json", is_flag=True, default=False, show_default="off", help="Print run.json at the end.")
@device_options
def meta_train(
    rule: str,
    out: Path,
    resume: bool,
    allow_changed_options: bool,
    minutes: float | None,
    checkpoint_every: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Meta-train a rule on a task, and save the best of it.

    Writes rule.safetensors (best on validation students), last.safetensors, run.json, checkpoint/ and events/
    (TensorBoard) under --out. Ctrl-C, SIGTERM and --minutes end it with a checkpoint, from which --resume goes on bit
    for bit. Exits with 1 if a signal ended it.

    Example: l2l-opt meta-train --rule rnnprop --task digits-mlp --outer-steps 300 --out runs/first
    """
    torch.set_num_threads(options["threads"])
    with wrong_usage():
        trainer = _make_trainer(rule, **options)
        run = MetaTrainingRun(
            out,
            trainer,
            options={"rule": rule, **options},
            card={key: options[key] for key in ("task", "horizon", "truncation_length", "estimator")},
            resume=resume,
            allow_changed_options=allow_changed_options,
            say=lambda message: click.echo(message, err=True),
        )
    log = MetaTrainingLog(out / "events", start=trainer.outer_steps_done)
    with MetaTrainingProgress(trainer, minutes=minutes) as progress:
        ending = run.go(minutes=minutes, checkpoint_every=checkpoint_every, observers=[progress, log])
    log.close()
    record = json.loads((out / "run.json").read_text())
    figure = record["figures"]["validation"]
    if as_json:
        click.echo(json.dumps(record, indent=2))
    else:
        shown = "none yet" if figure is None or not math.isfinite(figure) else f"{figure:.4g}"
        click.echo(
            f"{ending} after outer step {record['outer_step']} of {trainer.outer_steps}, best validation figure {shown}"
        )
        click.echo(f"rule: {out / 'rule.safetensors'}")
        click.echo(f"curves: tensorboard --logdir {out / 'events'}")
    if ending.startswith("SIG"):
        raise click.ClickException(
            f"a run must reach its last outer step to be done; got {ending} after {record['outer_step']}, "
            "go on with --resume"
        )


def _make_trainer(rule: str, **options: Any) -> MetaTrainer:
    device, dtype = read_device(options["device"]), DTYPES[options["dtype"]]
    horizon = Horizon.parse(options["horizon"], truncation_length=options["truncation_length"])
    meta_loss = MetaLoss(options["step_weights"], options["normalisation"])
    estimator = ESTIMATORS.make(
        options["estimator"],
        horizon=horizon,
        truncation_length=options["truncation_length"],
        meta_loss=meta_loss,
        second_derivatives=options["second_derivatives"],
    )
    teacher = _read_rule(rule, seed=options["seed"]).to(device=device, dtype=dtype)
    return MetaTrainer(
        teacher,
        read_task(options["task"], device=device, dtype=options["dtype"]),
        estimator,
        outer_steps=options["outer_steps"],
        num_students=options["students"],
        meta_lr=options["meta_lr"],
        meta_lr_schedule=options["meta_lr_schedule"],
        clip_norm=options["clip_norm"],
        validate_every=options["validate_every"],
        validation_students=options["validation_students"],
        seed=options["seed"],
    )


def _read_rule(rule: str, *, seed: int) -> UpdateRule:
    name, _ = parse_spec(rule)
    if name in RULES.names():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(make_generator(seed, Stream.RULE).initial_seed())
            return make_rule(rule)
    if Path(rule).exists() or rule in list_pretrained():
        return load_rule(rule)
    RULES.factory(name)  # Raises, and says which names there are.
    raise AssertionError(rule)
