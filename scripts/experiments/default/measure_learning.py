"""What was learned is worth: a rule against the same rule with nothing learned, on the same students.

    python -m scripts.experiments.default.measure_learning default-4
    python -m scripts.experiments.default.measure_learning runs/mine/rule.safetensors --suite validation

"Nothing learned" is the rule with fresh weights: the same laws and options. A size shift is that rule with all of its
updates longer or shorter by one factor, the same for all tasks: what learning must beat. Numbers are logarithms of
loss ratios, above 0 where the rule is better, of each student within .3; losses below 1/1000 of the first one count as
that. Writes results/default/learning.json, with the rule's digest in each row, and learning.md, a table; both keep what
other rules have there.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from scipy import stats

from l2l_opt.evaluation.runs import run_rule
from l2l_opt.evaluation.statistics import CONFIDENCE, EVEN_FLOOR, bounded
from l2l_opt.evaluation.suites import Suite, load_suite
from l2l_opt.rules import UpdateRule
from l2l_opt.specialising.selection import resized
from l2l_opt.storage.named_rule import read_rule
from l2l_opt.storage.safetensors_file import digest
from l2l_opt.tasks.mixture import make_tasks
from scripts.experiments import records

CAP = 0.3
SIZES = (0.5, 0.7, 1.4, 2.0)
SEED = 20
"""Of the students: others than those that suites report on."""


@dataclass(frozen=True)
class Ratios:
    """Log ratios of losses, theirs over ours, each within a cap: ``[tasks, students]``."""

    values: np.ndarray
    cap: float = CAP

    def _within(self, low: float, high: float) -> list[float]:
        return [max(float(low), -self.cap), min(float(high), self.cap)]

    @classmethod
    def of(cls, theirs: np.ndarray, ours: np.ndarray, *, cap: float = CAP) -> "Ratios":
        return cls(np.clip(np.log(theirs) - np.log(ours), -cap, cap), cap)

    def record(self) -> dict[str, Any]:
        """Mean over tasks with its 95 % interval over students, and each task's."""
        students = self.values.shape[1]
        quantile = quantile_of(students)
        errors = self.values.std(axis=1, ddof=1) / np.sqrt(students)
        error = float(np.sqrt((errors**2).sum()) / len(errors))
        mean = float(self.values.mean())
        return {
            "mean": mean,
            "interval": [mean - 1.96 * error, mean + 1.96 * error],
            "tasks": [
                {"mean": float(own), "interval": self._within(own - quantile * one, own + quantile * one)}
                for own, one in zip(self.values.mean(axis=1), errors, strict=True)
            ],
        }


def quantile_of(count: int) -> float:
    """Of Student's t, for an interval of a mean of so many numbers."""
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1))


def losses_of(
    rule: UpdateRule, task: str, *, horizon: int, students: int, planned_steps: str | None = "horizon"
) -> tuple[np.ndarray, np.ndarray]:
    """Final and test losses of the students, ``[students]``, at least a thousandth of the first one."""
    run = run_rule(rule, make_tasks(task), horizon=horizon, num_seeds=students, seed=SEED, planned_steps=planned_steps)
    first = run.curves[0].double().numpy()
    return (
        bounded(run.final_losses.double().numpy(), first, floor=EVEN_FLOOR),
        bounded(run.test_losses.double().numpy(), first, floor=EVEN_FLOOR),
    )


def measure(rule: UpdateRule, known: Suite, *, horizon: int, students: int, sizes: tuple[float, ...]) -> dict[str, Any]:
    """Train every student with the rule, with nothing learned, and with that at other sizes."""
    torch.manual_seed(0)
    fresh = type(rule)(**rule.config)
    subjects = {"learned": rule, "fresh": fresh} | {f"{size:g}": resized(fresh, size) for size in sizes}
    tasks = [task for task in known.tasks if horizon in known.horizons.get(task, (horizon,))]
    train: dict[str, list[np.ndarray]] = {name: [] for name in subjects}
    test: dict[str, list[np.ndarray]] = {name: [] for name in subjects}
    for task in tasks:
        for name, subject in subjects.items():
            final, tested = losses_of(subject, task, horizon=horizon, students=students)
            train[name].append(final)
            test[name].append(tested)
        mean = Ratios.of(train["fresh"][-1], train["learned"][-1]).values.mean()
        click.echo(f"{task}, {horizon} steps: {mean:+.3f}", err=True)
    shifts = {name: Ratios.of(np.array(train["fresh"]), np.array(train[name])).record()["mean"] for name in train}
    return {
        "suite": Path(known.name).stem,
        "horizon": horizon,
        "students": students,
        "digest": digest(dict(rule.named_parameters())),
        "tasks": tasks,
        "train": Ratios.of(np.array(train["fresh"]), np.array(train["learned"])).record(),
        "test": Ratios.of(np.array(test["fresh"]), np.array(test["learned"])).record(),
        "size_shifts": {name: value for name, value in shifts.items() if name not in ("learned", "fresh")},
    }


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown of all that was measured."""
    lines = [
        "# What learning buys",
        "",
        "Written by `python -m scripts.experiments.default.measure_learning`. Gains are log ratios of losses, nothing",
        f"learned over the rule, each student within {CAP:g}: above 0 the rule is better, .05 is a loss 5 % lower; a",
        f"task at +{CAP:g} or -{CAP:g} has at least that. In brackets are 95 % intervals over students of these very",
        "tasks. *Over tasks* is the interval for other tasks of the kind, and the task in the middle. *Size shift* is",
        "nothing learned with one factor on all updates, the same for all tasks: the best of those in brackets.",
        "",
        "| rule | list, steps, students | gain, training loss | over tasks | gain, test loss | over tasks | size shift "
        "| tasks better, worse with learning, for certain |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for rule, rows in results.items():
        for row in rows:
            intervals = [task["interval"] for task in row["train"]["tasks"]]
            better, worse = sum(low > 0 for low, _ in intervals), sum(high < 0 for _, high in intervals)
            cells = [f"`{rule}`", f"{row['suite']}, {row['horizon']:,}, {row['students']}"]
            for kind in ("train", "test"):
                cells += [words(row[kind]), over_tasks([task["mean"] for task in row[kind]["tasks"]])]
            lines.append(
                f"| {' | '.join(cells)} | {size_shift(row['size_shifts'])} | {better}, {worse} of {len(intervals)} |"
            )
    for rule, rows in results.items():
        for row in rows:
            lines += ["", f"## `{rule}`, {row['suite']}, {row['horizon']:,} steps", ""]
            lines += ["| task | gain, training loss | gain, test loss |", "|---|---|---|"]
            lines += [
                f"| `{task}` | {words(train)} | {words(test)} |"
                for task, train, test in zip(row["tasks"], row["train"]["tasks"], row["test"]["tasks"], strict=True)
            ]
    return "\n".join(lines) + "\n"


def words(found: dict[str, Any]) -> str:
    """A mean and its interval."""
    low, high = found["interval"]
    return f"{found['mean']:+.3f} ({low:+.3f} to {high:+.3f})"


def over_tasks(means: list[float]) -> str:
    """The interval for the mean of other tasks, by those of these, and the middle one."""
    if len(means) < 2:
        return "-"
    mean, error = float(np.mean(means)), float(np.std(means, ddof=1)) / len(means) ** 0.5
    half = quantile_of(len(means)) * error
    return f"{mean - half:+.3f} to {mean + half:+.3f}, middle {np.median(means):+.3f}"


def size_shift(shifts: dict[str, float]) -> str:
    """The best of the factors that were tried."""
    if not shifts:
        return "-"
    name, best = max(shifts.items(), key=lambda one: one[1])
    return f"{best:+.3f} at {name} ({', '.join(shifts)})"


@click.command()
@click.argument("source")
@click.option("--name", default=None, help="In the table; the source where none is given.")
@click.option(
    "--suite",
    "suites",
    multiple=True,
    default=("validation", "validation-sizes"),
    show_default=True,
    help="Lists of tasks, by name or file.",
)
@click.option("--horizon", "horizons", multiple=True, default=(500,), show_default=True, help="Inner steps.")
@click.option("--students", default=8, show_default=True, type=click.IntRange(2), help="Of each task.")
@click.option(
    "--size", "sizes", multiple=True, default=SIZES, show_default=True, type=float, help="Factors on updates."
)
@click.option("--out", type=click.Path(path_type=Path), default=records.RESULTS / "default", show_default=True)
def main(
    source: str,
    name: str | None,
    suites: tuple[str, ...],
    horizons: tuple[int, ...],
    students: int,
    sizes: tuple[float, ...],
    out: Path,
) -> None:
    """Measure what was learned by the rule SOURCE, a shipped name or a path."""
    torch.set_num_threads(1)
    try:
        rule = read_rule(source, seed=0)
        known = [load_suite(suite) for suite in suites]
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    path = out / "learning.json"
    results = json.loads(path.read_text())["results"] if path.exists() else {}
    for suite in known:
        for horizon in horizons:
            found = measure(rule, suite, horizon=horizon, students=students, sizes=sizes)
            same = (found["suite"], horizon)
            kept = [row for row in results.get(name or source, []) if (row["suite"], row["horizon"]) != same]
            results[name or source] = [*kept, found]
            records.write(path, {"results": results})
            (out / "learning.md").write_text(table(results))
            click.echo(f"{suite.name}, {horizon} steps: {words(found['train'])}, test {words(found['test'])}")


if __name__ == "__main__":
    main()
