"""l2l-opt evaluate --suite: reads, runs, writes, prints."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from l2l_opt.cli.common import DTYPES, plugin_digests, plugin_files, read_device, register_plugins, wrong_usage
from l2l_opt.evaluation.baselines.entries import ADAMW_CONSTANT
from l2l_opt.evaluation.suite import evaluate_suite
from l2l_opt.evaluation.suite_plots import profile_png, small_multiples_png
from l2l_opt.evaluation.suites import load_suite
from l2l_opt.evaluation.summary import as_json, result_of, seconds_speed_ups
from l2l_opt.evaluation.task import Protocol, TaskJudgement
from l2l_opt.storage.files import make_writable_folder, write_atomically
from l2l_opt.storage.rule_file import load_rule

Say = Callable[[str], Any]


def judge_suite(
    rule: str,
    source: str,
    *,
    out: Path,
    cache: Path,
    baselines: str,
    num_processes: int,
    device: str,
    dtype: str,
    as_json_text: bool,
    say: Say,
    **counts: Any,
) -> None:
    """Judge a rule on a suite, write ``evaluation.json``, ``curves.png`` and ``profile.png``, and print.

    Args:
        rule: a shipped name or a path.
        source: of the suite.
        out: a folder.
        cache: a folder.
        baselines: names, with commas.
        num_processes: tasks at a time.
        device: of students and rule.
        dtype: likewise.
        as_json_text: print ``evaluation.json`` instead of tables.
        say: told of progress.
        counts: of ``Protocol``.
    """
    plugins = plugin_files()
    with wrong_usage():
        place = read_device(device)
        suite = load_suite(source)
        protocol = Protocol(
            baselines=tuple(name.strip() for name in baselines.split(",") if name.strip()),
            device=str(place),
            dtype=DTYPES[dtype],
            cache=cache,
            plugins=plugin_digests(),
            **counts,
        )
    teacher = load_rule(rule).to(device=place, dtype=DTYPES[dtype])
    settings = {"rule": rule, "name": teacher.registry_name, "digest": (teacher.card or {}).get("digest")}
    make_writable_folder(out)
    with wrong_usage():
        judgements = evaluate_suite(
            teacher,
            suite,
            protocol,
            settings=settings,
            num_processes=num_processes,
            initializer=register_plugins,
            initargs=(plugins,),
            say=say,
        )
    content = as_json(judgements, suite, protocol, settings)
    text = write_evaluation(out, content, judgements)
    if as_json_text:
        click.echo(text, nl=False)
        return
    for summary in content["summary"]:
        own = [judgement for judgement in judgements if judgement.horizon == summary["horizon"]]
        _print_tasks(own, summary)
        _print_summary(summary)
    for note in content["notes"]:
        click.echo(f"note: {note}")
    for name, file in (("figures", "evaluation.json"), ("curves", "curves.png"), ("profile", "profile.png")):
        click.echo(f"{name}: {out / file}")


def write_evaluation(out: Path, content: dict[str, Any], judgements: Sequence[TaskJudgement]) -> str:
    """Write what a suite came to, and its pictures, into a folder; returns the text of ``evaluation.json``."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_atomically(out / "evaluation.json", text.encode())
    write_atomically(out / "curves.png", small_multiples_png(judgements))
    write_atomically(out / "profile.png", profile_png(content["summary"]))
    return text


def _print_tasks(judgements: Sequence[TaskJudgement], summary: dict[str, Any]) -> None:
    seeds = len(judgements[0].first_losses)
    table = Table(title=f"{summary['horizon']} steps, {seeds} seeds: final training loss")
    for heading in ("task", "learned", "adamw", "its rate", "ratio", "best other", "speed-up", "in seconds"):
        table.add_column(heading, justify="left" if heading in ("task", "best other") else "right")
    for own in judgements:
        learned, adamw = result_of(own, "learned"), result_of(own, "adamw")
        assert learned is not None and adamw is not None  # noqa: PT018
        others = [r for r in own.results if r.optimizer not in ("learned", "adamw", ADAMW_CONSTANT.name)]
        best = min(others, key=lambda result: result.mean, default=None)
        table.add_row(
            own.task,
            f"{learned.mean:.4g}",
            f"{adamw.mean:.4g}",
            f"{adamw.settings['lr']:.2g} {adamw.settings['schedule']}",
            f"{summary['ratio_by_task'][own.task]:.3g}",
            "" if best is None else f"{best.optimizer} {best.mean:.4g}",
            f"{np.mean(own.speed_ups):.2f}",
            f"{np.mean(seconds_speed_ups(own)):.2f}",
        )
    Console(width=None if Console().is_terminal else 150).print(table)


def _print_summary(summary: dict[str, Any]) -> None:
    table = Table(title=f"{summary['horizon']} steps, {summary['tasks']} tasks: loss of the baseline / of the rule")
    for heading in ("baseline", "geometric mean", "95 % interval", "on test batches", "wins of the rule"):
        table.add_column(heading, justify="left" if heading == "baseline" else "right")
    for name, ratio in summary["ratio"].items():
        test, wins = summary["test_ratio"][name], summary["wins"][name]
        table.add_row(
            name,
            f"{ratio['geometric_mean']:.3g}",
            _interval(ratio),
            f"{test['geometric_mean']:.3g} ({_interval(test)})",
            f"{wins['wins']} of {wins['tasks']}",
        )
    Console(width=None if Console().is_terminal else 110).print(table)
    for words, key in (("in steps", "speed_up_steps"), ("in seconds", "speed_up_seconds")):
        figure = summary[key]
        click.echo(
            f"speed-up {words} over tuned AdamW at a constant rate: {figure['interquartile_mean']:.2f} "
            f"({_interval(figure)}), interquartile mean over tasks and seeds"
        )
    if summary["diverged"]:
        click.echo(f"diverged: {summary['diverged']} runs, which count as a speed-up of 0")


def _interval(figure: dict[str, Any]) -> str:
    low, high = figure["interval"]
    return f"{low:.3g} to {high:.3g}"
