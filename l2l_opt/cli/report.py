"""l2l-opt report."""

import json
from pathlib import Path
from typing import Any

import click

from l2l_opt.cli.common import wrong_usage
from l2l_opt.cli.evaluating import CACHE, begin, config_of, task_option, tuning_seeds
from l2l_opt.cli.messages import command_line, say
from l2l_opt.cli.options import (
    SEED,
    GroupedCommand,
    count,
    device_options,
    names_option,
    option,
    option_group,
    path_option,
)
from l2l_opt.evaluation.statistics import refuse_without_finite_results
from l2l_opt.evaluation.task import TaskEvaluator
from l2l_opt.inspection.pictures.watched_run import watch
from l2l_opt.inspection.report.page import render
from l2l_opt.inspection.report.sections import (
    card_section,
    curves_section,
    evaluation_section,
    headline,
    history_section,
    response_section,
    unroll_section,
)
from l2l_opt.storage.files import write_atomically


@click.command(cls=GroupedCommand)
@click.argument("rule_or_run")
@option_group(
    "Evaluation",
    task_option("--task names", ("digits-mlp",), multiple=True),
    count("--horizon", 200, "Inner steps."),
    count("--seeds", 5, "Students in curves."),
    tuning_seeds(3),
    names_option("--baselines", "adamw,sgd,adam", "Baselines of evaluate --suite, adamw always among them"),
    SEED,
    CACHE,
)
@option_group(
    "Output",
    option(
        "--evaluation evaluations",
        None,
        "An evaluation.json whose tables are wanted; repeatable.",
        show_default="those in the run's folder",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        multiple=True,
    ),
    path_option("--out", "report.html", "The page to write."),
)
@device_options
def report(
    rule_or_run: str,
    names: tuple[str, ...],
    horizon: int,
    seeds: int,
    evaluations: tuple[Path, ...],
    out: Path,
    **options: Any,
) -> None:
    """Write one page about a rule (a shipped name or a path) or about a meta-training run (its folder).

    The page has the model card, curves beside tuned baselines with intervals, the rule's response to gradients, its
    hidden state in a training run, tables of evaluations, and the history of a meta-training run. It is one file that
    asks nothing of any other: send it to a colleague.

    Example: l2l-opt report default-4 --task digits-mlp --out report.html
    """
    with wrong_usage():
        run, source = _place(rule_or_run)
        if out.is_dir():
            raise ValueError(f"a report is one file; got the folder {str(out)!r}, use e.g. --out {out / 'report.html'}")
        found = [(str(path), _read(path)) for path in evaluations or _evaluations_of(run)]
        config = config_of(options, horizons=(horizon,), num_seeds=seeds)
        evaluators = [TaskEvaluator(name, config, say=say) for name in names]
    loaded = begin(source, out.absolute().parent, config, threads=options["threads"])
    name = rule_or_run if run is None else f"{loaded.registry_name} of {run.name}"
    measured = [own.evaluate(loaded, horizon, {"rule": source}) for own in evaluators]
    results = [result for own in measured for result in own.results]
    refuse_without_finite_results(" and ".join(names), (loss for own in results for loss in own.final_losses))
    runs = [(own.task, watch("learned", loaded, own.tasks, horizon=horizon, seed=config.seed)) for own in evaluators]
    sections = [
        curves_section(measured, rule=name, tuning_seeds=config.tuning_seeds),
        response_section(loaded),
        unroll_section(runs),
    ]
    if found:
        sections.append(evaluation_section(found))
    if run is not None:
        sections.append(history_section(run / "events"))
    sections.append(card_section(loaded.float().cpu()))
    summary = headline(measured, rule=name)
    title = f"Final training loss of {name} and of tuned baselines"
    write_atomically(out, render(title, summary, sections, command=command_line()).encode())
    click.echo(summary)
    click.echo(f"report: {out}")


def _place(rule_or_run: str) -> tuple[Path | None, str]:
    """Return the run's folder, if it is one, and where its rule is.

    Raises:
        ValueError: a folder that is no run's.
    """
    folder = Path(rule_or_run)
    if not folder.is_dir():
        return None, rule_or_run
    artefact = folder / "rule.safetensors"
    if not artefact.is_file():
        raise ValueError(
            f"a run's folder must hold rule.safetensors; got {rule_or_run!r} without one, "
            "use the folder that l2l-opt meta-train wrote to (--out)"
        )
    return folder, str(artefact)


def _evaluations_of(run: Path | None) -> list[Path]:
    return [] if run is None else sorted([*run.glob("evaluation.json"), *run.glob("*/evaluation.json")])


def _read(path: Path) -> dict[str, Any]:
    """Return what an evaluation.json holds.

    Raises:
        ValueError: another kind of file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("results"), list):
        raise ValueError(
            f"an evaluation must be what l2l-opt evaluate wrote; got {str(path)!r}, use an evaluation.json"
        )
    return content
