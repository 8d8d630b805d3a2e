"""The checks of .pre-commit-config.yaml find what they are there for."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = Path(__file__).parents[2] / ".pre-commit-config.yaml"
TIDY = {"tidy.md": "Title\n=====\n", "tidy.py": "x = 1\n", "tidy.toml": "x = 1\n", "tidy.yaml": "x: 1\n"}
WRONG = {
    "notes.md": ("<<<<<<< HEAD\nours\n=======\ntheirs\n>>>>>>> other\n", "notes.md:1: Merge conflict"),
    "large.txt": ("x" * 3 * 2**20 + "\n", "large.txt (3073 KB)"),
    "broken.toml": ("x = \n", "broken.toml"),
    "broken.yaml": ("x: [\n", "broken.yaml"),
    "long.py": ("x = [1,2]\n", "long.py"),
    "unused.py": ("import os\n", "F401"),
    "open.md": ("no newline", "Fixing open.md"),
    "spaces.md": ("a \n", "Fixing spaces.md"),
}

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def check(folder, files):
    """What the checks say of a repository of these files, and whether they pass."""
    for name, content in files.items():
        (folder / name).write_text(content)
    shutil.copy(CONFIG, folder)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PRE_COMMIT_HOME": f"{folder}/.git/home",
    }
    for command in (["git", "init", "--quiet"], ["git", "add", "."]):
        subprocess.run(command, cwd=folder, env=environment, check=True)
    command = [sys.executable, "-m", "pre_commit", "run", "--all-files"]
    result = subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)
    return result.stdout + result.stderr, result.returncode == 0


def test_tidy_files_pass(tmp_path):
    report, passed = check(tmp_path, TIDY)
    assert passed, report
    assert "Failed" not in report


def test_all_that_is_wrong_is_found_and_named(tmp_path):
    report, passed = check(tmp_path, TIDY | {name: content for name, (content, _) in WRONG.items()})
    assert not passed
    assert "Passed" not in report
    for _, finding in WRONG.values():
        assert finding in report
    assert not any(name in report for name in TIDY)
