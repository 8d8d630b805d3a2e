"""What users do, from the command line."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from l2l_opt import CoordinatewiseLSTM, LearnedOptimizer, list_pretrained, load_rule, save_rule
from l2l_opt.cli.main import COMMANDS, FEW_SHOT
from l2l_opt.kernels import native, triton
from l2l_opt.rules import make_rule
from l2l_opt.rules.costs import rule_costs
from tests.command_line import run_python

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

SMALL = ["--rule", "rnnprop:hidden_size=4", "--task", "quadratics:dim=3", "--horizon", "20", "--truncation-length", "5"]


def l2l_opt(*arguments, code=0):
    result = run_python("-m", "l2l_opt.cli", *arguments)
    assert result.returncode == code, result.stderr
    return result


def digests(folder):
    return json.loads((folder / "run.json").read_text())["digests"]


def test_meta_train_evaluate_inspect_show(tmp_path):
    out = tmp_path / "run"
    result = l2l_opt("meta-train", *SMALL, "--outer-steps", 40, "--validate-every", 10, "--meta-lr", 0.01, "--out", out)
    assert "finished after outer step 40" in result.stdout
    assert "outer step 40 of 40" in result.stderr
    record = json.loads((out / "run.json").read_text())
    assert record["options"]["horizon"] == "20"
    assert (out / "last.safetensors").is_file()

    result = l2l_opt(
        "evaluate", out / "rule.safetensors", "--task", "quadratics:dim=3", "--horizon", 20, "--horizon", 40,
        "--seeds", 4, "--tuning-seeds", 3, "--cache", tmp_path / "cache", "--out", tmp_path / "evaluation",
    )  # fmt: skip
    for word in ("learned", "sgd", "momentum", "rmsprop", "adam", "95 % interval", "quadratics:dim=3, 40 steps"):
        assert word in result.stdout
    content = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    assert {(r["optimizer"], r["horizon"]) for r in content["results"]} == {
        (name, horizon)
        for name in ("learned", "sgd", "momentum", "rmsprop", "adam", "adam-cosine")
        for horizon in (20, 40)
    }
    assert all(len(r["final_losses"]) == 4 for r in content["results"])
    assert (tmp_path / "evaluation" / "curves.png").read_bytes()[:4] == b"\x89PNG"

    l2l_opt(
        "inspect", out, "--task", "quadratics:dim=3", "--horizon", 7, "--logdir", tmp_path / "logs",
        "--baselines", "adam", "--tuning-seeds", 1, "--cache-dir", tmp_path / "cache",
    )  # fmt: skip
    events = EventAccumulator(str(tmp_path / "logs" / "adam"))
    events.Reload()
    assert [event.step for event in events.Scalars("Loss/student")] == list(range(7))
    events = EventAccumulator(str(tmp_path / "logs" / "learned"), size_guidance={"scalars": 0, "histograms": 0})
    events.Reload()
    for tag in (
        "Loss/student",
        "gradient_rms/theta",
        "update_rms/theta",
        "state_hidden_mean/theta",
        "state_cell_rms/theta",
    ):
        assert [event.step for event in events.Scalars(tag)] == list(range(7)), tag
    assert len(events.Histograms("update/theta")) == len(events.Histograms("gradient/theta")) == 7

    card = json.loads(l2l_opt("show", out, "--json").stdout)
    assert card["digest"] == record["digests"]["rule"]
    assert card["task"] == "quadratics:dim=3"
    assert card["provenance"]["seed"] == 0
    assert card["state_bytes_per_parameter"] == 4 * (2 + 2 * 2 * 4)
    text = l2l_opt("show", out / "rule.safetensors").stdout
    for word in ("rnnprop", "quadratics:dim=3", "licence: Apache-2.0", "digest", "validation"):
        assert word in text


def test_show_prints_what_a_rule_costs_and_what_is_not_known_of_it(tmp_path):
    path = tmp_path / "rule.safetensors"
    rule = CoordinatewiseLSTM()
    save_rule(rule, path)
    text = l2l_opt("show", path).stdout
    for line in (
        "task of meta-training: none stated",
        "horizon of meta-training: none stated",
        "held-out metrics: none measured",
        "licence: none stated",
        "bytes of state per parameter, float32: 320",
        "bytes of state per parameter, in bfloat16: 160",
        f"floating-point operations per parameter and step: {rule_costs(rule).operations}",
    ):
        assert line in text.splitlines()
    card = json.loads(l2l_opt("show", path, "--json").stdout)
    assert card["state_bytes_per_parameter_bfloat16"] == 160
    assert card["operations_per_parameter_and_step"] > 2 * 80 * (2 + 20 + 20 + 20)
    assert card["task"] is card["horizon"] is card["licence"] is card["held_out_figures"] is None

    known = {"task": "digits-mlp", "horizon": "100", "licence": "MIT\x1b[31m", "figures": {"held_out": {"mnist": 0.25}}}
    save_rule(rule, path, card=known)
    text = l2l_opt("show", path).stdout
    assert "task of meta-training: digits-mlp" in text
    assert "held-out metrics:\n  mnist: 0.25" in text
    assert "\x1b" not in text
    assert "licence: MIT\\x1b[31m" in text


def test_show_serves_rules_whose_parts_take_only_some_tensors(tmp_path):
    parts = [{"rule": "lstm", "config": {"hidden_size": 3}, "min_dim": 4}, {"rule": "adam", "name": "bias"}]
    save_rule(make_rule("composed", parts=parts), tmp_path / "rule.safetensors")
    assert json.loads(l2l_opt("show", tmp_path, "--json").stdout)["state_bytes_per_parameter"] == 4 * 2 * 2 * 3


def test_show_prints_what_a_step_costs_on_a_model(tmp_path):
    rule, model = tmp_path / "rule.safetensors", tmp_path / "model.py"
    save_rule(CoordinatewiseLSTM(hidden_size=2, num_layers=1), rule)
    model.write_text("import torch\n\n\ndef make():\n    return torch.nn.Linear(6, 4)\n")
    found = json.loads(l2l_opt("show", rule, "--model", f"{model}:make", "--json").stdout)
    assert found["parameters"] == 28
    names = ["AdamW, fused", "Muon, AdamW for vectors"]
    assert [cost["optimizer"] for cost in found["costs"]][1:] == names
    assert found["costs"][0]["state_bytes"] == 28 * 4 * 4 + 2 * (4 + 8)
    assert all(cost["seconds"] > 0 for cost in found["costs"])
    text = l2l_opt("show", rule, "--model", f"{model}:make").stdout
    assert text.startswith("28 parameters in 2 tensors")


def test_show_runtime_names_which_kernels_compute(monkeypatch):
    found = json.loads(l2l_opt("show", "--runtime", "--json").stdout)
    assert found["kernels"] == native.describe()
    assert found["gpu_kernels"] == triton.describe()
    assert found["versions"]["torch"] == torch.__version__
    # A process that has not loaded them yet.
    command = [sys.executable, "-m", "l2l_opt.cli", "show", "--runtime"]
    monkeypatch.setenv(native.DISABLED_BY, "1")
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "kernels: PyTorch (compiled kernels are switched off" in result.stdout


def test_meta_train_reports_throughput_and_profiles(tmp_path):
    out = tmp_path / "run"
    result = l2l_opt("meta-train", *SMALL, "--outer-steps", 6, "--profile", "--out", out)
    assert re.search(r"outer step 6 of 6.*, [\d.e+]+ coordinates/s", result.stderr)
    assert "l2l_opt::" in (out / "profile.txt").read_text()
    assert json.loads((out / "profile.json").read_text())["traceEvents"]
    events = EventAccumulator(str(out / "events"))
    events.Reload()
    assert all(event.value > 0 for event in events.Scalars("meta/coordinates_per_second"))
    assert len(events.Scalars("meta/coordinates_per_second")) == 6


def test_meta_train_can_go_on_from_an_artefact(tmp_path):
    l2l_opt("meta-train", *SMALL, "--outer-steps", 2, "--out", tmp_path / "first")
    more = ["--rule", tmp_path / "first" / "last.safetensors", *SMALL[2:]]
    l2l_opt("meta-train", *more, "--outer-steps", 1, "--meta-lr", 1e-12, "--out", tmp_path / "second")
    one, other = (load_rule(tmp_path / name / "last.safetensors") for name in ("first", "second"))
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert (a - b).abs().max() < 1e-9


def test_same_seed_same_rule_another_seed_another(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        l2l_opt("meta-train", *SMALL, "--outer-steps", 3, "--seed", seed, "--out", tmp_path / name)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert digests(tmp_path / "a")["last"] != digests(tmp_path / "c")["last"]


def wait_for_outer_step(folder, number, process):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        path = folder / "run.json"
        if path.exists() and json.loads(path.read_text())["outer_step"] >= number:
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    raise AssertionError("the run did not get there")


RUN = ["meta-train", *SMALL, "--outer-steps", "120", "--checkpoint-every", "3", "--validate-every", "25"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    l2l_opt(*RUN, "--out", folder / "run")
    return digests(folder / "run")


@pytest.mark.parametrize("kills", [1, 3])
def test_killed_and_resumed_is_bit_for_bit_the_uninterrupted_run(kills, uninterrupted, tmp_path):
    command = [sys.executable, "-m", "l2l_opt.cli", *RUN, "--out", str(tmp_path / "run"), "--resume"]
    for kill in range(kills):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            wait_for_outer_step(tmp_path / "run", 20 * (kill + 1), process)
            process.kill()
    result = l2l_opt(*RUN, "--out", tmp_path / "run", "--resume")
    assert "going on from outer step" in result.stderr
    assert digests(tmp_path / "run") == uninterrupted


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_writes_a_checkpoint_and_ends_cleanly(name, uninterrupted, tmp_path):
    command = [sys.executable, "-m", "l2l_opt.cli", *RUN, "--out", str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for_outer_step(tmp_path / "run", 9, process)
        os.kill(process.pid, signal.Signals[name])
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    for word in ("Traceback", "Error", "Aborted"):
        assert word not in err
    assert f"{name}: the run ends after this outer step" in err
    assert f"stopped by {name} after outer step" in err
    assert err.rstrip().endswith("--resume")
    stopped = json.loads((tmp_path / "run" / "run.json").read_text())
    assert 9 <= stopped["outer_step"] < 120
    l2l_opt(*RUN, "--out", tmp_path / "run", "--resume")
    assert digests(tmp_path / "run") == uninterrupted


def test_a_time_budget_ends_it_well_and_leaves_a_rule(tmp_path):
    result = l2l_opt("meta-train", *SMALL, "--outer-steps", 100000, "--minutes", 0.02, "--out", tmp_path / "run")
    assert "out of time after outer step" in result.stdout
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert 0 < record["outer_step"] < 100000
    assert load_rule(tmp_path / "run" / "rule.safetensors").card["digest"] == record["digests"]["rule"]


def test_resume_of_a_finished_run_succeeds(tmp_path):
    arguments = ["meta-train", *SMALL, "--outer-steps", 2, "--out", tmp_path / "run", "--resume"]
    l2l_opt(*arguments)
    before = digests(tmp_path / "run")
    l2l_opt(*arguments)
    assert digests(tmp_path / "run") == before
    result = l2l_opt(*arguments, "--meta-lr", 0.5, code=2)
    assert "meta_lr was 0.001, is 0.5" in result.stderr


LONG = [
    "--rule", "compact", "--task", "2*quadratics:dim=2..5 + digits-mlp:hidden=2..4,activation=relu|tanh,batch_size=8",
    "--horizon", "10..40", "--truncation-length", "5", "--students", "4", "--group-size", "2", "--staggered",
    "--meta-loss", "mean", "--normalisation", "log", "--clip-loss", "2", "--reparametrise", "1e-1..1e1",
    "--loss-scale", "1e-2..1e2", "--meta-lr-schedule", "cosine", "--meta-weight-decay", "0.01",
    "--validate-every", "6", "--validation-students", "4", "--validation-horizon", "20", "--outer-steps", "12",
]  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        ["--estimator", "nres:sigma=0.02"],
        ["--estimator", "pes"],
        ["--estimator", "full-es", "--horizon", "10..20:growing"],
        ["--estimator", "tbptt", "--gradient-checkpointing", "--loss-on", "test"],
        ["--imitate", "adam:lr=0.01", "--imitation-steps", "7", "--meta-loss", "best-so-far"],
        [
            "--rule",
            "scale-free",
            "--estimator",
            "tbptt:clip_window=10",
            "--meta-loss",
            "progress",
            "--floor-loss",
            "1e-3",
        ],
    ],
    ids=["nres", "pes", "full-es", "tbptt", "imitation", "scale-free"],
)
def test_every_estimator_and_curriculum_resumes_bit_for_bit(options, tmp_path):
    l2l_opt("meta-train", *LONG, *options, "--out", tmp_path / "whole")
    command = [sys.executable, "-m", "l2l_opt.cli", "meta-train", *LONG, *options, "--checkpoint-every", "1"]
    with subprocess.Popen([*command, "--out", str(tmp_path / "part")], stderr=subprocess.DEVNULL) as process:
        wait_for_outer_step(tmp_path / "part", 4, process)
        process.kill()
    l2l_opt("meta-train", *LONG, *options, "--out", tmp_path / "part", "--resume")
    assert digests(tmp_path / "part") == digests(tmp_path / "whole")
    moved = load_rule(tmp_path / "whole" / "last.safetensors")
    assert any(weight.abs().max() > 0 for weight in moved.parameters())


def test_a_changed_option_is_refused_unless_allowed_and_students_are_reset_where_they_must(tmp_path):
    run = ["meta-train", *SMALL, "--outer-steps", 4, "--out", tmp_path / "run"]
    l2l_opt(*run)
    more = [*run, "--resume", "--outer-steps", 6]
    assert "outer_steps was 4, is 6" in l2l_opt(*more, code=2).stderr
    result = l2l_opt(*more, "--allow-changed-options")
    assert "with changed options (outer_steps was 4, is 6)" in result.stderr
    assert "students are reset" not in result.stderr
    result = l2l_opt(*more, "--outer-steps", 8, "--task", "quadratics:dim=7", "--allow-changed-options")
    assert "students are reset" in result.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["outer_step"] == 8


def test_a_dry_run_prints_what_it_needs_and_starts_nothing(tmp_path):
    result = l2l_opt("meta-train", *SMALL, "--dry-run", "--out", tmp_path / "run")
    for word in ("student parameters: 3\n", "peak memory: ", "seconds per outer step: ", "checkpoint: "):
        assert word in result.stdout
    found = json.loads(l2l_opt("meta-train", *SMALL, "--dry-run", "--json").stdout)
    assert found["student_parameters"] == [3, 3]
    assert found["peak_bytes"] > 0
    assert found["seconds_per_outer_step"] > 0
    assert not (tmp_path / "run").exists()
    large = ["--rule", "lstm", "--task", "digits-mlp:hidden=2000,layers=3"]
    result = l2l_opt("meta-train", *large, "--dry-run", code=2)
    assert "student parameters: 8,154,010" in result.stdout
    assert "a run must fit into memory" in result.stderr


def test_a_dry_run_measures_how_much_would_be_learned(tmp_path):
    windows = ["--rule", "rnnprop:hidden_size=4", "--horizon", "20", "--truncation-length", "5", "--students", "16"]
    mixed = [*windows, "--task", "quadratics:init_scale=100.0 + least-squares", "--group-size", "2"]
    evolution = [*mixed, "--estimator", "nres:sigma=0.01"]
    result = l2l_opt("meta-train", *evolution, "--dry-run", "--signal")
    for words in ("signal: halves of the", "effective pairs: ", "gain: about ", "shares of tasks: quadratics 100 %"):
        assert words in result.stdout
    found = json.loads(l2l_opt("meta-train", *evolution, "--dry-run", "--signal", "--json").stdout)["signal"]
    assert found["effective_pairs"] < found["pairs"]
    assert found["cosine"] < 1
    assert "use both" in l2l_opt("meta-train", *evolution, "--signal", "--out", tmp_path / "run", code=2).stderr
    assert "use nres, pes or full-es" in l2l_opt("meta-train", *mixed, "--dry-run", "--signal", code=2).stderr
    assert not (tmp_path / "run").exists()


PLUGIN = '''
"""A rule and a task of a user's own."""
import torch
from l2l_opt import UpdateRule, register_rule, register_task
from l2l_opt.rules.hand_designed import SGD
from l2l_opt.tasks.synthetic.quadratics import Quadratics


@register_rule("my-sgd")
class MySGD(SGD):
    """My own descent."""


@register_task("my-quadratic")
def my_quadratic(*, dim: int = 2):
    """My own quadratic."""
    return Quadratics(dim=dim)
'''


def test_a_plugins_rule_and_task_are_meta_trained_and_used(tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN)
    names = l2l_opt("list", "tasks", "--plugin", plugin).stdout
    assert "my-quadratic: My own quadratic." in names
    run = ["--rule", "my-sgd", "--task", "my-quadratic:dim=3", "--outer-steps", 2, "--out", tmp_path / "run"]
    l2l_opt("meta-train", *run, "--plugin", plugin)
    assert "my-sgd" in l2l_opt("show", tmp_path / "run", "--plugin", plugin).stdout
    result = l2l_opt("show", tmp_path / "run", code=1)
    assert "--plugin FILE.py" in result.stderr
    l2l_opt("meta-train", *run, "--plugin", plugin, "--resume")
    plugin.write_text(PLUGIN.replace("dim=dim", "dim=dim + 1"))
    refused = l2l_opt("meta-train", *run, "--plugin", plugin, "--resume", code=2).stderr.replace("\n", " ")
    assert "with the options it was started with; got others" in refused
    assert "mine.py was 'sha256:" in refused


def test_a_suite_is_evaluated_and_costs_nothing_the_second_time(tmp_path):
    plugin, suite = tmp_path / "mine.py", tmp_path / "suite.txt"
    plugin.write_text(PLUGIN)
    suite.write_text("digits-mlp:hidden=4,layers=2,batch_size=8\nmy-quadratic:dim=3  # a user's own\n")
    save_rule(make_rule("adam", lr=0.03), tmp_path / "rule.safetensors")
    command = ["evaluate", tmp_path / "rule.safetensors", "--suite", suite, "--plugin", plugin, "--seeds", 2]
    command += ["--horizon", 12, "--horizon", 15, "--tuning-seeds", 2, "--baselines", "adamw,sgd"]
    command += ["--baselines", "adam,muon", "--nproc", 2, "--cache", tmp_path / "cache"]
    result = l2l_opt(*command, "--out", tmp_path / "first")
    for word in (
        "speed-up in steps",
        "speed-up in seconds",
        "wins of the rule",
        "adamw-constant",
        "muon is left out on my",
    ):
        assert word in result.stdout
    assert "tuning adamw-cosine" in result.stderr
    for name in ("curves.png", "profile.png"):
        assert (tmp_path / "first" / name).read_bytes()[:4] == b"\x89PNG"
    content = json.loads((tmp_path / "first" / "evaluation.json").read_text())
    assert content["suite"]["tasks"] == ["digits-mlp:hidden=4,layers=2,batch_size=8", "my-quadratic:dim=3"]
    assert len(content["summary"]) == 2
    assert {row["optimizer"] for row in content["results"]} >= {"learned", "adamw", "adamw-constant", "sgd", "adam"}

    again = l2l_opt(*command, "--out", tmp_path / "second", "--json")
    assert json.loads(again.stdout) == content
    assert (tmp_path / "second" / "evaluation.json").read_text() == (tmp_path / "first" / "evaluation.json").read_text()
    assert {line.partition(":")[0] for line in again.stderr.splitlines()} == {"1 of 2 tasks", "2 of 2 tasks"}


def test_lists():
    for what, words in (
        ("rules", ["lstm", "rnnprop", "sgd", "momentum", "rmsprop", "adam", "composed", "hidden_size=20"]),
        ("tasks", ["quadratics", "digits-mlp", "fashion-mlp", "mnist-mlp", "hidden=20", "activation=sigmoid"]),
        ("estimators", ["tbptt: Truncated"]),
        ("pretrained", list_pretrained()),
        ("episodes", ["omniglot: Hand-written", "ways=5", "folder=(required)"]),
        ("methods", ["maml: Gradient descent", "reptile", "learned-rule"]),
        ("models", ["mlp: Multilayer", "conv", "hidden=40x40"]),
    ):
        out = l2l_opt("list", what).stdout
        for word in words:
            assert word in out
        assert {entry["name"] for entry in json.loads(l2l_opt("list", what, "--json").stdout)}


@pytest.mark.parametrize("command", [*COMMANDS, *(f"few-shot {name}" for name in FEW_SHOT)])
def test_help_shows_an_example_and_every_default(command):
    text = l2l_opt(*command.split(), "--help").stdout
    assert f"Example: l2l-opt {command}" in " ".join(text.split())
    listed = re.split(r"^\w.*ptions:$", text, maxsplit=1, flags=re.MULTILINE)[1]
    num_options = sum(line.startswith("  --") for line in listed.splitlines())
    joined = " ".join(text.split())
    assert joined.count("[default:") + joined.count("[required]") == num_options, text


def test_help_is_quick_and_needs_no_torch():
    script = """
import sys
from l2l_opt.cli.main import main
try:
    main(["--help"])
except SystemExit:
    print("torch" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.rstrip().endswith("False")


def test_shipped_rules_are_whole():
    names = list_pretrained()
    assert "default-1" in names
    for name in names:
        rule = load_rule(name)
        for key in ("task", "horizon", "provenance", "figures", "licence", "digest"):
            assert rule.card[key], (name, key)
        assert not re.search(r"(^|[\s'=])/", rule.card["provenance"]["command"]), name  # no absolute path


def test_the_drop_in_runs_every_shipped_rule():
    import torch

    for name in list_pretrained():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))
        inputs = torch.randn(64, 4)
        targets = (inputs[:, 0] * inputs[:, 1] > 0).long()
        optimizer = LearnedOptimizer(model.parameters(), name, num_steps=100)
        losses = []
        for _ in range(100):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        # Short steps are what small-data-1 is for.
        assert losses[-1] < (0.8 if name == "small-data-1" else 0.5) * losses[0], name
