"""``evaluation.json`` as tables of text: for the command line and for reports."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """Cells as text; the first of each row is the row's heading.

    Attributes:
        caption: what it holds.
        headings: of the columns.
        rows: each as long as the headings.
    """

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables_of(content: Record) -> list[Table]:
    """Tables of an evaluation: of one task all its optimizers; of several tasks a row each, then loss ratios over all.

    Args:
        content: of ``evaluation.json``; of files without a summary a table for each task and horizon.
    """
    tables = []
    summaries = {summary["horizon"]: summary for summary in content.get("summary", [])}
    for horizon in dict.fromkeys(record["horizon"] for record in content["results"]):
        records = [record for record in content["results"] if record["horizon"] == horizon]
        summary = summaries.get(horizon, {})
        if summary.get("tasks", 1) > 1:
            speed_ups = [own for own in content["speed_up"] if own["horizon"] == horizon]
            tables += [_task_table(records, summary, speed_ups), *_test_tables(records), _ratio_table(summary)]
        else:
            for task in dict.fromkeys(record["task"] for record in records):
                tables.append(optimizer_table([record for record in records if record["task"] == task]))
        if "speed_up_steps" in summary:
            tables.append(_speed_up_table(summary))
    return tables


def optimizer_table(records: Sequence[Record]) -> Table:
    """Optimizers on one task at one horizon, the lowest final loss first; columns of which nothing is known left out.

    Args:
        records: of ``evaluation.json``.
    """
    learned = next((record["mean"] for record in records if record["optimizer"] == "learned"), None)

    def ratio(record: Record) -> str:
        if learned is None or record["mean"] is None or record["optimizer"] == "learned":
            return ""
        known = record.get("loss_ratio")  # which files of 0.1 do not have
        return f"{known:.3g}" if known else f"{record['mean'] / learned:.3g}" if learned > 0 else ""

    columns = {
        "optimizer": lambda record: record["optimizer"],
        "final loss": lambda record: loss_text(record["mean"]),
        "95 % interval": lambda record: interval_text(record["interval"]),
        "test loss": lambda record: loss_text(record["test_mean"]) if "test_mean" in record else "",
        "accuracy": lambda record: _share(record["accuracy_mean"]) if "accuracy_mean" in record else "",
        "loss ratio": ratio,
        "learning rate": lambda record: _rate(record["settings"]) if "settings" in record else "",
        "seconds a seed": lambda record: f"{record['seconds']:.2g}" if "seconds" in record else "",
    }
    ordered = sorted(records, key=lambda record: np.inf if record["mean"] is None else record["mean"])
    cells = {heading: [cell(record) for record in ordered] for heading, cell in columns.items()}
    shown = [heading for heading, column in cells.items() if any(column)]
    seeds = f", {len(records[0]['final_losses'])} seeds" if "final_losses" in records[0] else ""
    caption = f"{records[0]['task']}, {records[0]['horizon']} steps{seeds}: final training loss"
    return Table(caption, shown, list(zip(*(cells[heading] for heading in shown), strict=True)))


def _task_table(records: Sequence[Record], summary: Record, speed_ups: Sequence[Record]) -> Table:
    found = {(record["task"], record["optimizer"]): record for record in records}
    names, tasks = (list(dict.fromkeys(record[key] for record in records)) for key in ("optimizer", "task"))
    rows = []
    for task in tasks:
        losses = [loss_text(found[task, name]["mean"]) if (task, name) in found else "not run" for name in names]
        rows.append([task, *losses])
    headings = ["task", *names]
    if speed_ups:
        headings += ["AdamW's rate", "loss ratio to AdamW", "speed-up", "in seconds"]
        for row, own in zip(rows, speed_ups, strict=True):
            row += [_rate(found[own["task"], "adamw"]["settings"]), f"{summary['ratio_by_task'][own['task']]:.3g}"]
            row += [f"{np.mean(own[key]):.2f}" for key in ("steps", "seconds")]
    caption = f"{summary['horizon']} steps, {len(records[0]['final_losses'])} seeds: final training loss"
    return Table(caption, headings, rows)


def _test_tables(records: Sequence[Record]) -> list[Table]:
    """Test losses, and accuracies where there are classes: a row a task, a column an optimizer."""
    found = {(record["task"], record["optimizer"]): record for record in records}
    names = list(dict.fromkeys(record["optimizer"] for record in records))
    start = f"{records[0]['horizon']} steps, {len(records[0]['final_losses'])} seeds"
    tables = []
    for key, caption, text in (("test_mean", "test loss", loss_text), ("accuracy_mean", "accuracy in tests", _share)):
        tasks = list(dict.fromkeys(record["task"] for record in records if key in record))
        rows = [
            [
                task,
                *(text(found[task, name][key]) if key in found.get((task, name), {}) else "not run" for name in names),
            ]
            for task in tasks
        ]
        if rows:
            tables.append(Table(f"{start}: {caption}", ["task", *names], rows))
    return tables


def _share(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.1f} %"


def _ratio_table(summary: Record) -> Table:
    rows = []
    for name, ratio in summary["ratio"].items():
        test, wins = summary["test_ratio"][name], summary["wins"][name]
        cells = [
            text for own in (ratio, test) for text in (f"{own['geometric_mean']:.3g}", interval_text(own["interval"]))
        ]
        for key in ("log_ratio", "test_log_ratio"):
            even = summary.get(key, {}).get(name)  # which files of 0.2 do not have
            cells.append(f"{even['mean']:+.3f}, {even['at_or_below']} of {even['tasks']}" if even else "")
        rows.append([name, *cells, f"{wins['wins']} of {wins['tasks']}"])
    headings = ["baseline", "loss ratio", "95 % interval", "of test losses", "95 % interval"]
    headings += ["capped log ratio", "of test losses", "wins of the rule"]
    caption = f"{summary['horizon']} steps, {summary['tasks']} tasks: loss ratio (above 1 the rule is better)"
    return Table(f"{caption}, geometric mean", headings, rows)


def _speed_up_table(summary: Record) -> Table:
    rows = []
    for unit in ("steps", "seconds"):
        own = summary[f"speed_up_{unit}"]
        rows.append([f"speed-up in {unit}", f"{own['interquartile_mean']:.2f}", interval_text(own["interval"])])
    diverged = f"; {summary['diverged']} runs diverged and count as 0" if summary["diverged"] else ""
    caption = f"{summary['horizon']} steps: speed-up over tuned AdamW at a constant rate{diverged}"
    return Table(caption, ["", "interquartile mean", "95 % interval"], rows)


def _rate(settings: Record) -> str:
    if "lr" not in settings:
        return "its defaults" if "defaults_of" in settings else "not tuned"
    return f"{settings['lr']:.3g} {settings.get('schedule', '')}".strip()


def interval_text(interval: Sequence[float | None]) -> str:
    """Return an interval of losses, or of ratios."""
    low, high = interval
    return f"{loss_text(low)} to {loss_text(high)}"


def loss_text(value: float | None) -> str:
    """Return a loss of ``evaluation.json``, where null stands for one that is not finite."""
    return "diverged" if value is None or not np.isfinite(value) else f"{value:.4g}"
