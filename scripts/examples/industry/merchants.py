"""Imbalanced rows of many related tasks: merchants that are generated, and views of one real table.

Columns that all merchants share show fraud by patterns, of which each merchant has its own mixture; local columns tell
it too, but in a direction of the merchant's own, which no other merchant can know.
"""

import numpy as np

from l2l_opt.few_shot.base_models.tables import LabelledRows

SHARED, LOCAL, PATTERNS = 8, 4, 6


def generate_merchant(number: int, *, world: int = 0, rows: int = 3000) -> LabelledRows:
    """A merchant: 12 columns, each shifted, stretched and perhaps bent, and 3 to 8 % fraud.

    Args:
        number: of the merchant in its world.
        world: seed of the patterns of fraud, which all its merchants share.
        rows: how many.
    """
    patterns = np.random.default_rng(world).normal(size=(PATTERNS, SHARED))
    patterns *= 2.2 / np.linalg.norm(patterns, axis=1, keepdims=True)
    own = np.random.default_rng([world, number])
    share = own.uniform(0.03, 0.08)
    mixture = own.dirichlet(np.full(PATTERNS, 0.4))
    direction = own.normal(size=LOCAL)
    direction *= 1.8 / np.linalg.norm(direction)
    mixing = np.eye(SHARED) + 0.25 * own.normal(size=(SHARED, SHARED))
    fraud = own.uniform(size=rows) < share
    shared = own.standard_t(6, size=(rows, SHARED)) @ mixing / 1.2
    local = own.standard_t(6, size=(rows, LOCAL))
    shared[fraud] += patterns[own.choice(PATTERNS, size=int(fraud.sum()), p=mixture)]
    local[fraud] += direction * own.uniform(0.5, 1.5, size=(int(fraud.sum()), 1))
    columns = np.concatenate([shared, local], axis=1)
    bent = np.where(own.uniform(size=columns.shape[1]) < 0.3, np.sinh(columns / 2), columns)
    return LabelledRows(
        bent * own.lognormal(0, 1, columns.shape[1]) + own.normal(0, 3, columns.shape[1]), fraud.astype(int)
    )


def view_of_table(
    rows: np.ndarray, targets: np.ndarray, number: int, *, size: int = 3000, hidden: int = 3, noise: float = 0.5
) -> LabelledRows:
    """A task made of one table: some of its rows, some columns hidden, the others shifted, stretched and noisy.

    Args:
        rows: ``[all, columns]``.
        targets: ``[all]``, 1 for the rare class.
        number: of the view.
        size: rows of it.
        hidden: columns that are but noise.
        noise: added to each column, in deviations of its middle half.
    """
    own = np.random.default_rng([number, len(rows)])
    chosen = own.choice(len(rows), size=min(size, len(rows)), replace=False)
    low, high = np.quantile(rows, [0.25, 0.75], axis=0)
    spread = np.where(high > low, (high - low) / 1.35, rows.std(axis=0) + 1e-9)
    columns = np.arcsinh((rows[chosen] - np.median(rows, axis=0)) / spread)
    columns = columns + noise * own.normal(size=columns.shape)
    columns[:, own.choice(columns.shape[1], hidden, replace=False)] = own.normal(size=(len(chosen), hidden))
    moved = columns * own.lognormal(0, 1, columns.shape[1]) + own.normal(0, 3, columns.shape[1])
    return LabelledRows(moved, targets[chosen])
