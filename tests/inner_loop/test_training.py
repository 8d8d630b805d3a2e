"""Whole trainings without a graph."""

import pytest
import torch

from l2l_opt.inner_loop.training import final_losses, training_losses
from l2l_opt.randomness import Stream
from tests.conftest import small_family, small_rule


def test_training_losses_do_not_depend_on_the_window():
    rule, family = small_rule("adam", lr=0.1).double(), small_family()
    options = {"numbers": range(2), "horizon": 23, "seed": 0, "stream": Stream.REPORTING}
    whole = training_losses(rule, family, **options, window_length=23)
    parts = training_losses(rule, family, **options, window_length=5)
    assert whole.shape == (23, 2)
    assert torch.equal(whole, parts)
    assert whole[-1].mean() < whole[0].mean()


def test_one_phi_a_student_runs_rules_side_by_side():
    family = small_family()
    options = {"numbers": [0, 0], "horizon": 12, "seed": 0, "stream": Stream.TUNING}
    rates = torch.tensor([0.01, 0.3], dtype=torch.float64)
    both = training_losses(small_rule("sgd"), family, phi={"log_lr": rates.log()}, **options)
    for index, rate in enumerate(rates.tolist()):
        alone = training_losses(small_rule("sgd", lr=rate), family, **{**options, "numbers": [0]})
        torch.testing.assert_close(both[:, index], alone[:, 0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("length", "expected"), [(5, slice(0, 5)), (100, slice(90, 100)), (1000, slice(900, 1000))])
def test_final_loss_is_the_mean_of_the_last_tenth_but_of_ten_at_least(length, expected):
    curve = torch.arange(float(length)).unsqueeze(1)
    torch.testing.assert_close(final_losses(curve), curve[expected].mean(dim=0))
