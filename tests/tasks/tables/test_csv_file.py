"""CSV files as people have them."""

import gzip

import pytest

from l2l_opt.checks import DataNote
from l2l_opt.tasks.tables.csv_file import read_csv

EXPECTED = {"a": ["1", "2"], "b": ["x, y", "é"]}


def cells(frame):
    return {name: frame[name].tolist() for name in frame.columns}


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_separators_and_ends_of_lines(tmp_path, separator, end):
    lines = [separator.join(row) for row in (["a", '"b"'], [" 1 ", '"x, y"'], ["2", " é"])]
    (tmp_path / "t.csv").write_bytes((end.join(lines) + end).encode())
    frame = read_csv(tmp_path / "t.csv")
    assert cells(frame) == EXPECTED
    assert frame.index.tolist() == [2, 3]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("packed", [False, True])
def test_encodings_and_packing(tmp_path, encoding, packed):
    content = 'a,b\n1,"x, y"\n2,é\n'.encode(encoding)
    (tmp_path / "t").write_bytes(gzip.compress(content) if packed else content)
    assert cells(read_csv(tmp_path / "t")) == EXPECTED


@pytest.mark.parametrize("byte", [b"\xe9", b"\x80", b"\x81"])
def test_text_that_is_not_utf_8_is_read_with_a_note(tmp_path, byte):
    (tmp_path / "t.csv").write_bytes(b"a,b\n1," + byte + b"\n")
    with pytest.warns(DataNote, match="is not UTF-8 and was read as (cp1252|latin-1)"):
        frame = read_csv(tmp_path / "t.csv")
    assert frame["b"].tolist() == [byte.decode("latin-1" if byte == b"\x81" else "cp1252")]


def test_lines_are_those_of_the_file(tmp_path):
    (tmp_path / "t.csv").write_text('\n\na,b\n"1\n2",3\n\n4,\n5\n')
    frame = read_csv(tmp_path / "t.csv")
    assert frame.index.tolist() == [4, 7, 8]
    assert frame.isna().sum(axis=1).tolist() == [0, 0, 1]
    assert frame["b"].tolist()[:2] == ["3", ""]


def test_columns_without_a_name_get_one(tmp_path):
    (tmp_path / "t.csv").write_text(",a\n0,1\n")
    assert list(read_csv(tmp_path / "t.csv").columns) == ["column 1", "a"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a,a\n1,2\n", "names of their own"),
        (b"a,b\n1,2,3\n", "got 3 in line 2 .* has 2"),
        (b"\n\na,b\n1,2\n1,2,3\n", "got 3 in line 5"),
        (b'a,b\n"1,2\n', "must be CSV text"),
        (b"a,b\n\x00\x01,1\n", "must be CSV text; got other bytes"),
        (gzip.compress(b"a,b\n1,2\n" * 50, mtime=0)[:-9], "a packed table must be whole"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, content, words):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_csv(tmp_path / "t.csv")


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_nothing_is_no_columns(tmp_path, content):
    (tmp_path / "t.csv").write_bytes(content)
    assert read_csv(tmp_path / "t.csv").empty
