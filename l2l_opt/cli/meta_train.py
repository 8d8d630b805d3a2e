"""l2l-opt meta-train."""

import contextlib
import json
from dataclasses import asdict
from functools import partial
from typing import Any

import click
import torch

from l2l_opt.cli.common import fields_of, place_of, wrong_usage
from l2l_opt.cli.options import GroupedCommand, count, device_options, option, option_group, switch
from l2l_opt.cli.plugins import plugin_digests
from l2l_opt.cli.running import RunOptions, follow, meta_optimizer_options, run_options, validate_every
from l2l_opt.inspection.measures.profile import MetaTrainingProfile
from l2l_opt.inspection.tensorboard.meta_training import MetaTrainingLog
from l2l_opt.memory import gibibytes
from l2l_opt.meta_training.estimators import ESTIMATORS, MetaGradientEstimator, MetaLoss
from l2l_opt.meta_training.estimators.imitation import Imitation
from l2l_opt.meta_training.estimators.meta_loss import NORMALISATIONS, OVER_STEPS, SPLITS
from l2l_opt.meta_training.planning import Plan, plan
from l2l_opt.meta_training.ranks import Ranks, joined, launch, local_device, under_launcher
from l2l_opt.meta_training.run import MetaTrainingRun, refuse_unusable_folder
from l2l_opt.meta_training.signal import CHANGE, Signal, measure_signal
from l2l_opt.meta_training.trainer import MetaTrainer, MetaTrainingOptions
from l2l_opt.registry import parse_spec
from l2l_opt.rules import make_rule
from l2l_opt.storage.named_rule import read_rule
from l2l_opt.tasks.augmentation import Scales, augment
from l2l_opt.tasks.data_files import data_digests
from l2l_opt.tasks.mixture import make_tasks


@click.command(
    cls=GroupedCommand,
    # The name that --loss-on had in 0.1.
    context_settings={"token_normalize_func": lambda token: "loss-on" if token == "judged-on" else token},
)
@option_group(
    "Student",
    option("--rule", "lstm", "Rule to meta-train: a name (fresh weights) or an artefact."),
    option("--task", "digits-mlp", "Tasks, e.g. 'mnist-mlp:hidden=8..64 + 2*quadratics'."),
    option("--horizon", "100", "Inner steps of an inner run: 100, 100..2000 or 100..2000:growing."),
    count("--students", 8, "Students trained side by side."),
    count(
        "--group-size",
        None,
        "Students that share an architecture and its horizon.",
        show_default="all of a mixture, 1 of one family",
    ),
    switch("--staggered/--no-staggered", "Cut first inner runs at random, so that not all end together."),
    option("--reparametrise", None, "Random scale of each tensor, e.g. 1e-3..1e3.", show_default="off"),
    option("--loss-scale", None, "Random scale of the loss, e.g. 1e-2..1e2.", show_default="off"),
)
@option_group(
    "Meta-gradient",
    option("--estimator", "tbptt", "Meta-gradient: tbptt, full-es, pes or nres, e.g. nres:sigma=0.01."),
    option("--truncation-length", 20, "Inner steps of a truncation window; it divides the horizon.", metavar="N"),
    switch("--second-derivatives/--no-second-derivatives", "With tbptt: differentiate students' gradients too."),
    switch(
        "--gradient-checkpointing/--no-gradient-checkpointing",
        "With tbptt: memory by the window's root, for one more forward pass.",
    ),
    option("--imitate", None, "Rule to imitate first, e.g. adam:lr=0.001.", show_default="off"),
    count("--imitation-steps", 0, "Outer steps of imitation.", least=0),
)
@option_group(
    "Meta-loss",
    option("--meta-loss", "sum", "How a window's losses are weighed.", type=click.Choice(OVER_STEPS)),
    option(
        "--normalisation",
        "none",
        "log takes log(loss / first loss), of losses above zero.",
        type=click.Choice(NORMALISATIONS),
    ),
    option("--clip-loss", None, "Bound on each (normalised) loss.", show_default="off", type=float),
    option("--floor-loss", 0.0, "Added to loss / first loss before the logarithm."),
    option("--loss-on judged_on", "train", "Batches that losses are of.", type=click.Choice(SPLITS)),
)
@meta_optimizer_options(
    option("--meta-weight-decay", 0.0, "AdamW's weight decay on the rule's weights."),
    option("--average-phi", 0.0, "Decay of averaged weights, which are validated and kept, e.g. 0.99; 0 for none."),
    clip_norm=1.0,
)
@option_group(
    "Validation",
    validate_every(20),
    count("--validation-students", 8, "Students of a validation."),
    count("--validation-horizon", None, "Their inner steps.", show_default="the longest of --horizon"),
    option("--validation-task", None, "Their tasks.", show_default="as --task, not augmented"),
)
@run_options(
    switch("--dry-run", "Print what the run needs, and end."),
    switch("--signal", "With --dry-run, of nres, pes and full-es: how much the run would learn."),
    switch("--profile", "Time operators in OUT/profile.txt and a trace."),
)
@option_group(
    "Machine",
    count("--nproc", 1, "Processes that share the students."),
    switch(
        "--compile/--no-compile",
        "Compile students' losses and the rule's step: for runs on few architectures.",
    ),
)
@device_options
@click.pass_context
def meta_train(context: click.Context, nproc: int, dry_run: bool, signal: bool, profile: bool, **options: Any) -> None:
    """Meta-train a rule on a task, and save the best of it.

    Writes rule.safetensors (best on validation students), last.safetensors, run.json, checkpoint/ and events/
    (TensorBoard) under --out. Ctrl-C, SIGTERM and --minutes end it with a checkpoint, from which --resume goes on bit
    for bit. Exits with 1 if a signal ended it.

    Example: l2l-opt meta-train --rule rnnprop --task digits-mlp --outer-steps 300 --out runs/first

    Example: l2l-opt meta-train --config default-1 --outer-steps 100 --out runs/second
    """
    torch.set_num_threads(options["threads"])
    own = RunOptions.taken_from(options)
    with wrong_usage():
        if signal and not dry_run:
            raise ValueError("--signal belongs to --dry-run; got it alone, use both")
    if nproc > 1 and not dry_run and not under_launcher():
        with wrong_usage():
            # Named here, once: the first rank to end takes the others with it, and may not be the one that prints.
            read_trainer(Ranks(0, nproc), **options)
            refuse_unusable_folder(own.out, resume=own.resume)
        launch(context.obj["arguments"], nproc)
        return
    with contextlib.nullcontext(Ranks(0, nproc)) if dry_run else joined() as ranks:
        with wrong_usage():
            trainer = read_trainer(ranks, **options)
            if dry_run:
                needed = plan(trainer)
                # What does not fit is refused, and not run.
                measured = measure_signal(trainer) if signal and needed.fits(nproc) else None
                print_plan(needed, measured, trainer, as_json=own.as_json)
                return
            card = {key: options[key] for key in ("task", "horizon", "truncation_length", "estimator")}
            data = data_digests(options["task"], options["validation_task"]) | plugin_digests()
            run = MetaTrainingRun(own.out, trainer, options=options, card=card, data=data, **own.of_folder())
            if not run.students_go_on:
                found = plan(trainer, with_time=False)
                ranks.first(lambda: found.refuse_what_cannot_fit(ranks.size))
        watchers = [partial(MetaTrainingLog, own.out / "events", start=trainer.outer_steps_done)]
        watchers += [partial(MetaTrainingProfile, own.out)] * profile
        follow(run, own, artefact="rule", watchers=watchers)


def print_plan(found: Plan, signal: Signal | None, trainer: MetaTrainer, *, as_json: bool) -> None:
    """Print what a run needs, and how much it would learn where that was asked for.

    Raises:
        ValueError: it does not fit.
    """
    processes = trainer.ranks.size
    if as_json:
        measured = {} if signal is None else {"signal": asdict(signal)}
        click.echo(json.dumps(asdict(found) | {"processes": processes} | measured, indent=2))
    else:
        low, high = found.student_parameters
        click.echo(f"student parameters: {low:,}" + (f" to {high:,}" if high != low else ""))
        click.echo(
            f"peak memory: {gibibytes(found.peak_bytes)}" + (f" in each of {processes} processes" * (processes > 1))
        )
        if found.available_bytes is not None:
            click.echo(f"memory available: {gibibytes(found.available_bytes)}")
        if found.seconds_per_outer_step is not None:
            minutes = trainer.outer_steps * found.seconds_per_outer_step / 60
            click.echo(f"seconds per outer step: {found.seconds_per_outer_step:.3g} ({minutes:.3g} minutes in all)")
        click.echo(f"checkpoint: {gibibytes(found.checkpoint_bytes)}, of which the last two are kept")
        if signal is not None:
            print_signal(signal)
    found.refuse_what_cannot_fit(processes)


def print_signal(signal: Signal) -> None:
    """Print how much a run would learn."""
    click.echo(
        f"signal: halves of the {signal.pairs} pairs find meta-gradients with a cosine of {signal.cosine:.3f} "
        f"(without noise {signal.noise_free:.3f}; {signal.weights} weights)"
    )
    click.echo(f"effective pairs: {signal.effective_pairs:.1f}, as many as decide")
    if signal.gain is not None:
        click.echo(f"gain: about {signal.gain:.3g} of the meta-loss where each weight changes by {CHANGE:g}")
    if len(signal.shares) > 1:
        shares = ", ".join(f"{task} {100 * share:.0f} %" for task, share in signal.shares.items())
        click.echo(f"shares of tasks: {shares}")


def read_trainer(ranks: Ranks, **options: Any) -> MetaTrainer:
    """Return a fresh trainer from the options of ``meta-train``.

    Raises:
        ValueError: an option that cannot be.
    """
    place = place_of(options)
    place["device"] = local_device(place["device"])
    windows = {key: options[key] for key in ("horizon", "truncation_length", "staggered", "group_size", "compile")}
    rule = read_rule(options["rule"], seed=options["seed"]).to(**place)
    tasks = make_tasks(options["task"], **place)
    other, imitated = options["validation_task"], options["imitate"]
    return MetaTrainer(
        rule,
        augment(tasks, reparametrise=_scales(options["reparametrise"]), loss_scale=_scales(options["loss_scale"])),
        _read_estimator(windows, options),
        validation_family=tasks if other is None else make_tasks(other, **place),
        imitation=None if imitated is None else Imitation(make_rule(imitated).to(place["device"]), **windows),
        ranks=ranks,
        num_students=options["students"],
        **fields_of(MetaTrainingOptions, options),
    )


def _read_estimator(windows: dict[str, Any], options: dict[str, Any]) -> MetaGradientEstimator:
    name, own = parse_spec(options["estimator"])
    for flag in ("second_derivatives", "gradient_checkpointing"):
        # Passed only where it is on, so that an estimator without such a thing refuses it.
        if options[flag]:
            own[flag] = True
    keys = ("meta_loss", "normalisation", "clip_loss", "judged_on", "floor_loss")
    return ESTIMATORS.make(name, **windows, meta_loss=MetaLoss(*(options[key] for key in keys)), **own)


def _scales(text: str | None) -> Scales | None:
    return None if text is None else Scales.parse(text)
