"""What the default rule does outside its comfort: wrong or unknown num_steps, other scales, runs far too long.

    python -m scripts.experiments.default.measure_default planned --rule default-4 --suite seen
    python -m scripts.experiments.default.measure_default scales --rule default-4 --suite seen
    python -m scripts.experiments.default.measure_default long --rule default-4 --suite seen
    python -m scripts.experiments.default.measure_default against EVALUATION --rule default-4 --horizon 2000

EVALUATION is that of a suite, results/default/held-out/evaluation.json.

Each writes results/default/NAME-SUITE.json.
"""

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import click
import torch

from l2l_opt import load_rule
from l2l_opt.evaluation.runs import run_rule
from l2l_opt.evaluation.suites import load_suite
from l2l_opt.pretrained import DEFAULT
from l2l_opt.rules import UpdateRule, make_rule
from l2l_opt.storage.finite_json import finite
from l2l_opt.tasks.augmentation import LOSS_SCALE, SCALE, AugmentedFamily
from l2l_opt.tasks.base import TaskFamily
from l2l_opt.tasks.mixture import make_tasks
from l2l_opt.types import TaskData
from scripts.experiments import records

FOLDER = records.RESULTS / "default"
FACTORS = (2.0**10, 2.0**-10)


class ScaledFamily(AugmentedFamily):
    """``f'(theta') = c f(s theta')``: a loss times c, and one tensor that does not start at zero reparametrised by s.

    Args:
        family: the task.
        loss: c.
        tensor: s; every student has a tensor drawn for it.
    """

    def __init__(self, family: TaskFamily, *, loss: float = 1.0, tensor: float = 1.0):
        super().__init__(family)
        self.loss_factor, self.tensor_factor = loss, tensor

    def sample(self, generator: torch.Generator) -> TaskData:
        data = self.family.sample(generator)
        fresh = self.family.init_params(data, torch.Generator().manual_seed(0))
        candidates = [name for name, param in fresh.items() if param.any()]
        # What is drawn here must not change what the student draws.
        own = torch.Generator()
        own.set_state(generator.get_state())
        chosen = candidates[int(torch.randint(len(candidates), (), generator=own))]
        # A factor for every tensor, so that students whose chosen ones differ are one batch.
        factors = {
            SCALE + name: param.new_tensor(self.tensor_factor if name == chosen else 1.0)
            for name, param in fresh.items()
        }
        return data | factors | {LOSS_SCALE: fresh[chosen].new_tensor(self.loss_factor)}


def common(command: click.Command) -> click.Command:
    for option in (
        click.option("--rule", "rule_name", default=DEFAULT, show_default=True),
        click.option("--suite", default="seen", show_default=True),
        click.option("--seeds", default=5, show_default=True),
        click.option("--out", type=click.Path(path_type=Path), default=FOLDER, show_default=True),
    ):
        command = option(command)
    return command


def families(suite: str) -> Iterator[tuple[str, TaskFamily]]:
    for spec in load_suite(suite).tasks:
        yield spec, make_tasks(spec)


@click.group()
def group() -> None:
    torch.set_num_threads(1)


@group.command()
@common
@click.option("--horizon", "horizons", multiple=True, default=(500, 2000), show_default=True)
def planned(rule_name: str, suite: str, seeds: int, out: Path, horizons: tuple[int, ...]) -> None:
    """Final losses where num_steps is right, unknown, a third and three times, beside AdamW's defaults."""
    rule, rows = load_rule(rule_name), []
    for spec, family in families(suite):
        for horizon in horizons:
            planned: dict[str, int | None] = {
                "right": horizon,
                "unknown": None,
                "a third": horizon // 3,
                "three times": 3 * horizon,
            }
            losses = {name: _mean(rule, family, horizon, seeds, steps) for name, steps in planned.items()}
            losses["adamw defaults"] = _mean(make_rule("adamw:lr=0.001"), family, horizon, seeds, horizon)
            good = {
                name: losses[name] <= max(1.15 * losses["right"], losses["adamw defaults"])
                for name in ("unknown", "a third", "three times")
            }
            rows.append({"task": spec, "horizon": horizon, "losses": losses, "good": good})
            click.echo(f"{spec} {horizon}: " + ", ".join(f"{name} {loss:.4g}" for name, loss in losses.items()))
    total = {
        name: [sum(row["good"][name] for row in rows), len(rows)] for name in ("unknown", "a third", "three times")
    }
    click.echo(str(total))
    records.write(
        out / f"planned-{Path(suite).stem}.json", {"rule": rule_name, "seeds": seeds, "good": total, "rows": rows}
    )


@group.command()
@common
@click.option("--horizon", default=500, show_default=True)
def scales(rule_name: str, suite: str, seeds: int, out: Path, horizon: int) -> None:
    """Final losses with the loss, or a tensor that does not start at zero, times 2^10 and 2^-10."""
    rule, rows = load_rule(rule_name), []
    for spec, family in families(suite):
        right = _mean(rule, ScaledFamily(family), horizon, seeds, horizon)
        changes = {}
        for factor in FACTORS:
            power = f"2^{round(math.log2(factor))}"
            scaled = _mean(rule, ScaledFamily(family, loss=factor), horizon, seeds, horizon) / factor
            changes[f"loss {power}"] = scaled / right - 1
            scaled = _mean(rule, ScaledFamily(family, tensor=factor), horizon, seeds, horizon)
            changes[f"tensor {power}"] = scaled / right - 1
        rows.append({"task": spec, "loss": right, "changes": changes})
        click.echo(f"{spec}: {right:.4g}, " + ", ".join(f"{name} {change:+.2%}" for name, change in changes.items()))
    records.write(
        out / f"scales-{Path(suite).stem}.json", {"rule": rule_name, "seeds": seeds, "horizon": horizon, "rows": rows}
    )


@group.command()
@common
@click.option("--horizon", default=20_000, show_default=True)
@click.option("--longest", default=200_000, show_default=True, help="Of the two cheapest tasks.")
def long(rule_name: str, suite: str, seeds: int, out: Path, horizon: int, longest: int) -> None:
    """Divergences at ten times the meta-training horizon, and at a hundred times."""
    del seeds
    rule, rows = load_rule(rule_name), []
    for spec, family in families(suite):
        rows.append(_long_run(rule, spec, family, horizon))
    cheapest = sorted(rows, key=lambda row: row["seconds"])[:2]
    rows += [_long_run(rule, row["task"], make_tasks(row["task"]), longest) for row in cheapest]
    diverged = sum(row["diverged"] for row in rows)
    click.echo(f"diverged: {diverged} of {len(rows)}")
    records.write(out / f"long-{Path(suite).stem}.json", {"rule": rule_name, "diverged": diverged, "rows": rows})


@group.command()
@click.argument("evaluation", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--rule", "rule_name", default=DEFAULT, show_default=True)
@click.option("--horizon", default=2000, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=FOLDER, show_default=True)
def against(evaluation: Path, rule_name: str, horizon: int, out: Path) -> None:
    """Final losses on the students of an earlier evaluation, beside what it has of the baselines and of its rule."""
    content = json.loads(evaluation.read_text())
    rule, config, rows = load_rule(rule_name), content["protocol"], []
    earlier: dict[str, dict[str, float]] = {}
    for row in content["results"]:
        if row["horizon"] == horizon:
            earlier.setdefault(row["task"], {})[row["optimizer"]] = records.numbers([row["mean"]])[0]
    for spec, others in earlier.items():
        run = run_rule(rule, make_tasks(spec), horizon=horizon, num_seeds=config["seeds"], seed=config["seed"])
        losses = run.final_losses.double().tolist()
        rows.append(
            {"task": spec, "final_losses": losses, "mean": sum(losses) / len(losses), "earlier": finite(others)}
        )
        shown = f"{others['learned']:.4g} before, AdamW {others['adamw']:.4g}"
        click.echo(f"{spec} {horizon}: {rows[-1]['mean']:.4g}, {shown}")
    wins = {
        name: [sum(row["mean"] <= others[name] for row, others in runs), len(runs)]
        for name in dict.fromkeys(name for others in earlier.values() for name in others)
        if (runs := [(row, earlier[row["task"]]) for row in rows if name in earlier[row["task"]]])
    }
    click.echo(f"at or below: {wins}")
    records.write(
        out / f"against-{horizon}.json", {"rule": rule_name, "horizon": horizon, "at_or_below": wins, "rows": rows}
    )


def _long_run(rule: UpdateRule, spec: str, family: TaskFamily, horizon: int) -> dict:
    start = time.perf_counter()
    run = run_rule(rule, family, horizon=horizon, num_seeds=1, seed=0)
    first, last = float(run.curves[0].mean()), float(run.final_losses.mean())
    row = {"task": spec, "horizon": horizon, "first_loss": first, "final_loss": last, "worst": float(run.curves.max())}
    row |= {"diverged": not last <= 1.2 * first, "seconds": time.perf_counter() - start}
    click.echo(f"{spec} {horizon}: {first:.4g} to {last:.4g}{', DIVERGED' if row['diverged'] else ''}")
    return row


def _mean(rule: UpdateRule, family: TaskFamily, horizon: int, seeds: int, steps: int | None) -> float:
    """The mean final loss over the reporting students of a rule that is given ``steps``."""
    run = run_rule(rule, family, horizon=horizon, num_seeds=seeds, seed=0, planned_steps=steps)
    return float(run.final_losses.double().mean())


if __name__ == "__main__":
    group()
