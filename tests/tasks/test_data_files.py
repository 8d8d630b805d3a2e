"""A user's own files are found, known again, and named in words where they are not there."""

import pytest

from l2l_opt.registry import format_spec, parse_spec
from l2l_opt.tasks import make_task
from l2l_opt.tasks.data_files import data_digests
from l2l_opt.tasks.mixture import TaskMixture, make_tasks
from tests.own_data import write_rows, write_texts

AWKWARD = ["a, b.csv", "a=b.csv", "a + b.csv", "bob's.csv", "2024", "a.b..c.csv", "a:b*c.csv"]


@pytest.mark.parametrize("name", AWKWARD)
def test_a_path_of_any_name_is_read(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / name)
    spec = format_spec("table-mlp", {"data": name, "target": "kind"})
    if " + " in name:  # in quotes, as a comma is; what is written by hand is read alike
        spec = f"table-mlp:data='{name}',target=kind"
    assert parse_spec(spec) == ("table-mlp", {"data": name, "target": "kind"})
    assert make_tasks(spec).module[0].in_features == 8
    assert list(data_digests(f"{spec} + quadratics")) == [name]
    assert isinstance(make_tasks(f"quadratics + {spec}"), TaskMixture)


def test_digests_change_with_what_is_read_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows, texts = write_rows(tmp_path / "rows.csv"), write_texts(tmp_path / "texts")
    spec = "table-mlp:data=rows.csv,target=kind + text-rnn:data=texts + digits-mlp"
    before = data_digests(spec, None, "quadratics")
    assert set(before) == {"rows.csv", "texts"}
    (texts / ".hidden").write_text("not read")
    rows.touch()
    assert data_digests(spec) == before
    (texts / "more" / "1.txt").rename(texts / "more" / "9.txt")
    assert data_digests(spec)["texts"] != before["texts"]
    rows.write_text(rows.read_text().replace("north", "south"))
    assert data_digests(spec)["rows.csv"] != before["rows.csv"]


def test_a_choice_of_files_has_the_digests_of_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.csv", "b.csv"):
        write_rows(tmp_path / name, count=20 if name == "a.csv" else 30)
    spec = "table-mlp:data=a.csv|b.csv,target=kind"
    assert list(data_digests(spec)) == ["a.csv", "b.csv"]
    assert {len(family.examples.inputs) for family in (*make_tasks(spec).smallest(), *make_tasks(spec).largest())} <= {
        20,
        30,
    }


def test_a_path_of_nothing_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data must be a file or a folder that exists; got '.*nope.csv'"):
        make_task("table-mlp", data=str(tmp_path / "nope.csv"), target="kind")
