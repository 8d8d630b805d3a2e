"""Kinds of rule side by side: each from fresh weights, by the same recipe, for the same minutes of one core.

    python -m scripts.experiments.rules.compare_rules                                # all rules, 20 minutes, two seeds
    python -m scripts.experiments.rules.compare_rules --rule celo2 --on mixture --minutes 120 --seed 0

Half of the minutes, 10 at most, is truncated back-propagation, the rest is noise-reuse evolution, on a mixture of seven
families or on one family, with trainings of 250 steps. Students, windows and outer steps are planned from what they
take of the processor's own time, so that other programs do not count. A rule then takes the best size of its steps on
students of meta-training, one number for all tasks. It is evaluated on new students: what learned on the mixture on the
list `validation` (500 steps), what learned on a family on that family (250 steps), beside AdamW, Muon and the default.
A run is resumed where an earlier call has left it in --runs.

Writes RULE-ON-MINUTES-SEED.json, references-ON.json and README.md, the table of all that are there, to --out.
"""

import copy
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from l2l_opt import LearnedOptimizer
from l2l_opt.evaluation.statistics import even_log_ratios, stratified_interval
from l2l_opt.evaluation.suites import load_suite
from l2l_opt.meta_training.run import MetaTrainingRun
from l2l_opt.pretrained import DEFAULT
from l2l_opt.rules import UpdateRule
from l2l_opt.specialising.plan import Objective, PlannedStage, make_plan
from l2l_opt.specialising.selection import best_size, resized
from l2l_opt.specialising.stages import Stage
from l2l_opt.storage.named_rule import read_rule
from l2l_opt.storage.safetensors_file import digest
from l2l_opt.tasks.mixture import make_tasks
from scripts.experiments import records
from scripts.experiments.default.meta_train_default import FAMILIES
from scripts.experiments.specialise import measure_specialise
from scripts.experiments.tuned import Subjects, at_their_best, even, losses_of

FOLDER = records.RESULTS / "rules"
RULES = {
    "lstm": "lstm",
    "rnnprop": "rnnprop",
    "compact": "compact",
    "mlp": "mlp:hidden_size=32",
    "celo2": "celo2:output_scale=0.01",
    "tensor-lstm": "tensor-lstm",
    "scale-free": "scale-free",
}
OTHERS = (
    "fashion-mlp:side=8,hidden=32,activation=relu,batch_size=32",
    "clusters-mlp:hidden=32,layers=2,dim=12,classes=4",
)
MIXTURE = "mixture"
TASKS = {
    MIXTURE: " + ".join([*FAMILIES.values(), *OTHERS]),
    "gru": measure_specialise.FAMILIES["gru"],
    "autoencoder": measure_specialise.FAMILIES["autoencoder"],
}
"""What rules learn on: seven families that are on no list, or one."""
MOST_MINUTES = 10
"""Of truncated back-propagation, which gains nothing more in longer."""
HORIZON, LISTED_HORIZON = 250, 500
SEED = 60
"""Of the students that are reported."""
OWN_STUDENTS, LISTED_STUDENTS = 10, 4
TUNING_STUDENTS = 2
REPEATS = 9
"""Of a timed step, of which the middle one counts."""


def stages(minutes: float) -> tuple[Stage, Stage]:
    """Return what a rule is meta-trained by for so many minutes."""
    share = min(0.5, MOST_MINUTES / minutes)
    return (
        Stage("tbptt:clip_window=10", share, students=8, meta_lr=0.001, average_phi=0.9),
        Stage("nres:sigma=0.03,balance=ranks", 1 - share, meta_lr=0.002, most_outer_steps=4000),
    )


def learn(name: str, on: str, *, minutes: float, seed: int, folder: Path) -> tuple[UpdateRule, dict[str, Any]]:
    """Meta-train a rule in a folder, from where an earlier call has left it; the rule, and what it took."""
    tasks, objective = make_tasks(TASKS[on]), Objective(HORIZON, "train", seed)
    rule = read_rule(RULES[name], seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "plan.json"
    if not path.exists():
        plan = make_plan(
            rule, tasks, objective, minutes=minutes, stages=stages(minutes), say=click.echo, clock=time.process_time
        )
        path.write_text(json.dumps({"plan": [stage.record() for stage in plan], "seconds": {}}))
    record = json.loads(path.read_text())
    plan, taken = [PlannedStage(**stage) for stage in record["plan"]], dict[int, dict[str, int]]()
    for number, stage in enumerate(plan, start=1):
        trainer = objective.trainer(copy.deepcopy(rule), tasks, stage)
        options = stage.record() | {"rule": RULES[name], "task": TASKS[on], "seed": seed}
        run = MetaTrainingRun(
            folder / f"stage-{number}", trainer, options=options, card={}, resume=True, say=click.echo
        )
        if trainer.outer_steps_done < stage.outer_steps:
            began = time.process_time()
            ending = run.go(minutes=None, checkpoint_every=None, observers=[])
            spent = record["seconds"].get(str(number), 0.0)
            record["seconds"][str(number)] = spent + time.process_time() - began
            path.write_text(json.dumps(record))
            if ending.startswith("SIG"):
                raise SystemExit(1)
        taken[number] = {"done": trainer.outer_steps_done, "skipped": trainer.num_skipped}
        rule = trainer.best_rule()
    size = best_size(rule, tasks, objective) if "output_scale" in rule.config else 1.0
    return (resized(rule, size) if size != 1 else rule), record | {"size": size, "outer_steps": taken}


def evaluated_on(on: str) -> tuple[tuple[str, ...], int, int]:
    """Tasks, steps and students of each."""
    if on == MIXTURE:
        return load_suite("validation").tasks, LISTED_HORIZON, LISTED_STUDENTS
    return (TASKS[on],), HORIZON, OWN_STUDENTS


def references(on: str, out: Path) -> dict[str, Any]:
    """Losses of AdamW, Muon and the default on what rules that learn there are evaluated on, measured once."""
    place = out / f"references-{on}.json"
    source = place if place.exists() else FOLDER / place.name
    own: dict[str, Any] = json.loads(source.read_text())["losses"] if source.exists() else {}
    tasks, horizon, students = evaluated_on(on)
    for task in tasks:
        if task not in own:
            known = make_tasks(task)
            others = at_their_best(known, task, horizon=horizon, tuning_students=TUNING_STUDENTS, seed=SEED)
            subjects: Subjects = {DEFAULT: (read_rule(DEFAULT, seed=0), {})} | others
            own[task] = losses_of(subjects, known, horizon=horizon, students=students, seed=SEED)
            records.write(place, {"seed": SEED, "losses": own})
            click.echo(f"{task}: references done")
    return own


def costs(rule: UpdateRule) -> dict[str, float]:
    """Bytes of state a parameter, and nanoseconds of a step on one core, of a matrix of a million."""
    weight = torch.nn.Parameter(torch.randn(1000, 1000))
    weight.grad = torch.randn(1000, 1000)
    optimizer = LearnedOptimizer([weight], rule=rule, num_steps=1000)
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        optimizer.step()
        seconds.append(time.perf_counter() - began)
    state = rule.init_state({"weight": weight.detach()})
    held = sum(leaf.numel() * leaf.element_size() for leaf in state["weight"].values())
    return {"bytes": held / weight.numel(), "nanoseconds": 1e9 * float(np.median(seconds)) / weight.numel()}


def log_ratios(row: Mapping[str, Any], references: Mapping[str, Any], other: str, which: str) -> dict[str, Any] | None:
    """Mean over tasks of log(another's loss / the rule's), capped, its interval, and tasks at or below it."""
    own = references[row["on"]]
    names = [task for task in row["losses"] if other in own[task]]
    if not names:
        return None
    ours = np.stack([even(row["losses"][task], which) for task in names])
    theirs = np.stack([even(own[task][other], which) for task in names])
    each = even_log_ratios(theirs, ours)

    def statistic(theirs: np.ndarray, ours: np.ndarray) -> np.ndarray:
        return even_log_ratios(theirs, ours).mean(axis=-1)

    low, high = stratified_interval(statistic, theirs, ours, resamples=1999)
    return {"mean": float(each.mean()), "interval": (low, high), "ahead": int((each >= 0).sum()), "tasks": len(each)}


def page(rows: Mapping[str, dict[str, Any]], references: Mapping[str, Any]) -> str:
    """The table of all rows."""
    lines = [
        "# Kinds of rule, meta-trained alike",
        "",
        "Written by `python -m scripts.experiments.rules.compare_rules`: fresh weights, then half of the minutes of",
        f"one core, {MOST_MINUTES} at most, truncated back-propagation, the rest noise-reuse evolution, and one size",
        "of steps for all tasks. What learned on the *mixture* is evaluated on the list `validation`",
        f"({LISTED_HORIZON} steps, {LISTED_STUDENTS} students a task), what learned on a family",
        f"on itself ({HORIZON} steps, {OWN_STUDENTS} students). Gains are log ratios of another optimizer's loss over",
        "the rule's, each task within .7, with 95 % intervals: above 0 the rule is better. AdamW (warm-up, cosine) and",
        f"Muon (cosine) have their best learning rates. `{DEFAULT}` has learned for hours, on other tasks.",
        "",
        "| learned on | rule | core-minutes planned, taken, seed | over AdamW, training | at or below it | test "
        f"| over Muon, training | over `{DEFAULT}`, training | student-steps a second, both stages |",
        "|" + "---|" * 9,
    ]
    order = {name: place for place, name in enumerate(TASKS)}
    gains = {name: log_ratios(row, references, "adamw", "train") for name, row in rows.items()}
    for name, row in sorted(
        rows.items(),
        key=lambda one: (order[one[1]["on"]], one[1]["minutes"], -(gains[one[0]] or {"mean": 0.0})["mean"]),
    ):
        adamw, test = gains[name], log_ratios(row, references, "adamw", "test")
        muon, default = (log_ratios(row, references, other, "train") for other in ("muon", DEFAULT))
        ahead = "-" if adamw is None else f"{adamw['ahead']} of {adamw['tasks']}"
        cells = [
            row["on"],
            f"`{row['rule']}`",
            f"{row['minutes']:g}, {sum(row['seconds'].values()) / 60:.1f}, {row['seed']}",
            _words(adamw),
            ahead,
            _words(test),
        ]
        cells += [_words(muon), _words(default)]
        cells.append(", ".join(f"{_speed(stage):,.0f}" for stage in row["plan"]))
        lines.append(f"| {' | '.join(cells)} |")
    noted = [f"- `{name}`: {row['note']}." for name, row in rows.items() if "note" in row]
    lines += ["", "Rows of an earlier state of the rule:", "", *noted] if noted else []
    lines += ["", "| rule | weights | state, bytes a parameter | step, ns a parameter, one core |", "|---|---|---|---|"]
    for name in RULES:
        own = [row for row in rows.values() if row["rule"] == name]
        if own:
            # Other programs can only add to a time.
            held, step = own[0]["costs"]["bytes"], min(row["costs"]["nanoseconds"] for row in own)
            lines.append(f"| `{name}` | {own[0]['weights']:,} | {held:.1f} | {step:.1f} |")
    return "\n".join(lines) + "\n"


def _words(found: dict[str, Any] | None) -> str:
    if found is None:
        return "-"
    low, high = found["interval"]
    return f"{found['mean']:+.3f} ({low:+.3f} to {high:+.3f})"


def _speed(stage: Mapping[str, Any]) -> float:
    particles = 2 if stage["estimator"].startswith("nres") else 1
    return particles * stage["students"] * stage["truncation_length"] / stage["seconds_per_outer_step"]


def publish(out: Path) -> None:
    """Write the table of all that has been measured."""
    rows = {path.stem: json.loads(path.read_text()) for path in sorted(out.glob("*-[0-9]*.json"))}
    known = {on: references(on, out) for on in {row["on"] for row in rows.values()}}
    (out / "README.md").write_text(page(rows, known))


@click.command()
@click.option("--rule", "rules", multiple=True, type=click.Choice(list(RULES)), default=tuple(RULES), help="Which.")
@click.option("--on", "wheres", multiple=True, type=click.Choice(list(TASKS)), default=tuple(TASKS), help="Learned on.")
@click.option(
    "--minutes",
    type=click.FloatRange(0, 10_000, min_open=True),
    default=20.0,
    show_default=True,
    help="Of one core, for each.",
)
@click.option("--seed", "seeds", multiple=True, type=int, default=(0, 1), show_default=True)
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs/rules"), show_default=True)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=FOLDER, show_default="results/rules")
def main(
    rules: tuple[str, ...], wheres: tuple[str, ...], minutes: float, seeds: tuple[int, ...], runs: Path, out: Path
) -> None:
    """Meta-train kinds of rule alike, and compare them."""
    torch.set_num_threads(1)
    for on in wheres:
        tasks, horizon, students = evaluated_on(on)
        for seed in seeds:
            for name in rules:
                key = f"{name}-{on}-{minutes:g}-{seed}"
                rule, record = learn(name, on, minutes=minutes, seed=seed, folder=runs / key)
                how = {"horizon": horizon, "students": students, "seed": SEED}
                losses = {task: losses_of({name: (rule, {})}, make_tasks(task), **how)[name] for task in tasks}
                content = {"rule": name, "on": on, "minutes": minutes, "seed": seed, "losses": losses} | record
                content |= {"weights": sum(weight.numel() for weight in rule.parameters()), "costs": costs(rule)}
                records.write(out / f"{key}.json", content | {"digest": digest(dict(rule.named_parameters()))})
                publish(out)
                click.echo(f"{key}: done")


if __name__ == "__main__":
    main()
