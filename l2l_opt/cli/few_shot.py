"""l2l-opt few-shot: meta-train, evaluate, adapt, predict."""

import contextlib
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

from l2l_opt.cli.adapt import adapt, predict
from l2l_opt.cli.common import DTYPES, device_options, read_device, read_rule, run_options, wrong_usage
from l2l_opt.cli.endings import say_ending
from l2l_opt.cli.progress import MetaTrainingProgress
from l2l_opt.few_shot.evaluation import Scores, differences, judge, written
from l2l_opt.few_shot.meta_learner import META_LOSSES, MetaLearner
from l2l_opt.few_shot.run import FewShotRun
from l2l_opt.few_shot.saved_learner import Recipe, load_learner, load_weights
from l2l_opt.few_shot.sources import make_episodes
from l2l_opt.few_shot.task import BATCH_NORMS
from l2l_opt.inspection.tensorboard.few_shot import FewShotLog
from l2l_opt.storage.files import make_writable_folder, write_atomically
from l2l_opt.tasks.layers.basic import INITS


@click.group()
def few_shot() -> None:
    """Learn from a handful of examples: a model that adapts to a support set, and a rule that teaches it.

    Example: l2l-opt few-shot meta-train --episodes sinusoids --method maml --out runs/sines
    """


few_shot.add_command(adapt)
few_shot.add_command(predict)


@few_shot.command("meta-train")
@click.option(
    "--method",
    default="maml",
    show_default=True,
    help="maml, fomaml, anil, meta-sgd, reptile, meta-lstm or learned-rule, with options: maml:lr=0.4.",
)
@click.option(
    "--rule",
    default=None,
    show_default="none",
    help="Of learned-rule: a rule's name (fresh), or an artefact to go on from.",
)
@click.option(
    "--episodes",
    default="sinusoids",
    show_default=True,
    help="sinusoids, omniglot, clusters, images, table or imbalanced, with options: omniglot:ways=5,shots=1.",
)
@click.option("--model", default="mlp", show_default=True, help="mlp or conv, with options: mlp:hidden=64x64.")
@click.option(
    "--batch-norm",
    type=click.Choice(BATCH_NORMS),
    default="transductive",
    show_default=True,
    help="Whose statistics batch norm takes: of the batch at hand, or of the support set.",
)
@click.option("--init", type=click.Choice(list(INITS)), default="default", show_default=True, help="First weights.")
@click.option("--outer-steps", type=click.IntRange(min=1), default=1000, show_default=True, help="Meta-updates.")
@click.option(
    "--inner-steps", type=click.IntRange(min=1), default=1, show_default=True, help="Updates by a support set."
)
@click.option(
    "--meta-loss",
    type=click.Choice(META_LOSSES),
    default="last",
    show_default=True,
    help="The query loss after the last inner step, or its mean over those after each.",
)
@click.option(
    "--validation-inner-steps",
    type=click.IntRange(min=1),
    default=None,
    show_default="as --inner-steps",
    help="The same in validation.",
)
@click.option("--meta-batch", type=click.IntRange(min=1), default=32, show_default=True, help="Episodes an outer step.")
@click.option("--meta-lr", type=float, default=1e-3, show_default=True, help="Adam's learning rate.")
@click.option(
    "--meta-lr-schedule",
    type=click.Choice(["constant", "cosine"]),
    default="constant",
    show_default=True,
    help="Over outer steps.",
)
@click.option("--clip-norm", type=float, default=10.0, show_default=True, help="Bound on the meta-gradient's norm.")
@click.option(
    "--validate-every", type=click.IntRange(min=0), default=500, show_default=True, help="Outer steps; 0 = at the end."
)
@click.option(
    "--validation-episodes", type=click.IntRange(min=1), default=200, show_default=True, help="Of other classes."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of everything random.")
@run_options
@device_options
def meta_train(
    out: Path,
    resume: bool,
    allow_changed_options: bool,
    minutes: float | None,
    checkpoint_every: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Meta-train where a model starts and how it is taught, over many small tasks.

    Writes learner.safetensors (best on validation episodes), last.safetensors, rule.safetensors (a rule that was
    learned and is of use to other students), run.json, checkpoint/ and events/ (TensorBoard) under --out. Ctrl-C,
    SIGTERM and --minutes end it with a checkpoint, from which --resume goes on bit for bit.

    Example: l2l-opt few-shot meta-train --episodes omniglot:ways=5,shots=1 --method maml:lr=0.4
    --model mlp:hidden=256x128x64x64,norm=batch --outer-steps 30000 --out runs/omniglot
    """
    torch.set_num_threads(options["threads"])
    with wrong_usage():
        recipe, learner = make_learner(**options)
        run = FewShotRun(
            out,
            learner,
            recipe=recipe,
            options=options,
            card={key: options[key] for key in ("episodes", "method", "model", "inner_steps")},
            resume=resume,
            allow_changed_options=allow_changed_options,
            say=lambda message: click.echo(message, err=True),
        )
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(contextlib.closing(FewShotLog(out / "events", start=learner.outer_steps_done)))
        bar = stack.enter_context(MetaTrainingProgress(learner, minutes=minutes))
        ending = run.go(minutes=minutes, checkpoint_every=checkpoint_every, observers=[bar, log])
    say_ending(ending, out, learner, artefact="learner", as_json=as_json)


def make_learner(**options: Any) -> tuple[Recipe, MetaLearner]:
    """A fresh learner and its recipe from the options of ``meta-train``; others are left aside.

    Raises:
        ValueError: an option that cannot be.
    """
    place: dict[str, Any] = {"device": read_device(options["device"]), "dtype": DTYPES[options["dtype"]]}
    teacher = None if options["rule"] is None else read_rule(options["rule"], seed=options["seed"])
    recipe = Recipe(
        model=options["model"],
        method=options["method"],
        rule=None if teacher is None else {"name": teacher.registry_name, "config": teacher.config},
        batch_norm=options["batch_norm"],
        inner_steps=options["inner_steps"],
        init=options["init"],
    )
    family, validation = (
        recipe.family(make_episodes(options["episodes"], phase=phase, **place), **place)
        for phase in ("meta-train", "validation")
    )
    params, method = recipe.fresh(family, seed=options["seed"])
    if teacher is not None:
        load_weights(method.rule, dict(teacher.named_parameters()))
    numbers = (
        *("outer_steps", "inner_steps", "meta_loss", "validation_inner_steps"),
        *("meta_batch", "meta_lr", "meta_lr_schedule"),
        *("clip_norm", "validate_every", "validation_episodes", "seed"),
    )
    own = {key: options[key] for key in numbers}
    return recipe, MetaLearner(method, params, family, validation_family=validation, **own)


@few_shot.command()
@click.argument("learners", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--episodes", default=None, show_default="as meta-trained", help="As in meta-train.")
@click.option(
    "--inner-steps",
    type=click.IntRange(min=1),
    multiple=True,
    default=None,
    show_default="as meta-trained",
    help="Updates by a support set; repeatable.",
)
@click.option("--num-episodes", type=click.IntRange(min=2), default=600, show_default=True, help="Test episodes.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the test episodes.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs/few-shot"), show_default=True, help="Folder."
)
@click.option("--json", "as_json", is_flag=True, default=False, show_default="off", help="Print the JSON.")
@device_options
def evaluate(
    learners: tuple[Path, ...],
    episodes: str | None,
    inner_steps: tuple[int, ...],
    num_episodes: int,
    seed: int,
    out: Path,
    as_json: bool,
    device: str,
    threads: int,
    dtype: str,
) -> None:
    """Judge LEARNERS (files, or folders of runs) on test episodes, the same for all.

    Accuracy of classes, mean squared error of numbers; means over episodes with 95 % intervals, and each learner's
    paired difference from the first. Writes evaluation.json under --out.

    Example: l2l-opt few-shot evaluate runs/maml runs/meta-sgd --inner-steps 1 --inner-steps 3
    """
    torch.set_num_threads(threads)
    make_writable_folder(out)
    place: dict[str, Any] = {"device": read_device(device), "dtype": DTYPES[dtype]}
    results: list[Scores] = []
    for path in learners:
        learner = load_learner(path, device=place["device"])
        with wrong_usage():
            spec = episodes or learner.card["episodes"]
            family = learner.recipe.family(make_episodes(spec, phase="test", **place), **place)
        for steps in dict.fromkeys(inner_steps or (learner.recipe.inner_steps,)):
            theta = {name: p.to(place["dtype"]) for name, p in learner.theta.items()}
            results.append(
                judge(
                    str(path),
                    learner.method,
                    theta,
                    family,
                    inner_steps=steps,
                    episodes=num_episodes,
                    seed=seed,
                )
            )
    content = written(results, {"episodes": episodes, "num_episodes": num_episodes, "seed": seed})
    write_atomically(out / "evaluation.json", content.encode())
    if as_json:
        click.echo(content, nl=False)
        return
    _print(results)
    click.echo(f"figures: {out / 'evaluation.json'}")


def _print(results: list[Scores]) -> None:
    apart = {(found["learner"], found["inner_steps"]): found for found in differences(results)}
    table = Table(title=f"{len(results[0].scores)} test episodes")
    for heading in ("learner", "inner steps", "score", "95 % interval", "less the first", "ms an episode"):
        table.add_column(heading, justify="left" if heading == "learner" else "right")
    for result in results:
        record, other = result.record(), apart.get((result.name, result.inner_steps))
        low, high = record["interval"]
        less = "" if other is None else "{:.4f} ({:.4f} to {:.4f})".format(other["mean"], *other["interval"])
        row = [result.name, str(result.inner_steps), f"{record['mean']:.4f}", f"{low:.4f} to {high:.4f}", less]
        table.add_row(*row, f"{1e3 * result.seconds:.3g}")
    Console(width=None if Console().is_terminal else 120).print(table)
