"""How much each antithetic pair counts."""

from types import SimpleNamespace

import pytest
import torch

from l2l_opt import NRES
from l2l_opt.meta_training.estimators import MetaLoss
from l2l_opt.meta_training.estimators.pairs import Pairs
from l2l_opt.rules import make_rule
from l2l_opt.tasks import make_task
from l2l_opt.tasks.mixture import make_tasks


def pairs_of(differences, families, shares=None):
    values = torch.tensor([[one, 0.0] for one in differences], dtype=torch.float64)
    return Pairs(
        values=values,
        losses=values.reshape(1, -1),
        shares=torch.ones(len(differences)).double() if shares is None else torch.tensor(shares).double(),
        directions=[{}] * len(differences),
        students=[SimpleNamespace(family=family) for family in families],
    )


def test_architectures_count_alike_whatever_their_losses_differ_by():
    small, large = make_task("quadratics:dim=2"), make_task("quadratics:dim=3")
    pairs = pairs_of([3.0, -4.0, 3e6, -4e6], [small, small, large, large])
    assert pairs.differences("none", learned=0).tolist() == [3.0, -4.0, 3e6, -4e6]
    assert pairs.differences("sign", learned=0).tolist() == [1, -1, 1, -1]
    even = pairs.differences("ranks", learned=0)
    torch.testing.assert_close(even, torch.tensor([2, -4, 2, -4]).double() / 3)


def test_pairs_that_have_learned_their_data_do_not_count_nor_change_what_others_count():
    family = make_task("quadratics:dim=2")
    pairs = pairs_of([3.0, -4.0, 1e6, 1.0], [family] * 4, shares=[0.5, 0.5, 1e-3, 0.02])
    torch.testing.assert_close(pairs.differences("ranks", learned=0.01), torch.tensor([1, -1.5, 0, 0.5]).double())
    assert pairs.differences("none", learned=0.01).tolist() == [3.0, -4.0, 0.0, 1.0]
    assert pairs_of([0.0, 0.0], [family] * 2).differences("ranks", learned=0).tolist() == [0.0, 0.0]


def test_a_balanced_meta_gradient_is_not_that_of_the_task_with_the_largest_losses():
    """One task wants a larger learning rate, and its losses are small; the other is past its best rate."""
    tasks = make_tasks("quadratics:dim=2,init_scale=0.001 + quadratics:dim=2,init_scale=1000.0", dtype=torch.float64)
    rule = make_rule("sgd", lr=0.02).double()

    def share_of_largest(**options):
        estimator = NRES(horizon=8, truncation_length=8, sigma=0.1, group_size=4, meta_loss=MetaLoss(), **options)
        students = estimator.init(rule, tasks, num_students=32, seed=0)
        with torch.no_grad():
            pairs = estimator.pairs(rule, students)
        slopes = estimator.slopes(pairs).square()
        largest = max(pairs.by_family().values(), key=lambda places: float(slopes[places].sum()))
        return float(slopes[largest].sum() / slopes.sum()), len(largest) / len(slopes)

    assert share_of_largest()[0] > 0.999
    share, expected = share_of_largest(balance="ranks")
    assert share == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("options", [{"balance": "rms"}, {"learned": 1.0}, {"learned": -0.1}, {"learned": "x"}])
def test_options_that_cannot_be(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must .* got .*use"):
        NRES(**options)
