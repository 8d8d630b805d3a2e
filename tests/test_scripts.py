"""Scripts whose output is kept in the repository."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"


def test_the_page_on_scale_is_what_its_script_writes_from_the_measurements():
    spec = importlib.util.spec_from_file_location("scale", SCRIPTS / "scale.py")
    scale = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scale)
    assert scale.PAGE.read_text() == scale.page(), "python scripts/scale.py writes it anew"


def test_the_papers_quadratics_come_out_again_from_what_is_committed(tmp_path):
    command = [sys.executable, SCRIPTS / "reproduce_paper.py", "--figure", "quadratics", "--artefacts"]
    subprocess.run([*command, "--out", tmp_path], check=True, capture_output=True, text=True)
    committed, again = (
        json.loads((folder / "quadratics" / "evaluation.json").read_text())["results"]
        for folder in (SCRIPTS.parent / "results" / "paper", tmp_path)
    )
    assert [row["optimizer"] for row in again] == [row["optimizer"] for row in committed]
    assert again[0]["optimizer"] == "learned"
    for ours, theirs in zip(again, committed, strict=True):
        assert ours["final_losses"] == pytest.approx(theirs["final_losses"], rel=1e-3)
    assert "| Quadratics | quadratics-lstm |" in (tmp_path / "README.md").read_text()
    assert (tmp_path / "quadratics" / "curves.svg").stat().st_size > 10_000


def test_damaged_files_and_state_dicts_are_refused_or_load_as_they_are(tmp_path):
    command = [sys.executable, SCRIPTS / "fuzz_files.py", "--cases", "200", "--seed", "1"]
    result = subprocess.run([*command, "--out", tmp_path / "fuzz.json"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    content = json.loads((tmp_path / "fuzz.json").read_text())
    for kind in ("artefacts", "checkpoints", "state_dicts"):
        outcomes = content[kind]["outcomes"].values()
        assert sum(sum(counts.values()) for counts in outcomes) == 200
        assert sum(counts.get("refused", 0) for counts in outcomes) > 100
        assert sum(counts.get("refused", 0) for counts in outcomes) < 200
        assert content[kind]["failures"] == []
