"""Generated merchants and views of a table: fixed by their number, different from each other, learnable."""

import numpy as np
import torch
from sklearn.metrics import average_precision_score

from l2l_opt.few_shot.base_models.tables import fit_table_models, predictions_of_table
from scripts.examples.industry.merchants import generate_merchant, view_of_table


def test_a_merchant_is_fixed_by_its_number_and_world():
    one, again, other = generate_merchant(3), generate_merchant(3), generate_merchant(3, world=1)
    assert np.array_equal(one.rows, again.rows)
    assert not np.array_equal(one.rows, other.rows)
    assert one.rows.shape == (3000, 12)
    assert 0.02 < one.targets.mean() < 0.1


def test_models_of_other_merchants_say_something_of_a_new_one():
    models = fit_table_models([generate_merchant(number) for number in range(3)])
    merchant = generate_merchant(50)
    task = predictions_of_table(merchant, models)
    assert task.inputs.shape == (3000, 3 + 12 + 12)
    torch.testing.assert_close(task.inputs[:, 3:15].mean(0), torch.zeros(12), atol=0.1, rtol=0)
    scores = [average_precision_score(merchant.targets, task.inputs[:, place]) for place in range(3)]
    assert max(scores) > 1.5 * merchant.targets.mean()


def test_a_view_hides_columns_and_keeps_labels():
    random = np.random.default_rng(0)
    targets = (random.uniform(size=2000) < 0.1).astype(int)
    rows = random.normal(size=(2000, 5)) + 4 * targets[:, None]
    view = view_of_table(rows, targets, 0, size=500, hidden=2)
    assert view.rows.shape == (500, 5)
    apart = [abs(np.corrcoef(view.rows[:, place], view.targets)[0, 1]) for place in range(5)]
    assert sum(each > 0.3 for each in apart) == 3
