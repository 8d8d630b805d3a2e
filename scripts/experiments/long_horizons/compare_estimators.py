"""The compact rule after 15 minutes of tbptt-20, then 30 minutes of nres against 30 more of tbptt-20.

    python -m scripts.experiments.long_horizons.compare_estimators train --out runs/comparison   # 75 minutes
    python -m scripts.experiments.long_horizons.compare_estimators evaluate nres RULE            # and so for each
    python -m scripts.experiments.long_horizons.compare_estimators table

train takes one core; RULE is runs/comparison/nres/last.safetensors. evaluate trains validation students, of seeds and
architectures that meta-training never sees, for 200, 2,000 and 10,000 steps and writes
results/long_horizons/judged/NAME.json; table compares them.
"""

import json
import time
from pathlib import Path

import click
import numpy as np
import torch

from l2l_opt import load_rule
from l2l_opt.evaluation.statistics import mean_and_interval
from l2l_opt.inner_loop.training import final_losses, training_losses
from l2l_opt.randomness import Stream
from l2l_opt.rules import RULES, make_rule
from l2l_opt.tasks.mixture import make_tasks
from scripts.experiments import commands, records

ARCHITECTURE = "hidden=8..32,layers=1..3,activation=relu|tanh|sigmoid|gelu|silu|elu,batch_size=16..128"
TASK = f"digits-mlp:{ARCHITECTURE} + fashion-mlp:side=8,{ARCHITECTURE}"
COMMON = ["--task", TASK, "--horizon", "100..2000", "--staggered", "--meta-loss", "mean", "--normalisation", "log"]
COMMON += ["--clip-loss", "2", "--validate-every", "0", "--validation-horizon", "200"]
TBPTT = ["--estimator", "tbptt", "--truncation-length", "20", "--students", "8", "--group-size", "4"]
NRES = ["--estimator", "nres:sigma=0.01", "--truncation-length", "50", "--students", "16", "--group-size", "8"]
ANNEALED = ["--meta-lr-schedule", "cosine", "--seed", "1", "--minutes", "30"]
FOLDER = records.RESULTS / "long_horizons"
HORIZONS = (200, 2000, 10000)
STUDENTS, GROUP = 16, 4


@click.group()
def group() -> None:
    torch.set_num_threads(1)


@group.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/comparison"))
def train(out: Path) -> None:
    """The three meta-trainings, one after the other; a run that was killed goes on."""
    first = str(out / "first" / "last.safetensors")
    for name, rule, options in (
        ("first", "compact", [*TBPTT, "--outer-steps", "100000", "--minutes", "15"]),
        ("nres", first, [*NRES, *ANNEALED, "--outer-steps", "1900"]),
        ("tbptt", first, [*TBPTT, *ANNEALED, "--outer-steps", "3500"]),
    ):
        arguments = ["meta-train", "--rule", rule, *COMMON, *options, "--out", str(out / name), "--resume"]
        commands.run("l2l_opt.cli", *arguments)


@group.command()
@click.argument("name")
@click.argument("rule")
@click.option("--horizon", "horizons", type=int, multiple=True, default=HORIZONS)
def evaluate(name: str, rule: str, horizons: tuple[int, ...]) -> None:
    """Train validation students with RULE, an artefact or a registered name with its options."""
    update_rule = make_rule(rule) if rule.partition(":")[0] in RULES.names() else load_rule(rule)
    results = []
    for horizon in horizons:
        start = time.perf_counter()
        curves = training_losses(
            update_rule,
            make_tasks(TASK),
            numbers=range(STUDENTS),
            horizon=horizon,
            seed=0,
            stream=Stream.VALIDATION,
            group_size=GROUP,
        )
        final = final_losses(curves).double()
        diverged = ~torch.isfinite(final) | (final > curves[0])
        results.append(
            {
                "horizon": horizon,
                "initial_losses": curves[0].tolist(),
                "final_losses": [value if np.isfinite(value) else None for value in final.tolist()],
                "diverged": int(diverged.sum()),
                "seconds": time.perf_counter() - start,
            }
        )
        click.echo(f"{name} at {horizon}: mean final loss {float(final.mean()):.5f}, diverged {int(diverged.sum())}")
        card = getattr(update_rule, "card", None) or {}
        content = {"rule": name, "digest": card.get("digest"), "provenance": card.get("provenance"), "task": TASK}
        records.write(FOLDER / "judged" / f"{name}.json", {**content, "results": results})


@group.command()
def table() -> None:
    """Compare what was evaluated; intervals are bootstrapped over the same students."""
    evaluated = {path.stem: json.loads(path.read_text()) for path in sorted((FOLDER / "judged").glob("*.json"))}
    rows = []
    for name, record in evaluated.items():
        for result in record["results"]:
            final = _final_losses(result)
            against = _result(evaluated["tbptt"], result["horizon"])
            other = _final_losses(against)
            ratio, interval = mean_and_interval(np.log(final / other).tolist())
            rows.append(
                {
                    "rule": name,
                    "horizon": result["horizon"],
                    "mean_final_loss": float(final.mean()),
                    "mean_log_of_final_over_initial": float(np.log(final / np.array(result["initial_losses"])).mean()),
                    "diverged": result["diverged"],
                    "mean_log_ratio_to_tbptt": ratio,
                    "interval": list(interval),
                    "students_better_than_tbptt": int((final < other).sum()),
                }
            )
    records.write(FOLDER / "comparison.json", {"students": STUDENTS, "rows": rows})
    for row in sorted(rows, key=lambda row: (row["horizon"], row["mean_final_loss"])):
        click.echo(
            f"{row['horizon']:>6} {row['rule']:<12} mean final loss {row['mean_final_loss']:.6f}, "
            f"mean log(final / initial) {row['mean_log_of_final_over_initial']:.3f}, diverged {row['diverged']}, "
            f"log ratio to tbptt {row['mean_log_ratio_to_tbptt']:.3f} "
            f"({row['interval'][0]:.3f} to {row['interval'][1]:.3f}), better on {row['students_better_than_tbptt']}"
        )


def _final_losses(result: dict) -> np.ndarray:
    """Losses that float32 cannot distinguish from 0 count as its resolution."""
    final = np.array([np.inf if value is None else value for value in result["final_losses"]])
    return final.clip(min=float(np.finfo(np.float32).eps))


def _result(record: dict, horizon: int) -> dict:
    return next(result for result in record["results"] if result["horizon"] == horizon)


if __name__ == "__main__":
    group()
