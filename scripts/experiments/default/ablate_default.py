"""What each part of the default rule buys: its losses on validation tasks with one part taken out at a time.

    python -m scripts.experiments.default.ablate_default
    python -m scripts.experiments.default.ablate_default --horizon 2000 --only "without num_steps" --only "no whitening"

Parts are taken out of the meta-trained rule by its weights and options, without meta-training anew: what is read no
more counts as zero. Log ratios of losses, without the part over all of it, each student within .7; losses below 1/1000
of the first one count as that. Writes results/default/ablation.json, which keeps what is not measured anew, and
ablation.md, a table.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch

from l2l_opt import load_rule
from l2l_opt.evaluation.statistics import CAP_OF_LOG_RATIO
from l2l_opt.evaluation.suites import load_suite
from l2l_opt.pretrained import DEFAULT
from l2l_opt.rules.scale_free.rule import BRIEF, NUM_OUTPUTS, ScaleFreeRule
from scripts.experiments import records
from scripts.experiments.default.measure_learning import Ratios, losses_of, words

SIZE, WHITENED_SHARE = -3, -2
"""Their places among a tensor's heads."""
TENSOR_FEATURES = {
    "how much of the run is over": (0, 1, 2),
    "steps taken, and the run's length": (3, 4, 5),
    "how a tensor has grown, and zero at first": (6, 7),
    "vector or not, and coordinates": (8, 9),
    "averages over gradients": (10, 11),
    "agreement of gradients": (12, 13),
    "the gradient's fall and its last jump": (14, 15),
}
"""What the tensor's network reads, by its places."""
COORDINATE_FEATURES = {
    "the gradient": (0,),
    "averages": (1, 2, 3),
    "the weight": (4,),
    "the gradient's usual size": (5,),
}
"""Likewise the LSTM."""
Edit = Callable[[ScaleFreeRule], ScaleFreeRule | None]


@torch.no_grad()
def without_lstm(rule: ScaleFreeRule) -> None:
    """Averages mixed as at the start, and sizes of a tensor's coordinates all alike."""
    rule.readout.weight.zero_()
    rule.readout.bias.zero_()
    rule.choices.weight[:NUM_OUTPUTS].zero_()
    rule.choices.bias[:NUM_OUTPUTS].zero_()
    rule.choices.bias[0] = BRIEF


@torch.no_grad()
def without_tensor_network(rule: ScaleFreeRule) -> None:
    for linear in (rule.gates, rule.choices):
        linear.weight.zero_()
        linear.bias.zero_()
    rule.choices.bias[0] = BRIEF


@torch.no_grad()
def without_learned_sizes(rule: ScaleFreeRule) -> None:
    rule.choices.weight[SIZE].zero_()
    rule.choices.bias[SIZE].zero_()


@torch.no_grad()
def without_whitening(rule: ScaleFreeRule) -> None:
    rule.choices.weight[WHITENED_SHARE].zero_()
    rule.choices.bias[WHITENED_SHARE].fill_(-50)


@torch.no_grad()
def without_tensor_features(places: tuple[int, ...], rule: ScaleFreeRule) -> None:
    rule.tensor_layer.weight[:, list(places)] = 0


@torch.no_grad()
def without_coordinate_features(places: tuple[int, ...], rule: ScaleFreeRule) -> None:
    rule.layer.weight_input[:, list(places)] = 0


def with_nothing_learned(rule: ScaleFreeRule) -> ScaleFreeRule:
    torch.manual_seed(0)
    return ScaleFreeRule(**rule.config)


def with_options(changes: dict[str, float], rule: ScaleFreeRule) -> ScaleFreeRule:
    changed = ScaleFreeRule(**{**rule.config, **changes})
    changed.load_state_dict(rule.state_dict())
    return changed


class Part(NamedTuple):
    """What is measured: an edit of the rule, and whether it is given the number of steps."""

    edit: Edit | None
    planned_steps: str | None = "horizon"


WHOLE = "all of it"
LAWS: dict[str, dict[str, float]] = {
    "full steps at first": {"caution": 0.0},
    "sizes within twice the first": {"growth": 2.0},
    "steps never shrink where gradients oppose": {"step_scale_fall": 0.0},
    "no brake on memorised data": {"braking": 0.0},
    "no natural size for small weights": {"natural_share": 0.0},
    "short runs as long ones": {"largest_scale": 1.0, "cautious_run": 0.0},
}
PARTS: dict[str, Part] = {
    WHOLE: Part(None),
    "nothing learned": Part(with_nothing_learned),
    "no outputs of the LSTM": Part(without_lstm),
    "no tensor's network": Part(without_tensor_network),
    "no learned sizes": Part(without_learned_sizes),
    **{f"tensor: not {name}": Part(partial(without_tensor_features, own)) for name, own in TENSOR_FEATURES.items()},
    **{
        f"LSTM: not {name}": Part(partial(without_coordinate_features, own))
        for name, own in COORDINATE_FEATURES.items()
    },
    "no whitening": Part(without_whitening),
    "without num_steps": Part(None, None),
    **{name: Part(partial(with_options, changes)) for name, changes in LAWS.items()},
}


def subject(source: str, part: Part) -> ScaleFreeRule:
    """The rule with a part taken out."""
    rule = load_rule(source)
    if not isinstance(rule, ScaleFreeRule):
        raise click.ClickException(f"only scale-free rules have these parts; got {rule.registry_name}, use {DEFAULT}")
    return (part.edit(rule) if part.edit is not None else None) or rule


def measured(source: str, tasks: list[str], names: list[str], horizon: int, students: int) -> list[dict[str, Any]]:
    """Rows of parts, the whole rule first, with all losses."""
    losses: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in names}
    for task in tasks:
        for name in names:
            own = PARTS[name]
            rule, planned = subject(source, own), own.planned_steps
            losses[name].append(losses_of(rule, task, horizon=horizon, students=students, planned_steps=planned))
        click.echo(f"{task}, {horizon} steps: done", err=True)
    rows: list[dict[str, Any]] = []
    for name in names:
        row: dict[str, Any] = {"part": name, "horizon": horizon, "students": students}
        for index, kind in enumerate(("train", "test")):
            ours, theirs = (np.array([pair[index] for pair in losses[key]]) for key in (WHOLE, name))
            row[kind] = Ratios.of(theirs, ours, cap=CAP_OF_LOG_RATIO).record() | {"losses": theirs.tolist()}
        rows.append(row)
    return rows


def table(content: dict[str, Any]) -> str:
    """Markdown of all that was measured."""
    lines = [
        f"# What each part of `{content['rule']}` buys",
        "",
        f"Written by `python -m scripts.experiments.default.ablate_default`, on {len(content['tasks'])} tasks of",
        f"`{content['suite']}`. Log ratios of losses, without the part over all of it, each student within",
        f"{CAP_OF_LOG_RATIO:g}: above 0 the part helps, .01 is one per cent. With 95 % intervals over students.",
        "",
        "| part | steps, students | training loss | test loss | tasks where it helps, harms for certain |",
        "|---|---|---|---|---|",
    ]
    for row in content["rows"]:
        if row["part"] != WHOLE:
            intervals = [task["interval"] for task in row["train"]["tasks"]]
            helps, harms = sum(low > 0 for low, _ in intervals), sum(high < 0 for _, high in intervals)
            cells = [row["part"], f"{row['horizon']:,}, {row['students']}", words(row["train"]), words(row["test"])]
            lines.append(f"| {' | '.join(cells)} | {helps}, {harms} of {len(intervals)} |")
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--rule", "source", default=DEFAULT, show_default=True)
@click.option("--suite", default="validation", show_default=True)
@click.option("--horizon", default=500, show_default=True)
@click.option("--only", multiple=True, type=click.Choice([name for name in PARTS if name != WHOLE]))
@click.option("--students", default=4, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=records.RESULTS / "default", show_default=True)
def main(source: str, suite: str, horizon: int, only: tuple[str, ...], students: int, out: Path) -> None:
    """Compare the rule with itself, parts taken out."""
    torch.set_num_threads(1)
    path, tasks = out / "ablation.json", list(load_suite(suite).tasks)
    before = json.loads(path.read_text()) if path.exists() else {}
    # Rows of other rules, or of before there were parts, are not kept.
    same = (before.get("rule"), before.get("suite")) == (source, suite) and all("part" in row for row in before["rows"])
    rows = measured(source, tasks, [WHOLE, *(only or list(PARTS)[1:])], horizon, students)
    new = {(row["part"], row["horizon"]) for row in rows}
    rows = [row for row in (before["rows"] if same else []) if (row["part"], row["horizon"]) not in new] + rows
    rows.sort(key=lambda row: (row["horizon"], list(PARTS).index(row["part"])))
    content = {"rule": source, "suite": suite, "tasks": tasks, "rows": rows}
    records.write(path, content)
    (out / "ablation.md").write_text(table(content))
    click.echo(table(content))


if __name__ == "__main__":
    main()
