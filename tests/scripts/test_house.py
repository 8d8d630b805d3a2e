"""The house's own counts: words that it does not use, and lines of code."""

import subprocess

import pytest

from scripts.house import count_code, count_words

pytestmark = pytest.mark.skipif(not (count_words.ROOT / ".git").exists(), reason="what is counted is what git lists")


def repository(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    for command in (["git", "init", "--quiet"], ["git", "add", "."]):
        subprocess.run(command, cwd=folder, check=True)
    return folder


def test_the_words_of_the_house_are_used():
    assert count_words.findings() == []


def test_a_word_that_is_not_of_the_house_is_found_with_its_place(tmp_path):
    root = repository(
        tmp_path, one='x = 1\n"""Learns by heart."""\n', two="judge_again = teacher = 1\n", three="judged_on = 1\n"
    )
    found = [line for line in count_words.findings(root) if not line.startswith("no line needs")]
    assert [line.split(", ")[0] for line in found] == [
        "one.py:2: 'by heart'",
        "three.py:1: 'judged_on'",
        "two.py:1: 'judge_again'",
        "two.py:1: 'teacher'",
    ]


def test_a_reason_that_no_line_needs_is_reported(tmp_path):
    found = count_words.findings(repository(tmp_path, one="x = 1\n"))
    assert len(found) == len(count_words.ALLOWED)
    assert all(line.startswith("no line needs ") for line in found)


def test_lines_of_code_are_neither_blank_nor_comments_nor_docstrings():
    assert (
        count_code.python_lines('"""What\nit is."""\n\n# Why.\nx = (\n    1,  # one\n)\n\n\ndef f():\n    """For."""\n')
        == 4
    )
    assert count_code.cpp_lines("// why\n/* a\nb */ int x;\n\nint y;  // z\n") == 2


def test_every_room_is_counted():
    assert {"l2l_opt", "l2l_opt/kernels", "l2l_opt/rules"} <= set(count_code.count())
