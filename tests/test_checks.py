"""The sentences that refuse values, and the options they are for."""

import math
from functools import partial
from typing import Annotated

import pytest
import torch

from l2l_opt.checks import (
    NotNegative,
    Positive,
    check_choices,
    check_finite,
    check_fractions,
    check_numbers,
    check_options,
    check_positive_integers,
    check_positive_numbers,
)
from l2l_opt.rules import make_rule


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2", None, math.nan, math.inf])
def test_what_is_no_positive_integer_is_refused(value):
    check_positive_integers(size=1)
    with pytest.raises(ValueError, match=r"size must be a positive integer; got .*, use e\.g\. size=7"):
        check_positive_integers(7, size=value)


@pytest.mark.parametrize("value", [True, False, "1", None, math.nan, math.inf, -math.inf, -1])
def test_what_is_no_number_in_its_range_is_refused(value):
    check_numbers(0, noise=0)
    check_positive_numbers(rate=10**400)
    check_fractions(0.9, beta=0)
    for check, words in (
        (partial(check_numbers, 0), "a number of 0 or more"),
        (partial(check_positive_numbers, 0.01), "a positive number"),
        (partial(check_fractions, 0.9), r"in \[0, 1\)"),
    ):
        with pytest.raises(ValueError, match=f"rate must (be|lie) {words}; got"):
            check(rate=value)


@pytest.mark.parametrize("spec", ["sgd:lr=True", "lstm:p=True", "rnnprop:beta=False", "scale-free:hidden_size=True"])
def test_rules_take_no_truth_values_for_numbers(spec):
    with pytest.raises(ValueError, match=r"must (be|lie) .*; got (True|False)"):
        make_rule(spec)


def test_options_are_checked_by_their_annotations():
    def build(
        first: str,
        *,
        hidden: int = 1,
        side: int | None = None,
        noise: NotNegative = 0.0,
        lr: Positive = 1.0,
        norm: Annotated[str, partial(check_choices, ("none", "layer"))] = "none",
        swapped: bool = True,
        name: str = "x",
    ) -> None: ...

    check_options(build, hidden=3, side=None, noise=0, lr=0.1, norm="layer", swapped=False, name="")
    for option, words in (
        ({"hidden": 0}, "hidden must be a positive integer; got 0"),
        ({"side": 0}, "side must be a positive integer; got 0"),
        ({"noise": -1}, "noise must be a number of 0 or more; got -1"),
        ({"lr": 0}, "lr must be a positive number; got 0"),
        ({"norm": "rms"}, "norm must be one of none, layer; got 'rms'"),
    ):
        with pytest.raises(ValueError, match=words):
            check_options(build, **option)


def test_gaps_in_data_are_counted():
    inputs = torch.zeros(6, 2, 2)
    check_finite(inputs=inputs, targets=torch.zeros(6, dtype=torch.long))
    inputs[2, 0, 1], inputs[4] = math.nan, math.inf
    with pytest.raises(ValueError, match=r"inputs must be finite; got NaN or infinity in 2 of 6 rows, .* row 2"):
        check_finite(inputs=inputs)
