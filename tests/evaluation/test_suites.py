"""Suites: what a file may hold, and the message for one that cannot be read."""

import pytest

from l2l_opt.evaluation import suites
from l2l_opt.evaluation.suites import Suite, load_suite


def test_a_file_names_a_task_a_line(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("# mine\n\n digits-mlp:hidden=8,layers=2  # wide\nquadratics + digits-mlp\n#quadratics\n")
    assert load_suite(path) == Suite(str(path), ("digits-mlp:hidden=8,layers=2", "quadratics + digits-mlp"))
    assert load_suite(str(path)).tasks == load_suite(path).tasks


def test_a_shipped_suite_goes_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(suites, "FOLDER", tmp_path)
    (tmp_path / "seen.txt").write_text("quadratics\n")
    assert load_suite("seen") == Suite("seen", ("quadratics",))
    assert suites.list_suites() == ["seen"]
    with pytest.raises(FileNotFoundError, match=r"got 'sean', use one of seen, or a text file"):
        load_suite("sean")


def test_where_no_suite_ships_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(suites, "FOLDER", tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"got 'validation', use one of \(none ship with this version\)"):
        load_suite("validation")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"# nothing\n", "must name at least one task; got none"),
        (b"quadratics\ndigits-mlp\nquadratics # again\n", "each task once; got 'quadratics' twice"),
        (b"\xff\xfe\x00", "must be UTF-8 text"),
    ],
)
def test_a_bad_file_is_named(tmp_path, content, message):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_suite(path)
