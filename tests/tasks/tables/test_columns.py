"""What a cell means."""

import math

import pytest

from l2l_opt.tasks.tables.columns import Notation, as_word, is_code, is_like_a_number, notation_of, read_number


@pytest.mark.parametrize(
    ("cells", "notation", "numbers"),
    [
        (["1", "-2.5", "+3e2", ".5", "5."], Notation(), [1, -2.5, 300, 0.5, 5]),
        (["1,5", "2"], Notation(","), [1.5, 2]),
        (["1.234,5", "2"], Notation(","), [1234.5, 2]),
        (["0,123", "0,5"], Notation(","), [0.123, 0.5]),
        (["1,234", "5"], Notation(), [1234, 5]),
        (["1,234,567.8", "5"], Notation(), [1234567.8, 5]),
        (["1 234", "1'234.5"], Notation(), [1234, 1234.5]),
        (["$1,234.50", "-$3", "7"], Notation(".", "$"), [1234.5, -3, 7]),
        (["12,5 €", "-€ 5"], Notation(",", "€"), [12.5, -5]),
        (["5%", "6.5 %"], Notation(".", "%"), [5, 6.5]),
        (["\u22124"], Notation(), [-4]),
    ],
)
def test_numbers_as_people_write_them(cells, notation, numbers):
    assert notation_of(cells) == notation
    assert [read_number(cell, notation) for cell in cells] == numbers


@pytest.mark.parametrize(
    "cells", [["1,5", "2.5"], ["5%", "6"], ["$5", "€5"], ["3+"], ["1_000"], ["٣"], ["inf"], ["nan"]]
)
def test_what_is_not_written_in_one_way_has_no_notation(cells):
    assert notation_of(cells) is None


def test_a_cell_that_does_not_fit_a_notation_is_no_number():
    assert math.isnan(read_number("1,5"))
    assert math.isnan(read_number("1.5", Notation(",")))
    assert math.isnan(read_number("12", Notation(".", "%")))
    assert is_like_a_number("1,5")
    assert not is_like_a_number("3+")


def test_codes_and_kinds():
    assert [is_code(cell) for cell in ("02", "007", "0", "0.5", "20")] == [True, True, False, False, False]
    assert [as_word(cell) for cell in ("0.0", "-1.", "02", "1.50", "3+", "1e3")] == [
        "0",
        "-1",
        "02",
        "1.50",
        "3+",
        "1e3",
    ]
