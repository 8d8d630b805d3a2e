"""Few labelled rows of real data: what `few-shot adapt` makes of them, beside scikit-learn's classifiers.

    python -m scripts.experiments.few_shot.measure_adapt

Breast cancer and wine (its third kind against the others) come with scikit-learn, Shuttle with river. For each of ten
seeds a stratified sample of 10, 30 or 100 rows, at least three of the class to be found, is learned from; PR-AUC is
that of all other rows. Settings are the command's defaults, chosen on other data (digits, iris, diabetes, generated).
Writes results/few_shot/adapt.json.
"""

import csv
import gzip
from importlib import resources
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from sklearn import datasets

from l2l_opt import load_rule
from l2l_opt.evaluation.statistics import mean_and_interval
from l2l_opt.few_shot.classifier.cross_validation import baselines, metrics
from l2l_opt.few_shot.classifier.ensemble import Settings, adapt_ensemble
from l2l_opt.tasks.tables.encoder import TableEncoder
from scripts.experiments import records

SIZES = (10, 30, 100)
LEAST = 3


def shuttle() -> tuple[np.ndarray, np.ndarray]:
    """49,097 rows of nine numbers, 7 % of them anomalies."""
    with resources.files("river.datasets").joinpath("shuttle.csv.gz").open("rb") as packed:
        lines = gzip.decompress(packed.read()).decode().splitlines()
    header, *rows = csv.reader(lines)
    values = np.array(rows, dtype=float)
    place = header.index("anomaly")
    return np.delete(values, place, axis=1), values[:, place].astype(int)


def tables() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name -> rows and labels, 1 for the class to be found."""
    columns, kinds = datasets.load_breast_cancer(return_X_y=True)
    wine, kind = datasets.load_wine(return_X_y=True)
    return {"breast cancer": (columns, 1 - kinds), "shuttle": shuttle(), "wine": (wine, (kind == 2).astype(int))}


def drawn(labels: np.ndarray, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to learn from and all others, stratified."""
    generator = np.random.default_rng([seed, size])
    wanted = [np.flatnonzero(labels == value) for value in (0, 1)]
    rare = max(LEAST, round(size * len(wanted[1]) / len(labels)))
    known = np.concatenate(
        [generator.choice(own, count, replace=False) for own, count in zip(wanted, (size - rare, rare), strict=True)]
    )
    return generator.permutation(known), np.setdiff1d(np.arange(len(labels)), known)


def encoded(columns: np.ndarray, known: np.ndarray) -> torch.Tensor:
    """All rows, by means and deviations of the known ones."""
    by_name: dict[str, list[Any]] = {str(place): columns[:, place].tolist() for place in range(columns.shape[1])}
    of_known: dict[str, list[Any]] = {name: [cells[row] for row in known] for name, cells in by_name.items()}
    return TableEncoder.fit(of_known).encode(by_name)


@click.command()
@click.option("--seeds", default=10, show_default=True)
@click.option("--rule", default="default-2", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=records.RESULTS / "few_shot", show_default=True)
def main(seeds: int, rule: str, out: Path) -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    update_rule = load_rule(rule)
    rows = []
    for name, (columns, labels) in tables().items():
        for size in SIZES:
            found: dict[str, list[dict[str, float]]] = {}
            for seed in range(seeds):
                known, others = drawn(labels, size, seed)
                inputs, targets = encoded(columns, known), torch.from_numpy(labels)
                ensemble = adapt_ensemble(
                    update_rule, inputs[known], targets[known], num_classes=2, settings=Settings(seed=seed)
                )
                predictions = {"adapted": ensemble.probabilities(inputs[others]).numpy()}
                for other, classifier in baselines().items():
                    classifier.fit(inputs[known].numpy(), labels[known])
                    predictions[other] = classifier.predict_proba(inputs[others].numpy())
                for who, probabilities in predictions.items():
                    found.setdefault(who, []).append(metrics(probabilities, labels[others], positive=1))
            row: dict[str, Any] = {"data": name, "examples": size, "seeds": seeds, "methods": {}}
            ours = [own["pr_auc"] for own in found["adapted"]]
            for who, own in found.items():
                values = [each["pr_auc"] for each in own]
                mean, interval = mean_and_interval(values)
                less, apart = mean_and_interval([a - b for a, b in zip(ours, values, strict=True)])
                row["methods"][who] = {
                    "pr_auc": mean,
                    "interval": list(interval),
                    "adapted_less_this": less,
                    "interval_of_that": list(apart),
                    "roc_auc": float(np.mean([each["roc_auc"] for each in own])),
                    "calibration_error": float(np.mean([each["calibration_error"] for each in own])),
                    "each": values,
                }
                click.echo(
                    f"{name} {size} {who}: {mean:.3f} ({interval[0]:.3f} to {interval[1]:.3f}), ours {less:+.3f}"
                )
            rows.append(row)
    records.write(out / "adapt.json", {"rule": rule, "rows": rows})


if __name__ == "__main__":
    main()
