"""What each part of the default rule buys: its final losses on validation tasks with one part taken out at a time.

    python -m scripts.experiments.default.ablate_default --rule default-4
    python -m scripts.experiments.default.ablate_default --rule default-4 --retrained runs/no-lstm/rule.safetensors

Parts are taken out of the meta-trained rule by its weights, without meta-training anew; rules that were meta-trained
without a part may be named beside it. Writes results/default/ablation.json.
"""

from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch

from l2l_opt import load_rule
from l2l_opt.evaluation.runs import run_rule
from l2l_opt.evaluation.statistics import mean_and_interval
from l2l_opt.evaluation.suites import load_suite
from l2l_opt.pretrained import DEFAULT
from l2l_opt.rules import UpdateRule
from l2l_opt.rules.scale_free.rule import BRIEF, NUM_OUTPUTS, ScaleFreeRule
from l2l_opt.tasks.mixture import make_tasks
from scripts.experiments import records

FLOOR = 1e-6
"""Of the first loss: what lies below counts as that."""
SIZE, WHITENED_SHARE, POWER = -3, -2, -1
"""Their places among a tensor's heads."""


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
def without_learning(rule: ScaleFreeRule) -> None:
    without_lstm(rule)
    without_tensor_network(rule)


@torch.no_grad()
def with_adams_direction_alone(rule: ScaleFreeRule) -> None:
    """Neither learned nor whitened, m / r throughout: Adam in steps relative to each tensor's size, with a cosine."""
    without_learning(rule)
    without_whitening(rule)
    rule.choices.bias[POWER].fill_(-50)


def with_full_steps_at_first(rule: ScaleFreeRule) -> None:
    rule.caution = 0.0


def with_little_growth(rule: ScaleFreeRule) -> None:
    rule.growth = 2.0


PARTS: dict[str, tuple[Callable[[ScaleFreeRule], None] | None, str | None]] = {
    "all of it": (None, "horizon"),
    "without the LSTM's outputs": (without_lstm, "horizon"),
    "without learned sizes": (without_learned_sizes, "horizon"),
    "without the tensor's network": (without_tensor_network, "horizon"),
    "without whitening": (without_whitening, "horizon"),
    "without num_steps": (None, None),
    "full steps at first": (with_full_steps_at_first, "horizon"),
    "growth of 2": (with_little_growth, "horizon"),
    "nothing learned": (without_learning, "horizon"),
    "nothing learned, no whitening": (with_adams_direction_alone, "horizon"),
}


@click.command()
@click.option("--rule", "source", default=DEFAULT, show_default=True)
@click.option("--retrained", multiple=True, help="Another artefact, evaluated as it is.")
@click.option("--suite", default="validation", show_default=True)
@click.option("--horizon", "horizons", multiple=True, default=(500, 2000), show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=records.RESULTS / "default", show_default=True)
def main(source: str, retrained: tuple[str, ...], suite: str, horizons: tuple[int, ...], seeds: int, out: Path) -> None:
    """Compare the rule with itself, parts taken out."""
    torch.set_num_threads(1)
    subjects: dict[str, tuple[UpdateRule, str | None]] = {}
    for name, (edit, planned) in PARTS.items():
        rule = load_rule(source)
        if not isinstance(rule, ScaleFreeRule):
            raise click.ClickException(
                f"only scale-free rules have these parts; got {rule.registry_name}, use default-4"
            )
        if edit is not None:
            edit(rule)
        subjects[name] = rule, planned
    subjects |= {path: (load_rule(path), "horizon") for path in retrained}
    losses: dict[tuple[str, int], list[list[float]]] = {}
    for spec in load_suite(suite).tasks:
        family = make_tasks(spec)
        for horizon in horizons:
            for name, (rule, planned) in subjects.items():
                run = run_rule(rule, family, horizon=horizon, num_seeds=seeds, seed=0, planned_steps=planned)
                floor = FLOOR * run.curves[0].double()
                final = run.final_losses.double().nan_to_num(nan=float("inf")).clamp(min=floor, max=floor * 1e8)
                losses.setdefault((name, horizon), []).append(final.tolist())
            click.echo(f"{spec}, {horizon} steps: done", err=True)
    rows = []
    for horizon in horizons:
        whole = np.array(losses["all of it", horizon])
        for name in subjects:
            ratios = np.log(np.array(losses[name, horizon]) / whole).mean(axis=1)
            mean, interval = mean_and_interval(ratios.tolist())
            row = {
                "horizon": horizon,
                "rule": name,
                "ratio": float(np.exp(mean)),
                "interval": np.exp(interval).tolist(),
            }
            rows.append(row | {"losses": losses[name, horizon]})
            low, high = row["interval"]
            click.echo(f"{horizon:>6} {name:<32} {row['ratio']:.3f} ({low:.3f} to {high:.3f}) times the final loss")
    tasks = list(load_suite(suite).tasks)
    records.write(out / "ablation.json", {"rule": source, "suite": suite, "tasks": tasks, "seeds": seeds, "rows": rows})


if __name__ == "__main__":
    main()
