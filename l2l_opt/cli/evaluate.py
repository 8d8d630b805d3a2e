"""l2l-opt evaluate."""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from l2l_opt.cli.common import print_table, wrong_usage
from l2l_opt.cli.evaluating import CACHE, begin, config_of, task_option, tuning_seeds
from l2l_opt.cli.messages import say
from l2l_opt.cli.options import (
    JSON,
    SEED,
    GroupedCommand,
    count,
    device_options,
    names_option,
    option,
    option_group,
    path_option,
    switch,
)
from l2l_opt.cli.plugins import plugin_files, register_plugins
from l2l_opt.evaluation.baselines.entries import CLASSICAL, ENTRIES
from l2l_opt.evaluation.plots import curves_png, profile_png
from l2l_opt.evaluation.results import TaskEvaluation
from l2l_opt.evaluation.statistics import refuse_without_finite_results
from l2l_opt.evaluation.suite import evaluate_suite
from l2l_opt.evaluation.suites import FEW_LOOKS, Suite, load_suite
from l2l_opt.evaluation.summary import as_json
from l2l_opt.evaluation.tables import tables_of
from l2l_opt.storage.files import write_atomically
from l2l_opt.storage.finite_json import json_text
from l2l_opt.tasks.data_files import data_digests

OF_A_TASK = {"horizons": (100,), "seeds": 10, "tuning_seeds": 10, "baselines": ",".join(CLASSICAL)}
OF_A_SUITE = {"horizons": (500, 2000), "seeds": 5, "tuning_seeds": 3, "baselines": ",".join(ENTRIES)}
"""What is not given."""


@click.command(cls=GroupedCommand)
@click.argument("rule")
@option_group(
    "Evaluation",
    task_option("--task", None, show_default="digits-mlp"),
    option(
        "--suite", None, "Many tasks: validation, validation-sizes, held-out, seen, or a file.", show_default="none"
    ),
    count(
        "--horizon horizons",
        None,
        "Inner steps; repeatable.",
        show_default="100; a suite's own, or 500 and 2000",
        multiple=True,
    ),
    count("--seeds", None, "Students reported on.", show_default="10, of a suite 5"),
    tuning_seeds(None, show_default="10, of a suite 3"),
    names_option(
        "--baselines",
        None,
        "Baselines of both lists, adamw always in a suite's",
        show_default=f"{', '.join(CLASSICAL)}; of a suite {', '.join(ENTRIES)}",
    ),
    switch("--no-speed-ups", "Leave out speed-ups over AdamW, runs of four times the horizon."),
    SEED,
    CACHE,
)
@option_group(
    "Output", path_option("--out", "runs/evaluation", "Folder of evaluation.json, curves.png and profile.png."), JSON
)
@option_group("Machine", count("--nproc", 1, "Tasks at a time, each in a process with one thread."))
@device_options
def evaluate(rule: str, task: str | None, suite: str | None, nproc: int, out: Path, **options: Any) -> None:
    """Evaluate RULE (a shipped name or a path) against tuned baselines, on one task or on a suite of tasks.

    Baselines get half-decade learning rates, a grid widened while the best sits at its edge, and students of their own
    to be tuned on, at each horizon. The rule is not tuned. All is kept in --cache, so that another rule costs its own
    runs only.

    On one task they are SGD, momentum, RMSprop and Adam, the last with a constant rate and with a cosine. On a suite
    they are AdamW and Muon (constant, cosine, warm-up and cosine), SGD with momentum, all three also tuned
    for validation loss, Adam, and others with their defaults. With AdamW, speed-ups over it in steps and in seconds are
    reported too.

    Example: l2l-opt evaluate default-4 --task digits-mlp --horizon 100 --horizon 200 --out runs/evaluation

    Example: l2l-opt evaluate default-4 --suite seen --out runs/seen
    """
    if task is not None and suite is not None:
        raise click.UsageError(f"--suite and --task exclude each other; got {suite!r} and {task!r}, use one of them")
    with wrong_usage():
        name = task or "digits-mlp"
        tasks = Suite(name, (name,)) if suite is None else load_suite(suite)
        not_given = OF_A_TASK if suite is None else OF_A_SUITE
        not_given = not_given | {"horizons": tasks.own_horizons or not_given["horizons"]}
        options |= {key: options[key] or value for key, value in not_given.items()}
        horizons = tuple(dict.fromkeys(options["horizons"]))
        config = config_of(
            options,
            horizons=horizons,
            num_seeds=options["seeds"],
            classical=suite is None,
            speed_ups=not options["no_speed_ups"],
        )
    loaded = begin(rule, out, config, threads=options["threads"])
    settings = {"rule": rule, "name": loaded.registry_name, "digest": (loaded.card or {}).get("digest")}
    if tasks.name in FEW_LOOKS:
        say(f"{tasks.name} ({settings['digest'] or 'a rule without a digest'}): {FEW_LOOKS[tasks.name]}")
    with wrong_usage():
        evaluations = evaluate_suite(
            loaded,
            tasks,
            config,
            settings=settings,
            num_processes=nproc,
            initializer=begin_process,
            initargs=(plugin_files(),),
            say=say,
        )
    results = [result for own in evaluations for result in own.results]
    refuse_without_finite_results(tasks.name, (loss for own in results for loss in own.final_losses))
    content = as_json(evaluations, tasks, config, settings) | {"data": data_digests(*tasks.tasks)}
    written = write_evaluation(out, content, evaluations)
    if options["as_json"]:
        click.echo(json_text(content), nl=False)
        return
    for table in tables_of(content):
        print_table(table.caption, table.headings, table.rows, bold="learned")
    for note in content["notes"]:
        click.echo(f"note: {note}")
    for path in written:
        click.echo(f"{path.stem}: {path}")


def write_evaluation(out: Path, content: dict[str, Any], evaluations: Sequence[TaskEvaluation]) -> list[Path]:
    """Write what an evaluation came to, and its pictures, into a folder; returns the files."""
    files = {"evaluation.json": json_text(content).encode(), "curves.png": curves_png(evaluations)}
    if content["summary"][0]["tasks"] > 1:
        files["profile.png"] = profile_png(content["summary"])
    for name, data in files.items():
        write_atomically(out / name, data)
    return [out / name for name in files]


def begin_process(plugins: tuple[Path, ...]) -> None:
    """Make a process ready for tasks: Ctrl-C, which a terminal sends to all, ends it without a word of its own."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    register_plugins(plugins)
