"""scripts/demo, with a command in the place of l2l-opt that repeats what it was asked for."""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
COMMAND = """#!/usr/bin/env bash
echo "table of $1 $2"
echo "progress of $1 $2" >&2
if [ "$1 $2" = "evaluate $FAILS" ]; then
    echo "Error: $2 is broken" >&2
    exit 1
fi
"""
PYTHON = """#!/usr/bin/env bash
printf '%s\\n' "$@" >"$(dirname "$0")/arguments"
"""


@pytest.fixture
def demo(tmp_path):
    """Runs a copy of it; takes the rule whose evaluation fails."""
    (tmp_path / "scripts").mkdir()
    for name in ("demo", "common.sh"):
        shutil.copy(SCRIPTS / name, tmp_path / "scripts")
    for name in ("constraints.txt", "setup.cfg", "setup.py", "pyproject.toml", "l2l_opt/kernels/native/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name, text in (("l2l-opt", COMMAND), ("python", PYTHON)):
        (tmp_path / ".venv" / "bin" / name).write_text(text)
        (tmp_path / ".venv" / "bin" / name).chmod(0o755)
    (tmp_path / "out").mkdir()

    def call(fails="", **variables):
        command = ["bash", str(tmp_path / "scripts" / "demo"), "out"]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": "/usr/bin:/bin", "FAILS": fails, **variables},
        )

    return call


def test_evaluations_show_their_progress_and_the_tables_come_in_order(demo):
    result = demo()
    assert result.returncode == 0, result.stderr
    assert "the new rule: progress of evaluate out/rule.safetensors" in result.stderr
    assert "the paper's LSTM: progress of evaluate lstm-digits-1" in result.stderr
    tables = [line for line in result.stdout.splitlines() if line.startswith("table of")]
    assert [line.split()[2:] for line in tables] == [
        ["meta-train", "--rule"],
        ["evaluate", "out/rule.safetensors"],
        ["evaluate", "lstm-digits-1"],
        ["inspect", "out/rule.safetensors"],
    ]


@pytest.mark.parametrize("rule", ["out/rule.safetensors", "lstm-digits-1"])
def test_an_evaluation_that_fails_reports_why_and_ends_the_demo(demo, rule):
    result = demo(fails=rule)
    assert result.returncode == 1
    assert f"Error: {rule} is broken" in result.stderr
    assert "inspect" not in result.stdout


def test_an_index_of_other_wheels_is_passed_on_to_pip(demo, tmp_path):
    assert demo(TORCH_INDEX="http://wheels/cpu").returncode == 0
    arguments = (tmp_path / ".venv" / "bin" / "arguments").read_text().splitlines()
    assert arguments[-4:] == ["--extra-index-url", "http://wheels/cpu", "-e", "."]


def test_without_an_index_pip_has_its_own(demo, tmp_path):
    assert demo().returncode == 0
    arguments = (tmp_path / ".venv" / "bin" / "arguments").read_text().splitlines()
    assert arguments[-4:] == ["-c", "constraints.txt", "-e", "."]
