"""Suites: what a file may hold, and the message for one that cannot be read."""

import pytest

from l2l_opt.evaluation import suites
from l2l_opt.evaluation.suite import configs_of
from l2l_opt.evaluation.suites import Suite, load_suite
from l2l_opt.evaluation.task import SuiteConfig


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


def test_a_task_may_name_the_horizons_that_it_is_for(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("quadratics @ 500\ndigits-mlp:hidden=8  @ 2000 500  # both\niris-mlp\n")
    suite = load_suite(path)
    assert suite.tasks == ("quadratics", "digits-mlp:hidden=8", "iris-mlp")
    assert suite.horizons == {"quadratics": (500,), "digits-mlp:hidden=8": (2000, 500)}
    assert suite.own_horizons == (500, 2000)
    assert [suite.horizons_of(task, (20, 2000)) for task in suite.tasks] == [(), (2000,), (20, 2000)]
    configs = configs_of(suite, SuiteConfig(horizons=(20, 2000)))
    assert {task: config.horizons for task, config in configs.items()} == {
        "digits-mlp:hidden=8": (2000,),
        "iris-mlp": (20, 2000),
    }
    with pytest.raises(ValueError, match="that some task of one is meant for; got .20., use 500"):
        configs_of(Suite("one", ("quadratics",), {"quadratics": (500,)}), SuiteConfig(horizons=(20,)))


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
        (b"quadratics @ 0\n", "horizons must be positive integers; got 'quadratics @ 0'"),
    ],
)
def test_a_bad_file_is_named(tmp_path, content, message):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_suite(path)
