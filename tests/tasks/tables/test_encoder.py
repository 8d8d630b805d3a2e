"""Tables as people have them: what kind a column is of is decided once, and a cell means the same in every file."""

import pandas
import pytest
import torch

from l2l_opt.checks import DataNote
from l2l_opt.tasks.tables.encoder import TableEncoder
from l2l_opt.tasks.tables.table import read_table
from tests.tasks.tables.tables import CSV, fitted, write


def test_columns_are_standardised_and_words_are_inputs(tmp_path):
    table = read_table(write(tmp_path / "t.csv", CSV), label="fraud")
    encoder = TableEncoder.fit(table.columns)
    inputs = encoder.encode(table.columns)
    assert inputs.shape == (3, encoder.num_inputs) == (3, 4)
    torch.testing.assert_close(inputs[:, :2].mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(inputs[:, :2].std(0, correction=0), torch.ones(2))
    assert inputs[:, 2:].tolist() == [[1, 0], [0, 1], [1, 0]]
    with pytest.warns(DataNote, match="cells of unknown words: 1 in 'kind'"):
        unseen = encoder.encode({"amount": [0.0], "kind": ["c"], "age": [1.0]})
    assert unseen[0, 2:].tolist() == [0, 0]


def test_far_values_are_compressed_and_constant_columns_that_are_asked_for_are_zero():
    encoder = TableEncoder.fit({"a": [*map(float, range(20)), 1e9], "b": [3.0] * 21}, {"b": "numbers"})
    inputs = encoder.encode({"a": [1e12], "b": [3.0]})
    assert inputs[0, 0].abs() < 20
    assert inputs[0, 1] == 0


def test_encoding_refuses_what_does_not_fit():
    encoder = TableEncoder.fit({"a": [1.0, 2.0], "k": ["x", "y"]})
    with pytest.raises(ValueError, match="got none named 'k'"):
        encoder.encode({"a": [1.0]})
    with pytest.raises(ValueError, match="column 'a' must hold numbers alone; got 'word'"):
        encoder.encode({"a": ["1", "word"], "k": ["x", "y"]})
    with (
        pytest.warns(DataNote, match="left out.*'k'"),
        pytest.raises(ValueError, match="or of words that repeat; got 'k'"),
    ):
        TableEncoder.fit({"k": [f"x{n}" for n in range(60)]})


@pytest.mark.parametrize(
    ("cells", "word"),
    [(["1", "2", "3+"], "2"), (["1", "2", "4 or more"], "1"), (["0", "1", "A"], "0")],
)
def test_a_cell_means_the_same_whatever_other_rows_a_file_has(cells, word):
    encoder, notes = fitted({"rooms": cells * 5})
    assert encoder.words == {"rooms": sorted(cells)}
    assert f"column 'rooms' has '{cells[2]}' beside '{cells[0]}' and is read as words, not numbers" in notes
    alone = encoder.encode({"rooms": [word]})
    assert torch.equal(alone[0], encoder.encode({"rooms": [cells[2], word]})[1])
    assert torch.equal(alone, encoder.encode({"rooms": [float(word)]}))
    assert alone.sum() == 1


@pytest.mark.parametrize("gap", ["", "NA", "?", "null", "-", "#N/A", "NaN", None, float("nan")])
def test_a_cell_without_a_value_destroys_no_column(gap):
    numbers = [str(20 + 1.5 * row) for row in range(30)]
    encoder, _ = fitted({"age": [*numbers, gap], "kind": [*"abcab" * 6, gap]})
    assert list(encoder.numbers) == ["age"]
    assert encoder.words == {"kind": ["a", "b", "c"]}
    with pytest.warns(DataNote, match="cells without a value, .*: 1 in 'age', 1 in 'kind'"):
        inputs = encoder.encode({"age": [gap, "20"], "kind": [gap, "a"]})
    assert inputs.tolist() == [[0, 0, 0, 0], [pytest.approx(inputs[1, 0]), 1, 0, 0]]
    complete, _ = fitted({"age": numbers})
    assert complete.numbers["age"] == encoder.numbers["age"]


@pytest.mark.parametrize(
    ("cells", "note", "numbers"),
    [
        (["1,5", "2", "-3,25"], "a decimal comma: '1,5' as 1.5", [1.5, 2, -3.25]),
        (["1,234", "5", "2,000"], "'1,234' as 1234", [1234, 5, 2000]),
        (["$5", "$1,000.50", "7"], "the unit $: '$5' as 5", [5, 1000.5, 7]),
        (["5%", "6.5%", "7 %"], "the unit %: '5%' as 5", [5, 6.5, 7]),
    ],
)
def test_numbers_as_people_write_them_are_read_with_a_note(cells, note, numbers):
    encoder, notes = fitted({"x": cells})
    assert f"column 'x' is read as numbers{' with ' if note[0] != chr(39) else ''}" in notes
    assert note in notes
    assert encoder.values(pandas.Series(cells, name="x")).tolist() == numbers
    again = TableEncoder(**{key: getattr(encoder, key) for key in ("numbers", "words", "notations", "ids")})
    assert torch.equal(again.encode({"x": cells[:1]}), encoder.encode({"x": cells})[:1])


def test_a_cell_too_large_to_compute_with_is_refused():
    with pytest.raises(ValueError, match="column 'x' must hold numbers.* got '1e999' in row 1"):
        fitted({"x": ["1", "1e999", "3"]})


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("column 1", [str(row) for row in range(30)]),
        ("PassengerId", [str(7 * row % 31) for row in range(1, 31)]),
        ("customer_id", [f"C{row:03}" for row in range(30)]),
        ("id", [str(1000 - 3 * row) for row in range(30)]),
    ],
)
def test_ids_are_left_out_named_and_kept_for_predictions(name, cells):
    encoder, notes = fitted({name: cells, "x": ["1.5", "2"] * 15})
    assert encoder.columns == ["x"]
    assert encoder.ids == [name]
    assert f"'{name}'" in notes


def test_free_text_and_empty_columns_are_left_out_and_named():
    text = [f"a long sentence about the row of number {row}, as people write them" for row in range(20)]
    encoder, notes = fitted({"about": text, "nothing": ["", "NA"] * 10, "x": ["1", "2"] * 10})
    assert encoder.columns == ["x"]
    assert encoder.ids == []
    assert "'about' (names or text, nearly all different), 'nothing' (no values)" in notes


def test_the_user_sets_what_a_column_is():
    rows = {"a": ["1", "2"] * 10, "b": [str(row) for row in range(20)], "c": ["x", "y"] * 10, "d": ["7", "8"] * 10}
    encoder, notes = fitted(rows, a="words", b="numbers", c="ignore", d="id")
    assert (list(encoder.words), list(encoder.numbers), encoder.ids, notes) == (["a"], ["b"], ["d"], "")
    with pytest.raises(ValueError, match="a column must be in the table; got 'e' to be an id, use one of a, b, c, d"):
        fitted(rows, e="id")
    with pytest.raises(ValueError, match="kind of column 'a' must be one of numbers, words, id, ignore; got 'text'"):
        fitted(rows, a="text")


def test_of_many_words_the_frequent_ones_are_used():
    cells = [f"w{number % 60}" for number in range(130)]
    encoder, notes = fitted({"k": cells})
    assert len(encoder.words["k"]) == 50
    assert {f"w{number}" for number in range(10)} < set(encoder.words["k"])
    assert "column 'k' has 60 words, of which the 50 most frequent are used" in notes


@pytest.mark.parametrize("cells", [[3.0] * 4, ["7", "7.0", "", "7"], ["x", "x", "x", "x"], [True] * 4])
def test_a_constant_column_is_left_out_by_name(cells):
    table = {"a": [1.0, 2.5, 2.5, 4.0], "b": cells}
    with pytest.warns(DataNote, match=f"left out, unless named as numbers or words: 'b' .always '{cells[0]}'."):
        encoder = TableEncoder.fit(table)
    assert encoder.columns == ["a"]
    assert encoder.ids == []
    assert encoder.encode({"a": [1.0]}).shape == (1, 1)
    assert TableEncoder.fit(table, {"b": "words"}).columns == ["a", "b"]


def test_a_word_that_is_there_or_not_is_no_constant():
    assert TableEncoder.fit({"a": [1.0, 2.5, 4.0], "b": ["x", "", "x"]}).columns == ["a", "b"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"Amount": [1.0], "k": ["x"]}, "got none named 'amount', did you mean 'Amount'[?] rename it, or add it"),
        ({"k": ["x"]}, "got none named 'amount', add it, with empty cells .*--ignore"),
        ({}, "got none named 'amount', 'k', add it"),
    ],
)
def test_a_missing_column_is_named_with_the_way_out(columns, message):
    encoder = TableEncoder.fit({"amount": [1.0, 2.5], "k": ["x", "y"]})
    with pytest.raises(ValueError, match=message):
        encoder.encode(columns)


@pytest.mark.parametrize(("role", "shown"), [("ignore", "left out"), ("id", "an id")])
def test_an_unknown_column_is_answered_with_the_nearest_first(role, shown):
    with pytest.raises(ValueError, match=f"got 'Amont' to be {shown}, use one of amount, kind"):
        TableEncoder.fit({"kind": [1.0, 2.5], "amount": ["x", "y"]}, {"Amont": role})
