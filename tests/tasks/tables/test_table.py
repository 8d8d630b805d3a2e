"""Reading a table and its labels."""

import pytest

from l2l_opt.checks import DataNote
from l2l_opt.tasks.tables.encoder import TableEncoder
from l2l_opt.tasks.tables.table import read_table
from tests.tasks.tables.tables import CSV, write


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


@pytest.mark.parametrize("labels", [["0", "0.0", "1"], ["1", "1.", "2.00"], ["-1", "-1.0", "3"]])
def test_whole_numbers_are_one_class_however_they_are_written(tmp_path, labels):
    table = read_table(write(tmp_path / "t.csv", "a,y\n" + "".join(f"1,{label}\n" for label in labels)), label="y")
    assert table.targets().tolist() == [0, 0, 1]
    assert table.classes == [str(int(float(label))) for label in labels[1:]]


@pytest.mark.parametrize("labels", [["02", "2"], ["+", "-"], ["none", "mild"]])
def test_other_labels_are_classes_as_they_are_written(tmp_path, labels):
    table = read_table(write(tmp_path / "t.csv", "a,y\n" + "".join(f"1,{label}\n" for label in labels)), label="y")
    assert table.classes == sorted(labels)


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
