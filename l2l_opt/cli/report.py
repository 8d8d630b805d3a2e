"""l2l-opt report."""

import json
import shlex
from pathlib import Path
from typing import Any

import click

from l2l_opt.cli.common import DTYPES, device_options, plugin_digests, prepare, wrong_usage
from l2l_opt.evaluation.cache import DEFAULT_FOLDER
from l2l_opt.evaluation.task import Protocol, TaskJudge
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


@click.command()
@click.argument("rule_or_run")
@click.option(
    "--task",
    "names",
    multiple=True,
    default=("digits-mlp",),
    show_default=True,
    help="NAME or NAME:OPTION=VALUE,...; repeatable.",
)
@click.option("--horizon", type=click.IntRange(min=1), default=200, show_default=True, help="Inner steps.")
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True, help="Students in curves.")
@click.option(
    "--tuning-seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Students baselines are tuned on."
)
@click.option(
    "--baselines", default="adamw,sgd,adam", show_default=True, help="As evaluate --suite has them; adamw always."
)
@click.option(
    "--evaluation",
    "evaluations",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="An evaluation.json whose tables are wanted; repeatable.  [default: those in the run's folder]",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all students.")
@click.option(
    "--out", type=click.Path(path_type=Path), default="report.html", show_default=True, help="The page to write."
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    default=DEFAULT_FOLDER,
    show_default=True,
    help="Where tuned baselines and all runs are kept.",
)
@device_options
def report(
    rule_or_run: str,
    names: tuple[str, ...],
    horizon: int,
    seeds: int,
    tuning_seeds: int,
    baselines: str,
    evaluations: tuple[Path, ...],
    seed: int,
    out: Path,
    cache: Path,
    device: str,
    threads: int,
    dtype: str,
) -> None:
    """Write one page about a rule (a shipped name or a path) or about a meta-training run (its folder).

    The page has the card, curves beside tuned baselines with intervals, what the rule answers to gradients, its hidden
    state in a training run, tables of evaluations, and the history of a meta-training run. It is one file that asks
    nothing of any other: send it to a colleague.

    Example: l2l-opt report default-2 --task digits-mlp --out report.html
    """
    with wrong_usage():
        run, source = _place(rule_or_run)
        if out.is_dir():
            raise ValueError(f"a report is one file; got the folder {str(out)!r}, use e.g. --out {out / 'report.html'}")
        found = [(str(path), _read(path)) for path in evaluations or _evaluations_of(run)]
        protocol = Protocol(
            horizons=(horizon,),
            num_seeds=seeds,
            tuning_seeds=tuning_seeds,
            seed=seed,
            baselines=tuple(filter(None, baselines.split(","))),
            device=device,
            dtype=DTYPES[dtype],
            cache=cache,
            plugins=plugin_digests(),
        )
        judges = [TaskJudge(name, protocol, say=lambda message: click.echo(message, err=True)) for name in names]
    teacher, _ = prepare(source, names[0], out.absolute().parent, device=device, threads=threads, dtype=dtype)
    name = rule_or_run if run is None else run.name
    judgements = [judge.judge(teacher, horizon, {"rule": source}) for judge in judges]
    runs = [(judge.task, watch("learned", teacher, judge.tasks, horizon=horizon, seed=seed)) for judge in judges]
    sections = [
        curves_section(judgements, rule=name, tuning_seeds=tuning_seeds),
        response_section(teacher),
        unroll_section(runs),
    ]
    if found:
        sections.append(evaluation_section(found))
    if run is not None:
        sections.append(history_section(run / "events"))
    sections.append(card_section(teacher.float().cpu()))
    summary = headline(judgements)
    arguments = click.get_current_context().obj["arguments"]
    text = render(name, summary, sections, command=shlex.join(["l2l-opt", *arguments]))
    write_atomically(out, text.encode())
    click.echo(summary)
    click.echo(f"report: {out}")


def _place(rule_or_run: str) -> tuple[Path | None, str]:
    """The run's folder, if it is one, and where its rule is.

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
    """What an evaluation.json holds.

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
