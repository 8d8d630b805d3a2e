"""l2l-opt specialise from beginning to end, and what it refuses."""

import json

import pytest
import torch

from l2l_opt import LearnedOptimizer, load_rule
from tests.command_line import run_python

pytestmark = pytest.mark.slow
QUICK = ["--task", "quadratics:dim=3", "--horizon", "10", "--minutes", "0.05", "--seeds", "2", "--baselines", ""]


def run(*arguments, **more):
    return run_python("-m", "l2l_opt.cli", "specialise", *arguments, **more)


def test_a_rule_is_specialised_and_used(tmp_path):
    out = tmp_path / "mine"
    done = run(*QUICK, "--out", out)
    assert done.returncode == 0, done.stderr
    record = json.loads((out / "run.json").read_text())
    assert record["finished"]
    assert {"estimator", "students", "truncation_length", "outer_steps"} <= record["plan"][0].keys()
    assert record["sentence"] in done.stdout
    rule = load_rule(out / "rule.safetensors")
    assert rule.card["provenance"]["began_from"] == "default-2"
    weights = [torch.nn.Parameter(torch.randn(3))]
    optimizer = LearnedOptimizer(weights, rule=out / "rule.safetensors", num_steps=10)
    weights[0].grad = torch.ones(3)
    optimizer.step()
    assert weights[0].isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--horizon", "1"], "1 is not in the range x>=2"),
        (["--minutes", "0"], "0"),
        (["--task", "nothing"], "nothing"),
        (["--task", "iris-mlp", "--check", "hidden"], "a check must read OPTION=VALUE"),
        (["--baselines", "nobody", "--task", "iris-mlp"], "a baseline must be one of"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(tmp_path, options, message):
    done = run(*options, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_three_rows_cannot_be_held_out(tmp_path):
    plugin = tmp_path / "few.py"
    plugin.write_text(
        "import torch\nfrom l2l_opt import ModuleTask, register_task\n\n"
        "@register_task('few')\ndef few():\n"
        "    rows = torch.zeros(2, 2), torch.zeros(2, 1)\n"
        "    return ModuleTask(torch.nn.Linear(2, 1), torch.nn.functional.mse_loss, rows, batch_size=2)\n"
    )
    done = run("--plugin", plugin, "--task", "few", "--loss-on", "test", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "must have training examples enough" in done.stderr


def test_a_folder_that_holds_a_run_is_left_alone(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    done = run(*QUICK, "--out", tmp_path)
    assert done.returncode == 2
    assert "must not hold a run already" in done.stderr
