"""A rule beside AdamW and Muon with one schedule each, at their best rates: where tuning everything takes too long.

    python -m scripts.experiments.held_out.measure_beside default-4
    python -m scripts.experiments.held_out.measure_beside default-4 --horizon 500 --validated

Of the held-out suite, the tasks that are meant for so many steps, or for 2,000 and more where that is 500. AdamW has a
warm-up and a cosine, Muon a cosine, and the best of four rates, of more where the best is at an end; with --validated
they are tuned for the loss on a validation split, and SGD with momentum and a cosine is among them. It is a look at
that suite: note it in looks.md. Writes results/held_out/RULE/long.json, or validated.json, after each task, goes on
where it was stopped, and a table beside it.
"""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from l2l_opt.evaluation.statistics import even_log_ratios, mean_and_interval
from l2l_opt.evaluation.suites import load_suite
from l2l_opt.storage.named_rule import read_rule
from l2l_opt.storage.safetensors_file import digest
from l2l_opt.tasks.mixture import make_tasks
from scripts.experiments import records
from scripts.experiments.tuned import SHOWN, Subjects, at_their_best, even, losses_of

WHICH = {"train": "training", "test": "test"}
SEED = 0
TUNING_STUDENTS = 2
SHORT = 500
LEVEL = 1.02
"""Test losses within 2 % count as level."""


def log_ratio(found: dict[str, Any], other: str, which: str) -> float:
    """Log of another's mean loss over the rule's, losses at least a thousandth of the first, within .7."""
    return float(even_log_ratios(even(found[other], which)[None], even(found["rule"], which)[None])[0])


def in_words(ratios: list[float]) -> str:
    """Their mean over tasks, its interval, and on how many the rule is ahead."""
    mean, (low, high) = mean_and_interval(ratios)
    ahead = sum(ratio >= 0 for ratio in ratios)
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f}), at or below on {ahead} of {len(ratios)}"


def is_level(found: dict[str, Any]) -> bool:
    """Whether the rule's mean test loss is at most that of the best of the others, or within 2 % of it."""
    best = min(float(np.mean(found[other]["test"])) for other in SHOWN if other in found)
    return float(np.mean(found["rule"]["test"])) <= LEVEL * best


def table(source: str, horizon: int, results: dict[str, dict[str, Any]], *, validated: bool) -> str:
    """Markdown of all tasks."""
    others = [name for name in SHOWN if any(name in found for found in results.values())]
    columns: dict[tuple[str, str], list[float]] = {
        (which, other): [] for which in ("train", "test") for other in others
    }
    heads = [f"{WHICH[which]}, over {SHOWN[other]}" for which, other in columns]
    lines = [
        f"# `{source}` after {horizon:,} steps",
        "",
        "Written by `python -m scripts.experiments.held_out.measure_beside`: log ratios of another optimizer's loss",
        "over the rule's, within .7; above 0 the rule is better. Each has the rate that is best for",
        f"{'validation' if validated else 'training'} loss; AdamW a warm-up and a cosine, the others a cosine.",
        "",
        f"| task | {' | '.join(heads)} |",
        f"|{'---|' * (1 + len(heads))}",
    ]
    for task, found in results.items():
        cells = []
        for (which, other), column in columns.items():
            if other in found:
                column.append(log_ratio(found, other, which))
            cells.append(f"{column[-1]:+.3f}" if other in found else "-")
        lines.append(f"| `{task}` | {' | '.join(cells)} |")
    cells = [in_words(column) if column else "-" for column in columns.values()]
    level = sum(map(is_level, results.values()))
    lines += [f"| all | {' | '.join(cells)} |", ""]
    lines.append(
        f"Its test loss is at or below the best of the others', or within 2 %, on {level} of {len(results)} tasks."
    )
    return "\n".join(lines) + "\n"


@click.command()
@click.argument("source")
@click.option("--suite", default="held-out", show_default=True, help="By name or file.")
@click.option("--horizon", default=10_000, show_default=True, help="Inner steps.")
@click.option("--students", default=3, show_default=True, type=click.IntRange(1), help="Reported on.")
@click.option("--validated", is_flag=True, help="Tune for the loss on a validation split.")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Folder; results/held_out/RULE otherwise.")
def main(source: str, suite: str, horizon: int, students: int, validated: bool, out: Path | None) -> None:
    """Measure the rule SOURCE, a shipped name or a path."""
    torch.set_num_threads(1)
    rule, known = read_rule(source, seed=0), load_suite(suite)
    mine = digest(dict(rule.named_parameters()))
    out = out or records.RESULTS / "held_out" / Path(source).stem
    path = out / ("validated.json" if validated else "long.json")
    before = json.loads(path.read_text()) if path.exists() else {}
    results = before["results"] if before.get("digest") == mine and before["horizon"] == horizon else {}
    for task in known.tasks:
        is_meant = bool(known.horizons_of(task, (horizon,)))
        if task in results or not is_meant or (horizon == SHORT and known.horizons.get(task) == (SHORT,)):
            continue
        tasks = make_tasks(task)
        how: dict[str, Any] = {"horizon": horizon, "seed": SEED}
        others = at_their_best(tasks, task, tuning_students=TUNING_STUDENTS, validated=validated, **how)
        subjects: Subjects = {"rule": (rule, {})} | others
        results[task] = losses_of(subjects, tasks, students=students, **how)
        records.write(path, {"digest": mine, "horizon": horizon, "students": students, "results": results})
        path.with_suffix(".md").write_text(table(source, horizon, results, validated=validated))
        click.echo(f"{task}: {log_ratio(results[task], 'adamw', 'train'):+.3f} over AdamW", err=True)


if __name__ == "__main__":
    main()
