"""l2l-opt specialise from beginning to end, stopped and resumed, and what it refuses."""

import json

import pytest
import torch

from l2l_opt import LearnedOptimizer, ModuleTask, load_rule, specialise
from tests.command_line import run_python

pytestmark = pytest.mark.slow
QUICK = ["--task", "quadratics:dim=3", "--horizon", "10", "--minutes", "0.05", "--seeds", "3", "--tuning-seeds", "2"]
QUICK += ["--baselines", "adamw"]


def run(*arguments, **more):
    return run_python("-m", "l2l_opt.cli", "specialise", *arguments, **more)


def test_a_rule_is_specialised_compared_and_used(tmp_path):
    out = tmp_path / "mine"
    done = run(*QUICK, "--check", "dim=6", "--check", "horizon=20", "--out", out)
    assert done.returncode == 0, done.stderr
    record = json.loads((out / "run.json").read_text())
    assert record["finished"]
    assert {"estimator", "students", "truncation_length", "outer_steps"} <= record["plan"][0].keys()
    rule = load_rule(out / "rule.safetensors")
    assert rule.card["provenance"]["began_from"] == "default-2"
    if record["selection"]["kept"] == "before":
        assert "Nothing was gained" in done.stdout
    else:
        content = json.loads((out / "specialised.json").read_text())
        assert {own["optimizer"] for own in content["comparison"]["results"]} >= {"specialised", "before", "resized"}
        assert [own["horizon"] for own in content["checks"]] == [10, 20]
        assert "<table" in (out / "specialised.html").read_text()
        assert "% lower than with the rule it began from" in done.stdout
    weights = [torch.nn.Parameter(torch.randn(3))]
    optimizer = LearnedOptimizer(weights, rule=out / "rule.safetensors", num_steps=10)
    weights[0].grad = torch.ones(3)
    optimizer.step()


def test_a_run_goes_on_where_it_stopped_and_ends_alike(tmp_path):
    """What a stopped run has left to do it does as if it had not stopped: the same rule, to the bit."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = ["--task", "quadratics:dim=3", "--horizon", "10", "--minutes", "5"]
    small = [{"estimator": "nres:sigma=0.1,only=choices", "share": 1.0, "meta_lr": 0.005, "average_phi": 0.9}]
    small[0] |= {"students": 4, "truncation_length": 10, "outer_steps": 6, "seconds_per_outer_step": 0.1, "minutes": 1}
    for out in (whole, parts):
        out.mkdir()
        named = dict(zip(options[::2], options[1::2], strict=True))
        planned = {
            "options": {
                "task": named["--task"],
                "rule": "default-2",
                "minutes": 5.0,
                "horizon": 10,
                "loss_on": "train",
                "seed": 0,
                "device": "cpu",
                "dtype": "float32",
            },
            "stages": {},
            "plan": small,
            "seconds": 0.0,
        }
        (out / "run.json").write_text(json.dumps(planned))
    rest = [*options, "--seeds", "2", "--baselines", "", "--resume"]
    assert run(*rest, "--out", whole).returncode == 0
    # A run that ended after its third outer step: a checkpoint of half the stage.
    half = run(*rest, "--out", parts)
    assert half.returncode == 0
    record = json.loads((parts / "run.json").read_text())
    record.pop("finished")
    (parts / "run.json").write_text(json.dumps(record))
    newest = sorted((parts / "stage-1" / "checkpoint").glob("*.safetensors"))[-1]
    newest.unlink()
    (parts / "rule.safetensors").unlink()
    again = run(*rest, "--out", parts)
    assert again.returncode == 0, again.stderr
    digests = [json.loads((out / "run.json").read_text())["digest"] for out in (whole, parts)]
    assert digests[0] == digests[1]


def test_an_own_module_from_python(tmp_path):
    inputs, targets = torch.randn(60, 4), torch.randint(3, (60,))
    family = ModuleTask(torch.nn.Linear(4, 3), torch.nn.functional.cross_entropy, (inputs, targets), batch_size=8)
    said = []
    found = specialise(
        family,
        minutes=0.03,
        horizon=10,
        loss_on="test",
        out=tmp_path / "own",
        seeds=2,
        tuning_seeds=1,
        baselines=(),
        say=said.append,
    )
    assert (tmp_path / "own" / "rule.safetensors").exists()
    assert found.gained == (found.comparison is not None)
    assert any(text.startswith("planned:") for text in said)


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
