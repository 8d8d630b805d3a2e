"""Which rows are fraud? From 30 labelled rows of a merchant, many unlabelled ones, and models of other merchants.

    python -m scripts.examples.industry.fraud
    python -m scripts.examples.industry.fraud --others merchants --labelled mine.csv --label fraud --new new.csv

Needs no network. Without --labelled all merchants are generated. Tables of your own have columns of numbers alone, the
same in all; `--others` is a folder of at least ten of them, wholly labelled by 0 and 1.
"""

import csv
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

from l2l_opt.few_shot.base_models.tables import LabelledRows, fit_table_models, predictions_of_table
from l2l_opt.few_shot.self_training import SelfTraining, meta_learn_self_training
from l2l_opt.few_shot.stacking import Predictions, as_weights, draw_labelled
from l2l_opt.tasks.tables.encoder import TableEncoder
from l2l_opt.tasks.tables.table import read_table
from scripts.examples.industry.merchants import generate_merchant

NUM_MODELS = 6


def read_merchant(file: Path, label: str | None) -> LabelledRows:
    """Rows of a CSV file; all targets 0 where there is no label."""
    table = read_table(file, label=label)
    encoder = TableEncoder.fit(table.columns, dict.fromkeys(table.columns, "numbers"))
    rows = np.column_stack([encoder.values(table.columns[name]) for name in table.columns])
    if np.isnan(rows).any():
        raise click.UsageError(f"every cell must have a value; got an empty one in {file}, fill it in or leave it out")
    if label is not None and table.classes != ["0", "1"]:
        raise click.UsageError(f"labels must be 0 and 1, fraud; got {', '.join(table.classes)} in {file}, rename them")
    return LabelledRows(rows, np.zeros(len(rows), dtype=int) if label is None else table.targets().numpy())


def learn_from_others(others: list[LabelledRows], size: int, *, outer_steps: int) -> tuple[list, SelfTraining]:
    """Models of the first six merchants, and learners meta-learned on the rest, a quarter of them for validation."""
    models = fit_table_models(others[:NUM_MODELS])
    tasks = [predictions_of_table(merchant, models) for merchant in others[NUM_MODELS:]]
    kept = max(len(tasks) // 4, 1)
    learners = meta_learn_self_training(
        tasks[kept:], tasks[:kept], num_models=NUM_MODELS, support=size, outer_steps=outer_steps
    )
    return models, learners


@click.command()
@click.option("--others", type=click.Path(path_type=Path), default=None, help="Folder of other merchants' CSV files.")
@click.option("--labelled", type=click.Path(path_type=Path), default=None, help="CSV file of your labelled rows.")
@click.option("--label", default="label", show_default=True, help="Column of 0 and 1.")
@click.option("--new", type=click.Path(path_type=Path), default=None, help="CSV file of unlabelled rows.")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="CSV file of predictions.")
@click.option("--size", default=30, show_default=True, help="Labelled rows of the generated merchant.")
@click.option("--merchants", default=24, show_default=True, help="Other merchants that are generated.")
@click.option("--outer-steps", default=100, show_default=True, help="Of meta-learning.")
@click.option("--seed", default=0, show_default=True, help="Of the generated merchant.")
def main(
    others: Path | None,
    labelled: Path | None,
    label: str,
    new: Path | None,
    out: Path | None,
    size: int,
    merchants: int,
    outer_steps: int,
    seed: int,
) -> None:
    """Meta-learn, adapt with self-training, and say which rows are fraud."""
    torch.set_num_threads(1)
    own = [others, labelled, new]
    if any(own) and not all(own):
        raise click.UsageError("--others, --labelled and --new must be given together; got some alone, add the others")
    if others is not None and labelled is not None and new is not None:
        mine, asked = read_merchant(labelled, label), read_merchant(new, None)
        known = torch.arange(len(mine.rows))
        merchant = LabelledRows(np.concatenate([mine.rows, asked.rows]), np.concatenate([mine.targets, asked.targets]))
        all_others = [read_merchant(file, label) for file in sorted(others.glob("*.csv"))]
    else:
        merchant = generate_merchant(1000 + seed)
        all_others = [generate_merchant(number) for number in range(merchants)]
        known = draw_labelled(
            Predictions(torch.empty(0), torch.from_numpy(merchant.targets).long()),
            size,
            torch.Generator().manual_seed(seed),
        )
    if len(all_others) < NUM_MODELS + 4:
        raise click.UsageError(
            f"there must be at least {NUM_MODELS + 4} other merchants; got {len(all_others)}, add some"
        )
    models, learners = learn_from_others(all_others, len(known), outer_steps=outer_steps)
    task = predictions_of_table(merchant, models)
    rest = torch.tensor([row for row in range(len(merchant.rows)) if row not in set(known.tolist())])
    inputs, targets, unlabelled = task.inputs[known], task.targets[known], task.inputs[rest]
    trained = learners.learn(inputs, targets, unlabelled)
    print(f"batches of self-labelled examples accepted: {trained.accepted}")
    for place, weight in enumerate(trained.params["weights"][0, :NUM_MODELS].tolist()):
        print(f"stacking weight of the model of merchant {place}: {weight:.2f}")
    scores = learners.first.logits(trained.params, unlabelled.unsqueeze(0))[0].sigmoid()
    if new is not None:
        _write(out, scores)
        return
    alone = learners.first.learn(inputs.unsqueeze(0), as_weights(targets).unsqueeze(0))
    without = learners.first.logits(alone, unlabelled.unsqueeze(0))[0]
    _print_scores(unlabelled, task.targets[rest], {"the top level": without, "it with self-training": scores})


def _print_scores(inputs: Tensor, targets: Tensor, scores: dict[str, Tensor]) -> None:
    from sklearn.metrics import average_precision_score

    for place in range(NUM_MODELS):
        print(f"PR-AUC of the model of merchant {place}: {average_precision_score(targets, inputs[:, place]):.3f}")
    for name, own in scores.items():
        print(f"PR-AUC of {name}: {average_precision_score(targets, own):.3f}")


def _write(out: Path | None, scores: Tensor) -> None:
    rows = [(str(place + 1), f"{score:.6f}") for place, score in enumerate(scores.tolist())]
    if out is None:
        for row, score in rows:
            print(f"{row} {score}")
        return
    with open(out, "w", newline="", encoding="utf-8") as text:
        csv.writer(text).writerows([("row", "probability_fraud"), *rows])
    print(f"{len(rows)} predictions: {out}")


if __name__ == "__main__":
    main()
