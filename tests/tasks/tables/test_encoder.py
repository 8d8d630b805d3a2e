"""Tables as people have them: what kind a column is of is decided once, and a cell means the same in every file."""

import warnings

import pandas
import pytest
import torch

from l2l_opt.checks import DataNote
from l2l_opt.tasks.tables.encoder import TableEncoder
from l2l_opt.tasks.tables.table import read_table

CSV = "amount,kind,age,fraud\n1.5,a,30,no\n2,b,40,yes\n-3e2,a,50,no\n"


def write(path, text):
    path.write_text(text)
    return path


def fitted(rows, **roles):
    """The encoder of columns of text, and what it noted."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        encoder = TableEncoder.fit(pandas.DataFrame(rows), roles)
    return encoder, " ".join(str(note.message) for note in caught)


def test_a_table_is_read_by_column(tmp_path):
    table = read_table(write(tmp_path / "t.csv", CSV), label="fraud")
    assert {name: table.columns[name].tolist() for name in table.columns} == {
        "amount": ["1.5", "2", "-3e2"],
        "kind": ["a", "b", "a"],
        "age": ["30", "40", "50"],
    }
    encoder = TableEncoder.fit(table.columns)
    assert [encoder.values(table.columns[name]).tolist() for name in encoder.numbers] == [[1.5, 2, -300], [30, 40, 50]]
    assert encoder.words == {"kind": ["a", "b"]}
    assert table.classes == ["no", "yes"]
    assert table.targets().tolist() == [0, 1, 0]


def test_other_separators_and_numbered_classes(tmp_path):
    table = read_table(write(tmp_path / "t.csv", "a;b\n1;10\n2;9\n"), label="b")
    assert table.classes == ["9", "10"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,\n", ["every cell must have a value", "''", "line 2", "'b'"]),
        ("a,b\n1,2\n1,nan\n", ["every cell must have a value", "'nan'", "line 3", "'b'"]),
        ("a,c,b\n1,3,2\n1,2\n", ["as many cells as the header", "got 2 in line 3", "has 3"]),
        ("a,b\n1,inf\n", ["'inf'"]),
        ("a,b\n1,2,3\n", ["as many cells as the header", "got 3 in line 2", "has 2"]),
        ("a,b\n", ["a header and rows", "0 rows"]),
        ("", ["a header and rows"]),
        ("a,a\n1,2\n", ["names of their own"]),
        ("b\n1\n", ["other columns than its label"]),
        ('a,b\n"1,2\n', ["must be CSV text"]),
    ],
)
def test_bad_tables_are_refused_in_a_sentence(tmp_path, text, words):
    with pytest.raises(ValueError, match=" ") as caught:
        read_table(write(tmp_path / "t.csv", text), label="b")
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_missing_column_or_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="got 'fraude', use one of fraud, age, amount, kind"):
        read_table(write(tmp_path / "t.csv", CSV), label="fraude")
    with pytest.raises(FileNotFoundError, match="a table must exist"):
        read_table(tmp_path / "none.csv", label="x")


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


@pytest.mark.parametrize("cells", [["02", "10", "11"], ["007", "12", "007"], ["01234", "90210", "10001"]])
def test_codes_stay_text_with_a_note(cells):
    encoder, notes = fitted({"code": cells * 5})
    assert encoder.words == {"code": sorted(set(cells))}
    assert f"'{cells[0]}'" in notes
    with pytest.warns(DataNote, match="unknown words: 1"):
        assert encoder.encode({"code": [cells[0].lstrip("0")]}).sum() == 0


@pytest.mark.parametrize("cells", [["12kg", "13kg"], ["1_000", "2_000"], ["2020-01-05", "2020-01-06"]])
def test_words_that_begin_like_numbers_are_noted(cells):
    encoder, notes = fitted({"x": cells * 5})
    assert encoder.words == {"x": cells}
    assert f"column 'x' has '{cells[0]}' and is read as words, not numbers" in notes


def test_a_code_among_measured_numbers_is_refused():
    with pytest.raises(ValueError, match="got '05' in row 3, column 'age', mend it"):
        fitted({"age": [*map(str, range(20, 23)), "05", *(f"{row}.5" for row in range(20))]})


@pytest.mark.parametrize("name", ["zip", "ZIP code", "post_code"])
def test_postal_codes_are_no_numbers(name):
    encoder, _ = fitted({name: ["90210", "10001", "60601"] * 5})
    assert not encoder.numbers


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


@pytest.mark.parametrize("odd", ["12a", "1.5.2", "inf", "3,5", "about 7"])
def test_an_odd_cell_among_measured_numbers_is_refused_with_its_line(tmp_path, odd):
    rows = [f"{20 + 1.5 * row},{row % 2}" for row in range(30)]
    rows[6] = f'"{odd}",0'
    table = read_table(write(tmp_path / "t.csv", "\n".join(["age,y", *rows])), label="y")
    with pytest.raises(
        ValueError, match=f"got '{odd}' in line 8, column 'age', mend it, leave .* by --ignore or --words"
    ):
        TableEncoder.fit(table.columns)


@pytest.mark.parametrize(
    ("cells", "odd"), [(["5%", "6", "7%"], "6"), (["1,5", "2.5", "3,5"], "2.5"), (["$5", "€5", "$6"], "€5")]
)
def test_numbers_written_in_several_ways_are_refused(cells, odd):
    with pytest.raises(ValueError, match=f"must hold numbers written in one way; got '{odd}' in row 1"):
        fitted({"x": cells})


def test_a_cell_too_large_to_compute_with_is_refused():
    with pytest.raises(ValueError, match="column 'x' must hold numbers.* got '1e999' in row 1"):
        fitted({"x": ["1", "1e999", "3"]})


@pytest.mark.parametrize("first", [0, 1, 1000])
def test_rows_that_are_numbered_and_shuffled_are_ids(first):
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0)) + first
    encoder, note = fitted({"row": order.tolist(), "x": [number % 5 for number in range(24)]})
    assert encoder.ids == ["row"]
    assert "'row' (it numbers the rows)" in note
    # With gaps they may well be measured.
    encoder, _ = fitted({"row": (2 * order).tolist(), "x": [number % 5 for number in range(24)]})
    assert list(encoder.numbers) == ["row", "x"]


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


@pytest.mark.parametrize("labels", [["0", "0.0", "1"], ["1", "1.", "2.00"], ["-1", "-1.0", "3"]])
def test_whole_numbers_are_one_class_however_they_are_written(tmp_path, labels):
    table = read_table(write(tmp_path / "t.csv", "a,y\n" + "".join(f"1,{label}\n" for label in labels)), label="y")
    assert table.targets().tolist() == [0, 0, 1]
    assert table.classes == [str(int(float(label))) for label in labels[1:]]


@pytest.mark.parametrize("labels", [["02", "2"], ["+", "-"], ["none", "mild"]])
def test_other_labels_are_classes_as_they_are_written(tmp_path, labels):
    table = read_table(write(tmp_path / "t.csv", "a,y\n" + "".join(f"1,{label}\n" for label in labels)), label="y")
    assert table.classes == sorted(labels)


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
    ("labels", "classes", "note"),
    [
        (["Yes", "yes", "No", "yes "], ["No", "yes"], r"'yes' \(2\) and 'Yes' \(1\)"),
        (["big  dog", "Big dog", "big  dog", "cat"], ["big  dog", "cat"], r"'big  dog' \(2\) and 'Big dog' \(1\)"),
    ],
)
def test_labels_that_differ_by_case_or_blanks_are_one_class_with_a_note(tmp_path, labels, classes, note):
    rows = "".join(f"{number},{label}\n" for number, label in enumerate(labels))
    with pytest.warns(DataNote, match=f"one class: {note}"):
        table = read_table(write(tmp_path / "t.csv", f"a,y\n{rows}"), label="y")
    assert table.classes == classes


def test_labels_that_differ_by_nothing_else_stay_two_classes(tmp_path):
    assert read_table(write(tmp_path / "t.csv", "a,y\n1,m\n2,M\n"), label="y").classes == ["M", "m"]


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
