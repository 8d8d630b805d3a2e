"""Three tables of a hundred, a thousand and ten thousand rows."""

import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier

from l2l_opt.tasks.tables.generated_tables import TEST_ROWS, loans, patients, visitors


@pytest.mark.parametrize(
    ("table", "rows", "classes", "least"), [(loans, 100, 2, 0.6), (patients, 1000, 5, 0.4), (visitors, 10_000, 8, 0.7)]
)
def test_a_table_has_its_rows_and_can_be_learned(table, rows, classes, least):
    examples = table()
    assert examples.ranges == {"train": (0, rows), "test": (rows, rows + TEST_ROWS)}
    assert set(examples.targets[:rows].tolist()) == set(range(classes))
    known = examples.inputs[:rows]
    torch.testing.assert_close(known.std(0), torch.ones(known.shape[1], dtype=torch.float64))
    model = HistGradientBoostingClassifier(max_iter=40, random_state=0).fit(
        known[:2000], examples.targets[:rows][:2000]
    )
    score = model.score(examples.inputs[rows:], examples.targets[rows:])
    assert least < score < 0.95
