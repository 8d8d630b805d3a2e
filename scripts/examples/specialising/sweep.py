"""A sweep over width, depth and dropout with an optimizer of one's own, everything counted.

    python -m scripts.examples.specialising.sweep
    python -m scripts.examples.specialising.sweep --data rows.csv --target price --minutes 10 --steps 2000

Needs no network. Without --data the table is generated. AdamW's learning rate is found in seven trials, which count as
the minutes of specialising do. Each optimizer sweeps at each length of --steps: whoever comes to a good loss in fewer
steps may train for fewer. Writes what came of it as JSON.
"""

import contextlib
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from l2l_opt import ModuleTask, specialise
from l2l_opt.pretrained import DEFAULT
from l2l_opt.registry import format_spec
from l2l_opt.tasks import make_task
from l2l_opt.tasks.data_files import data_digests
from scripts.examples.specialising import trainings as plain
from scripts.examples.specialising.trainings import adamw, learned, train, tune
from scripts.experiments import records

RANGES = {"hidden": "16..64", "layers": "1..3", "dropout": "0.0|0.1|0.2"}
"""What is swept, in the notation of tasks: the family that the rule is specialised on."""
NEAR = 1.01
"""A best model is as good as another's within one part in a hundred."""


def generate_rows(path: Path, *, rows: int = 3000, seed: int = 0) -> None:
    """Write a table of ten numbers and a price that hangs on them in bends and products, with noise."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 10))
    price = np.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] + np.abs(x[:, 3]) + 0.5 * x[:, 4:].sum(axis=1)
    price += 0.2 * random.normal(size=rows)
    header = ",".join([*(f"x{place}" for place in range(10)), "price"])
    np.savetxt(path, np.column_stack([x, price]), fmt="%.5f", delimiter=",", header=header, comments="")


def drawn(table: dict[str, Any], count: int, *, seed: int) -> list[tuple[dict[str, Any], ModuleTask]]:
    """Draw the configurations of the sweep, the same for every optimizer, with their families."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        own = {
            "hidden": round(16 * 4 ** random.uniform()),
            "layers": int(random.integers(1, 4)),
            "dropout": float(random.choice([0.0, 0.1, 0.2])),
        }
        found.append((own, make_task(format_spec("table-mlp", table | own))))
    return found


def swept(configurations: list[tuple[dict[str, Any], ModuleTask]], make: Any, *, steps: int, before: float) -> dict:
    """Train every configuration once.

    Args:
        configurations: of the sweep.
        make: of the optimizer.
        steps: of each training.
        before: seconds spent before the first training.
    """
    trainings = [train(family, make, steps=steps, seed=seed) for seed, (_, family) in enumerate(configurations)]
    held_out = [own.held_out for own in trainings]
    best = int(np.nanargmin(held_out))
    return {
        "steps": steps,
        "seconds_before": before,
        "seconds": before + sum(own.seconds for own in trainings),
        "best_held_out": held_out[best],
        "best": configurations[best][0],
        "mean_held_out": float(np.mean(held_out)),
        "mean_final_loss": float(np.mean([own.final_loss for own in trainings])),
        "held_out": held_out,
    }


def shortest(sweeps: list[dict], target: float) -> dict | None:
    """Find the sweep of fewest seconds whose best model is as good as the target; None where there is none."""
    good = [own for own in sweeps if own["best_held_out"] <= NEAR * target]
    return min(good, key=lambda own: own["seconds"], default=None)


def pays_from(ours: dict, theirs: dict) -> float | None:
    """How many seconds a training of AdamW must take for a sweep to be done sooner, its trials counted; None for never.

    Args:
        ours: the sweep of a rule.
        theirs: that of AdamW.
    """
    count = len(ours["held_out"])
    ratio = (ours["seconds"] - ours["seconds_before"]) / (theirs["seconds"] - theirs["seconds_before"])
    saved = count + len(plain.RATES) - count * ratio
    return ours["seconds_before"] / saved if saved > 0 else None


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=None, help="CSV file of your own.")
@click.option("--target", default="price", show_default=True, help="Its column that is learned.")
@click.option("--trainings", default=40, show_default=True, help="Configurations of the sweep.")
@click.option("--steps", "lengths", default=(500, 250), show_default=True, multiple=True, help="Of a training.")
@click.option("--minutes", default=10.0, show_default=True, help="Of specialising.")
@click.option("--rule", default=DEFAULT, show_default=True, help="To begin from.")
@click.option("--seed", default=0, show_default=True, help="Of configurations and of specialising.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=records.RESULTS / "specialise" / "sweep.json", help="JSON file."
)
def main(
    data: Path | None,
    target: str,
    trainings: int,
    lengths: tuple[int, ...],
    minutes: float,
    rule: str,
    seed: int,
    out: Path,
) -> None:
    """Specialise, sweep with each optimizer, and say how long each took to the best model."""
    torch.set_num_threads(1)
    data, out = data and data.resolve(), out.resolve()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        if data is None:
            data = Path("rows.csv")
            generate_rows(data)
        table = {"data": str(data), "target": target}
        task = format_spec("table-mlp", table | RANGES)
        began = time.process_time()
        mine = specialise(
            task,
            rule=rule,
            minutes=minutes,
            out="run",
            say=click.echo,
            horizon=min(lengths),
            seed=seed,
            seeds=4,
            baselines=(),
        )
        of_specialising = time.process_time() - began
        click.echo(mine.sentence)
        configurations = drawn(table, trainings, seed=seed)
        sweeps: dict[str, list[dict]] = {"adamw": [], rule: [], "specialised": []}
        for steps in lengths:
            tuned = tune([make_task(format_spec("table-mlp", table))], steps=steps, seed=seed)
            sweeps["adamw"].append(
                swept(configurations, adamw(tuned.rate), steps=steps, before=tuned.seconds) | {"rate": tuned.rate}
            )
            sweeps[rule].append(swept(configurations, learned(rule), steps=steps, before=0.0))
            sweeps["specialised"].append(swept(configurations, learned(mine.rule), steps=steps, before=of_specialising))
        digests = list(data_digests(task).values())
    best = min(own["best_held_out"] for own in sweeps["adamw"])
    chosen = {name: shortest(found, best) for name, found in sweeps.items()}
    pays = {
        name: None if own is None or chosen["adamw"] is None else pays_from(own, chosen["adamw"])
        for name, own in chosen.items()
        if name != "adamw"
    }
    for name, found in sweeps.items():
        for own in found:
            click.echo(
                f"{name}, {own['steps']} steps: best held-out loss {own['best_held_out']:.4f}, mean "
                f"{own['mean_held_out']:.4f}; {own['seconds']:.0f} s, of which {own['seconds_before']:.0f} before it"
            )
        own = chosen[name]
        taken = "not reached" if own is None else f"{own['seconds']:.0f} s"
        click.echo(f"{name}: time to a model as good as AdamW's best: {taken}")
    for name, seconds in pays.items():
        when = "never" if seconds is None else f"where a training under AdamW takes {seconds:.1f} s or more"
        click.echo(f"{name}: sooner than AdamW {when}")
    records.write(
        out,
        {
            "task": task,
            "data": digests,
            "specialised": {"gained": mine.gained, "sentence": mine.sentence, "seconds": of_specialising},
            "target": best,
            "seconds_to_best": {name: own and own["seconds"] for name, own in chosen.items()},
            "sooner_than_adamw_from_seconds_a_training": pays,
            "sweeps": sweeps,
        },
    )


if __name__ == "__main__":
    main()
