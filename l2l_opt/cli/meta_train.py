"""l2l-opt meta-train."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

from l2l_opt.cli.common import DTYPES, device_options, read_device, read_rule, read_tasks, run_options, wrong_usage
from l2l_opt.cli.endings import say_ending
from l2l_opt.cli.progress import MetaTrainingProgress
from l2l_opt.inner_loop.horizon import Horizon
from l2l_opt.inspection.measures.profile import MetaTrainingProfile
from l2l_opt.inspection.tensorboard.meta_training import MetaTrainingLog
from l2l_opt.meta_training.estimators import ESTIMATORS, MetaGradientEstimator, MetaLoss
from l2l_opt.meta_training.estimators.imitation import Imitation
from l2l_opt.meta_training.estimators.meta_loss import NORMALISATIONS, OVER_STEPS, SPLITS
from l2l_opt.meta_training.planning import Plan, gibibytes, plan, plan_of_students
from l2l_opt.meta_training.ranks import Ranks, joined, launch, local_device, under_launcher
from l2l_opt.meta_training.run import MetaTrainingRun, Observer
from l2l_opt.meta_training.trainer import MetaTrainer
from l2l_opt.registry import parse_spec
from l2l_opt.rules import make_rule
from l2l_opt.tasks.augmentation import Scales, augment


@click.command()
@click.option("--rule", default="lstm", show_default=True, help="A rule's name (fresh), or an artefact to go on from.")
@click.option(
    "--task",
    default="digits-mlp",
    show_default=True,
    help="The meta-training tasks: NAME:OPTION=VALUE,...; values may be ranges (hidden=8..64) or choices "
    "(activation='relu|tanh'), and families be mixed by weight ('2*digits-mlp + quadratics').",
)
@click.option(
    "--validation-task", default=None, show_default="as --task, not augmented", help="Where validation students live."
)
@click.option("--outer-steps", type=click.IntRange(min=1), default=1000, show_default=True, help="Updates of phi.")
@click.option(
    "--horizon",
    default="100",
    show_default=True,
    help="Inner steps of an episode: 100, 100..2000 (log-uniform), or 100..2000:growing (over the run).",
)
@click.option("--truncation-length", type=int, default=20, show_default=True, help="Inner steps of a window.")
@click.option(
    "--students", type=click.IntRange(min=1), default=8, show_default=True, help="Students trained side by side."
)
@click.option(
    "--group-size",
    type=click.IntRange(min=1),
    default=None,
    show_default="all of a mixture, 1 of one family",
    help="Students that share an architecture and its horizon.",
)
@click.option("--staggered", is_flag=True, default=False, show_default="off", help="Students of all ages at any time.")
@click.option(
    "--estimator",
    default="tbptt",
    show_default=True,
    help="Of the meta-gradient: tbptt, full-es, pes or nres, e.g. nres:sigma=0.01.",
)
@click.option("--second-derivatives", is_flag=True, default=False, show_default="off", help="Keep d grad / d params.")
@click.option(
    "--gradient-checkpointing",
    is_flag=True,
    default=False,
    show_default="off",
    help="tbptt in memory that grows with the root of the window, for one more forward pass.",
)
@click.option(
    "--meta-loss", type=click.Choice(OVER_STEPS), default="sum", show_default=True, help="What losses are worth."
)
@click.option(
    "--normalisation",
    type=click.Choice(NORMALISATIONS),
    default="none",
    show_default=True,
    help="Of losses in the meta-loss.",
)
@click.option("--clip-loss", type=float, default=None, show_default="off", help="Bound on each (normalised) loss.")
@click.option(
    "--floor-loss", type=float, default=0.0, show_default=True, help="Of the initial loss; added before logs."
)
@click.option(
    "--judged-on", type=click.Choice(SPLITS), default="train", show_default=True, help="Batches of the meta-loss."
)
@click.option("--reparametrise", default=None, show_default="off", help="Random scale of each tensor, e.g. 1e-3..1e3.")
@click.option("--loss-scale", default=None, show_default="off", help="Random scale of the loss, e.g. 1e-2..1e2.")
@click.option("--imitate", default=None, show_default="off", help="A rule to imitate first, e.g. adam:lr=0.001.")
@click.option(
    "--imitation-steps", type=click.IntRange(min=0), default=0, show_default=True, help="Outer steps of imitation."
)
@click.option("--meta-lr", type=float, default=1e-3, show_default=True, help="AdamW's learning rate on phi.")
@click.option(
    "--meta-lr-schedule",
    type=click.Choice(["constant", "cosine"]),
    default="constant",
    show_default=True,
    help="Over outer steps.",
)
@click.option("--meta-weight-decay", type=float, default=0.0, show_default=True, help="AdamW's weight decay on phi.")
@click.option("--clip-norm", type=float, default=1.0, show_default=True, help="Bound on the meta-gradient's norm.")
@click.option(
    "--average-phi",
    type=float,
    default=0.0,
    show_default=True,
    help="Decay of a moving average of phi that is validated and kept, e.g. 0.99; 0 = none.",
)
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
@click.option(
    "--validation-horizon",
    type=click.IntRange(min=1),
    default=None,
    show_default="the longest",
    help="Inner steps of a validation.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of everything random.")
@run_options
@click.option(
    "--nproc", type=click.IntRange(min=1), default=1, show_default=True, help="Processes that share the students."
)
@click.option("--dry-run", is_flag=True, default=False, show_default="off", help="Say what the run needs, and end.")
@click.option(
    "--profile", is_flag=True, default=False, show_default="off", help="Time operators in OUT/profile.txt and a trace."
)
@device_options
@click.pass_context
def meta_train(
    context: click.Context,
    rule: str,
    out: Path,
    resume: bool,
    allow_changed_options: bool,
    minutes: float | None,
    checkpoint_every: int | None,
    nproc: int,
    dry_run: bool,
    profile: bool,
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
    if dry_run:
        ranks = Ranks(0, nproc)
        trainer = _make_trainer(rule, ranks, on_bound=partial(_say_what_cannot_fit, ranks, as_json), **options)
        _say_plan(plan(trainer), ranks, as_json=as_json, outer_steps=options["outer_steps"])
        return
    if nproc > 1 and not under_launcher():
        launch(context.obj["arguments"], nproc)
        return
    with joined() as ranks:
        _meta_train(
            rule,
            ranks,
            out,
            resume=resume,
            allow_changed_options=allow_changed_options,
            minutes=minutes,
            checkpoint_every=checkpoint_every,
            profile=profile,
            as_json=as_json,
            options=options,
        )


def _meta_train(
    rule: str,
    ranks: Ranks,
    out: Path,
    *,
    resume: bool,
    allow_changed_options: bool,
    minutes: float | None,
    checkpoint_every: int | None,
    profile: bool,
    as_json: bool,
    options: dict[str, Any],
) -> None:
    def say(message: str) -> None:
        if ranks.is_first:
            click.echo(message, err=True)

    trainer = _make_trainer(rule, ranks, **options)
    with wrong_usage():
        run = MetaTrainingRun(
            out,
            trainer,
            options={"rule": rule, **options},
            card={key: options[key] for key in ("task", "horizon", "truncation_length", "estimator")},
            resume=resume,
            allow_changed_options=allow_changed_options,
            say=say,
        )
        if trainer.outer_steps_done == 0:
            needed = plan(trainer, with_time=False)
            ranks.first(lambda: needed.refuse_what_cannot_fit(ranks.size))
    with contextlib.ExitStack() as stack:
        observers: list[Observer] = []
        if ranks.is_first:
            log = stack.enter_context(
                contextlib.closing(MetaTrainingLog(out / "events", start=trainer.outer_steps_done))
            )
            observers = [stack.enter_context(MetaTrainingProgress(trainer, minutes=minutes)), log]
            if profile:
                observers.append(stack.enter_context(contextlib.closing(MetaTrainingProfile(out))))
        ending = run.go(minutes=minutes, checkpoint_every=checkpoint_every, observers=observers)
    if ranks.is_first:
        say_ending(ending, out, trainer, artefact="rule", as_json=as_json)
    elif ending.startswith("SIG"):
        raise SystemExit(1)


def _say_what_cannot_fit(ranks: Ranks, as_json: bool, bound: Plan) -> None:
    if not bound.fits(ranks.size):
        _say_plan(bound, ranks, as_json=as_json)


def _say_plan(found: Plan, ranks: Ranks, *, as_json: bool, outer_steps: int = 0) -> None:
    processes = ranks.size
    if as_json:
        click.echo(json.dumps(asdict(found) | {"processes": processes}, indent=2))
    else:
        low, high = found.student_parameters
        click.echo(f"student parameters: {low:,}" + (f" to {high:,}" if high != low else ""))
        click.echo(
            f"peak memory: {gibibytes(found.peak_bytes)}" + (f" in each of {processes} processes" * (processes > 1))
        )
        if found.available_bytes is not None:
            click.echo(f"memory available: {gibibytes(found.available_bytes)}")
        if found.seconds_per_outer_step is not None:
            minutes = outer_steps * found.seconds_per_outer_step / 60
            click.echo(f"seconds per outer step: {found.seconds_per_outer_step:.3g} ({minutes:.3g} minutes in all)")
        click.echo(f"checkpoint: {gibibytes(found.checkpoint_bytes)}, of which the last two are kept")
    found.refuse_what_cannot_fit(processes)


def _make_trainer(
    rule: str, ranks: Ranks, *, on_bound: Callable[[Plan], None] = lambda bound: None, **options: Any
) -> MetaTrainer:
    with wrong_usage():
        return _read_trainer(rule, ranks, on_bound, **options)


def _read_trainer(rule: str, ranks: Ranks, on_bound: Callable[[Plan], None], **options: Any) -> MetaTrainer:
    device, dtype = local_device(read_device(options["device"])), options["dtype"]
    lives = {
        "horizon": Horizon.parse(options["horizon"], truncation_length=options["truncation_length"]),
        "truncation_length": options["truncation_length"],
        "staggered": options["staggered"],
        "group_size": options["group_size"],
    }
    teacher = read_rule(rule, seed=options["seed"]).to(device=device, dtype=DTYPES[dtype])
    tasks = read_tasks(options["task"], device=device, dtype=dtype)
    estimator = _make_estimator(lives, **options)
    share = len(ranks.share(range(options["students"])))
    bound = plan_of_students(teacher, tasks, estimator, num_students=share, device=device)
    on_bound(bound)
    bound.refuse_what_cannot_fit(ranks.size)
    other = options["validation_task"]
    imitated = options["imitate"]
    return MetaTrainer(
        teacher,
        augment(tasks, **{key: _read_scales(options[key]) for key in ("reparametrise", "loss_scale")}),
        estimator,
        outer_steps=options["outer_steps"],
        num_students=options["students"],
        meta_lr=options["meta_lr"],
        meta_lr_schedule=options["meta_lr_schedule"],
        meta_weight_decay=options["meta_weight_decay"],
        clip_norm=options["clip_norm"],
        average_phi=options["average_phi"],
        validate_every=options["validate_every"],
        validation_students=options["validation_students"],
        validation_horizon=options["validation_horizon"],
        validation_family=tasks if other is None else read_tasks(other, device=device, dtype=dtype),
        imitation=None if imitated is None else Imitation(make_rule(imitated).to(device), **lives),
        imitation_steps=options["imitation_steps"],
        seed=options["seed"],
        ranks=ranks,
    )


def _make_estimator(lives: dict[str, Any], **options: Any) -> MetaGradientEstimator:
    name, own = parse_spec(options["estimator"])
    for flag in ("second_derivatives", "gradient_checkpointing"):
        # Passed only where it is on, so that an estimator without such a thing says so.
        if options[flag]:
            own[flag] = True
    meta_loss = MetaLoss(
        options["meta_loss"],
        options["normalisation"],
        options["clip_loss"],
        options["judged_on"],
        options["floor_loss"],
    )
    return ESTIMATORS.make(name, **lives, meta_loss=meta_loss, **own)


def _read_scales(text: str | None) -> Scales | None:
    return None if text is None else Scales.parse(text)
