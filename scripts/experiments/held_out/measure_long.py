"""A rule on runs too long to tune everything for: AdamW and Muon with one schedule each, at their best rates.

    python -m scripts.experiments.held_out.measure_long default-4

Of the held-out suite, the tasks that are meant for 10,000 steps. AdamW has a warm-up and a cosine, Muon a cosine, and
the best of four rates, of more where the best is at an end. It is a look at that suite: note it in looks.md.
Writes results/held_out/RULE/long.json after each task, and goes on where it was stopped, and long.md.
"""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from l2l_opt.evaluation.statistics import EVEN_FLOOR, bounded, even_log_ratios, mean_and_interval
from l2l_opt.evaluation.suites import load_suite
from l2l_opt.storage.named_rule import read_rule
from l2l_opt.storage.safetensors_file import digest
from l2l_opt.tasks.mixture import make_tasks
from scripts.experiments import records
from scripts.experiments.tuned import SHOWN, Subjects, at_their_best, losses_of

SEED = 0
TUNING_STUDENTS = 2


def log_ratio(found: dict[str, Any], other: str, which: str) -> float:
    """Log of another's mean loss over the rule's, losses at least a thousandth of the first, within .7."""

    def of(losses: dict[str, Any]) -> np.ndarray:
        return bounded(np.array(losses[which]), np.array(losses["first"]), floor=EVEN_FLOOR)

    return float(even_log_ratios(of(found[other])[None], of(found["rule"])[None])[0])


def in_words(ratios: list[float]) -> str:
    """Their mean over tasks, its interval, and on how many the rule is ahead."""
    mean, (low, high) = mean_and_interval(ratios)
    ahead = sum(ratio >= 0 for ratio in ratios)
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f}), at or below on {ahead} of {len(ratios)}"


def table(source: str, horizon: int, results: dict[str, dict[str, Any]]) -> str:
    """Markdown of all tasks."""
    lines = [
        f"# `{source}` after {horizon:,} steps",
        "",
        "Written by `python -m scripts.experiments.held_out.measure_long`: log ratios of the loss of AdamW (warm-up",
        "and cosine) and Muon (cosine) over the rule's, each at its best rate, within .7; above 0 the rule is better.",
        "",
        "| task | training, over AdamW | over Muon | test, over AdamW | over Muon |",
        "|---|---|---|---|---|",
    ]
    columns: dict[tuple[str, str], list[float]] = {(which, other): [] for which in ("train", "test") for other in SHOWN}
    for task, found in results.items():
        cells = []
        for (which, other), column in columns.items():
            if other in found:
                column.append(log_ratio(found, other, which))
                cells.append(f"{column[-1]:+.3f}")
            else:
                cells.append("-")
        lines.append(f"| `{task}` | {' | '.join(cells)} |")
    cells = [in_words(column) if column else "-" for column in columns.values()]
    return "\n".join([*lines, f"| all | {' | '.join(cells)} |"]) + "\n"


@click.command()
@click.argument("source")
@click.option("--suite", default="held-out", show_default=True, help="By name or file.")
@click.option("--horizon", default=10_000, show_default=True, help="Inner steps.")
@click.option("--students", default=3, show_default=True, type=click.IntRange(1), help="Reported on.")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Folder; results/held_out/RULE otherwise.")
def main(source: str, suite: str, horizon: int, students: int, out: Path | None) -> None:
    """Measure the rule SOURCE, a shipped name or a path, on long runs."""
    torch.set_num_threads(1)
    rule, known = read_rule(source, seed=0), load_suite(suite)
    mine = digest(dict(rule.named_parameters()))
    out = out or records.RESULTS / "held_out" / Path(source).stem
    path = out / "long.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    results = before["results"] if before.get("digest") == mine and before["horizon"] == horizon else {}
    for task in known.tasks:
        if task in results or not known.horizons_of(task, (horizon,)):
            continue
        tasks = make_tasks(task)
        others = at_their_best(tasks, task, horizon=horizon, tuning_students=TUNING_STUDENTS, seed=SEED)
        subjects: Subjects = {"rule": (rule, {})} | others
        results[task] = losses_of(subjects, tasks, horizon=horizon, students=students, seed=SEED)
        records.write(path, {"digest": mine, "horizon": horizon, "students": students, "results": results})
        (out / "long.md").write_text(table(source, horizon, results))
        click.echo(f"{task}: {log_ratio(results[task], 'adamw', 'train'):+.3f} over AdamW", err=True)


if __name__ == "__main__":
    main()
