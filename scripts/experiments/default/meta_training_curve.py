"""Quality against meta-training time: the validation metrics of runs.

    python -m scripts.experiments.default.meta_training_curve runs/seed-1/choices runs/seed-2/choices
    python -m scripts.experiments.default.meta_training_curve runs/paper/mnist-lstm-paper --out results/paper/mnist
    python -m scripts.experiments.default.meta_training_curve --out results/paper/mnist        # draws it again

A metric is the mean over a run's own validation students of the logarithm of a final loss over the first, or of the
final loss where losses are not normalised; less is better. The fresh rule, at 0 hours, is named beside the curve, whose
hours are on a logarithmic axis. Writes meta-training.{json,png} to results/default or --out.
"""

import json
from pathlib import Path
from typing import Any

import click
import matplotlib

from l2l_opt.inspection.tensorboard.history import read_scalars
from scripts.experiments import records

matplotlib.use("Agg")

from matplotlib import pyplot


def curve_of(run: Path) -> dict[str, Any]:
    """Outer steps, hours of the core and validation metrics of one run, those of interrupted calls joined."""
    about = json.loads((run / "run.json").read_text())
    steps, metrics = read_scalars(run / "events")["validation/figure"]
    hours_a_step = about["minutes"] / 60 / about["outer_step"]
    return {
        "seed": about["options"]["seed"],
        "outer_steps": steps.tolist(),
        "hours": (steps * hours_a_step).round(3).tolist(),
        "validation": metrics.round(4).tolist(),
        "finished": about["finished"],
    }


@click.command()
@click.argument("runs", nargs=-1, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=records.RESULTS / "default", show_default=True)
def main(runs: tuple[Path, ...], out: Path) -> None:
    """Draw the validation metrics of RUNS against time, or those that are in --out where none is named."""
    if runs:
        records.write(out / "meta-training.json", {"curves": [curve_of(run) for run in runs]})
    elif not (out / "meta-training.json").exists():
        raise click.UsageError(f"RUNS must be named where --out has no meta-training.json; got none and {str(out)!r}")
    figure, axis = pyplot.subplots(figsize=(6.4, 4.4))
    for curve in json.loads((out / "meta-training.json").read_text())["curves"]:
        (_, *hours), (fresh, *learned) = curve["hours"], curve["validation"]
        axis.plot(hours, learned, marker="o", markersize=3, label=f"seed {curve['seed']}, fresh {fresh:.2f}")
        click.echo(
            f"seed {curve['seed']}: {learned[-1]:.3f} after {hours[-1]:.2f} hours, best {min(learned):.3f}, "
            f"fresh {fresh:.3f}"
        )
    axis.set_xscale("log")
    axis.set_xlabel("hours of one core")
    axis.set_ylabel("validation metric, less is better")
    axis.legend()
    axis.grid(alpha=0.25, which="both")
    figure.tight_layout()
    figure.savefig(out / "meta-training.png", dpi=110)


if __name__ == "__main__":
    main()
