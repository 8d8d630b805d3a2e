"""What an inspection writes: bytes of event files of 1,000 steps of 20 tensors, under a rule and all baselines.

    python -m scripts.experiments.inspection.measure_events

Writes results/inspection/events.json.
"""

import tempfile
from pathlib import Path

import click
import torch

from l2l_opt.evaluation.baselines.tuning import BASELINES, Tuning
from l2l_opt.inspection.tensorboard.dashboard import inspect_rule
from l2l_opt.pretrained import DEFAULT
from l2l_opt.storage.rule_file import load_rule
from l2l_opt.tasks.mixture import make_tasks
from scripts.experiments import records

TASK = "digits-mlp:hidden=16,layers=9"
"""Ten layers: 20 tensors."""
RATE = 0.01
"""Of every baseline; what is written does not depend on it."""


@click.command()
@click.option("--rule", default=DEFAULT, show_default=True)
@click.option("--horizon", default=1000, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=records.RESULTS / "inspection", show_default=True)
def main(rule: str, horizon: int, out: Path) -> None:
    """Inspect, and write the bytes of each run's folder."""
    torch.set_num_threads(1)
    baselines = [(own, Tuning(RATE, {RATE: 1.0})) for own in BASELINES]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = inspect_rule(
            load_rule(rule), make_tasks(TASK), task=TASK, horizon=horizon, seed=0, folder=folder, baselines=baselines
        )
        for run in runs:
            click.echo(f"{run.optimizer}: {run.final_loss:.4g}")
        sizes = {
            own.name: sum(path.stat().st_size for path in own.rglob("*") if path.is_file())
            for own in sorted(folder.iterdir())
        }
    click.echo(f"{sum(sizes.values()) / 1e6:.1f} MB in all")
    records.write(
        out / "events.json",
        {"rule": rule, "task": TASK, "horizon": horizon, "bytes": sizes, "bytes_in_all": sum(sizes.values())},
    )


if __name__ == "__main__":
    main()
