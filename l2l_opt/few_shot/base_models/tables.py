"""Base models of rows: gradient boosting on other tables of the same columns, each wholly labelled.

Tables differ in their units and in how their columns show the rare class, so columns are encoded by each table's own
quartiles, and every model's output is left to the top-level learner to weigh.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from l2l_opt.few_shot.stacking import Predictions, standardised


@dataclass(frozen=True)
class LabelledRows:
    """Rows of one task, each column in units of its own.

    Attributes:
        rows: ``[rows, columns]``.
        targets: ``[rows]``, 1 for the rare class.
    """

    rows: np.ndarray
    targets: np.ndarray


def encode(rows: np.ndarray, unlabelled: np.ndarray) -> Tensor:
    """Columns less their median over their spread by quartiles, then asinh, so that a table's units do not matter.

    Returns:
        ``[rows, columns]``, float32, in -4 to 4.
    """
    low, middle, high = np.quantile(unlabelled, [0.25, 0.5, 0.75], axis=0)
    scaled = np.arcsinh((rows - middle) / np.maximum((high - low) / 1.35, 1e-9))
    return torch.from_numpy(scaled).float().clamp(-4, 4)


def fit_table_models(tables: Sequence[LabelledRows]) -> list[Any]:
    """Return a model of each table whose rows are all labelled: gradient boosting on encoded columns."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    models = []
    for table in tables:
        model = HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=8, learning_rate=0.1, random_state=0)
        models.append(model.fit(encode(table.rows, table.rows).numpy(), table.targets))
    return models


def log_odds(model: Any, rows: Tensor) -> Tensor:
    """Of the rare class, ``[rows]``."""
    p = np.clip(model.predict_proba(rows.numpy())[:, 1], 1e-6, 1 - 1e-6)
    return torch.from_numpy(np.log(p / (1 - p))).float()


def predictions_of_table(
    table: LabelledRows, models: Sequence[Any], *, unlabelled: np.ndarray | None = None
) -> Predictions:
    """Return what the top-level learner sees of a table: every model's log-odds, every column, and how far out it lies.

    Args:
        table: whose rows.
        models: of other tables.
        unlabelled: rows by which everything is standardised; the table's own where None.
    """
    pool = table.rows if unlabelled is None else unlabelled
    inputs = []
    for rows in (table.rows, pool):
        columns = encode(rows, pool)
        scores = torch.stack([log_odds(model, columns) for model in models], dim=1)
        inputs.append(torch.cat([scores, columns, columns.abs()], dim=1))
    return Predictions(standardised(*inputs), torch.from_numpy(table.targets).long())
