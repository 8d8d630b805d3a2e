"""Bad input: one sentence that names the rule broken, the value and the fix; exit code 1 or 2; nothing overwritten."""

import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from l2l_opt import RNNProp, load_rule, save_rule
from l2l_opt.cli.main import main

META_TRAIN = ["meta-train", "--rule", "rnnprop:hidden_size=2", "--task", "quadratics:dim=2", "--outer-steps", "1"]


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Runs the command line in an empty folder; gives exit code, standard output and error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return caught.value.code, captured.out, captured.err

    return call


def error_line(err):
    lines = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, err
    assert err.rstrip().endswith(lines[0])
    assert "Traceback" not in err
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["meta-train", "--task", "digit-mlp"], 2, ["task", "'digit-mlp'", "digits-mlp"]),
        (["meta-train", "--rule", "lsmt"], 2, ["rule", "'lsmt'", "lstm"]),
        (["meta-train", "--rule", "lstm:size=3"], 2, ["option", "'size'", "hidden_size"]),
        (["meta-train", "--estimator", "magic"], 2, ["estimator", "'magic'", "tbptt"]),
        (["meta-train", "--horizon", "0"], 2, ["horizon must be positive", "'0'", "100"]),
        (["meta-train", "--horizon", "-20"], 2, ["horizon must be positive", "'-20'"]),
        (
            ["meta-train", "--horizon", "10", "--truncation-length", "20"],
            2,
            ["must not exceed horizon", "20 and 10", "at most 10"],
        ),
        (["meta-train", "--horizon", "100", "--truncation-length", "7"], 2, ["must divide horizon", "7 and 100", "5"]),
        (["meta-train", "--meta-lr", "-1"], 2, ["meta_lr", "-1"]),
        (["meta-train", "--estimator", "nres:sigma=-1"], 2, ["sigma must be a positive number", "-1", "0.01"]),
        (["meta-train", "--floor-loss", "-1"], 2, ["floor must be a number and not negative", "-1.0", "0.001"]),
        (["meta-train", "--estimator", "tbptt:clip_window=0"], 2, ["clip_window must be a positive number", "0", "10"]),
        (["meta-train", "--estimator", "nres:size=1"], 2, ["estimator 'nres'", "'size'", "sigma"]),
        (["meta-train", "--estimator", "pes", "--second-derivatives"], 2, ["'pes'", "'second_derivatives'"]),
        (["meta-train", "--estimator", "pes", "--gradient-checkpointing"], 2, ["'pes'", "'gradient_checkpointing'"]),
        (["meta-train", "--task", "x*quadratics + digits-mlp"], 2, ["weight must be a number", "'x'", "2*digits-mlp"]),
        (["meta-train", "--task", "digits-mlp:hidden=9..3"], 2, ["range must be positive and in order", "'9..3'"]),
        (["meta-train", "--validation-task", "digit-mlp"], 2, ["task", "'digit-mlp'", "digits-mlp"]),
        (["meta-train", "--reparametrise", "ten"], 2, ["LOW..HIGH", "'ten'", "1e-3..1e3"]),
        (["meta-train", "--clip-loss", "nan"], 2, ["clip must be a finite number", "nan"]),
        (["meta-train", "--imitate", "adma", "--imitation-steps", "5"], 2, ["rule", "'adma'", "adam"]),
        (["meta-train", "--imitate", "adam"], 2, ["belong together", "0 outer steps"]),
        (["meta-train", "--imitation-steps", "3"], 2, ["belong together", "no rule"]),
        (["meta-train", "--horizon", "20..100:shrinking"], 2, ["horizon must be", "growing"]),
        (["meta-train", "--group-size", "0"], 2, ["--group-size", "0"]),
        (
            ["meta-train", "--rule", "lstm", "--task", "digits-mlp:hidden=2000,layers=3", "--horizon", "100"],
            2,
            ["a run must fit into memory", "GiB", "--gradient-checkpointing"],
        ),
        (["meta-train", "--outer-steps", "0"], 2, ["--outer-steps", "0"]),
        (["meta-train", "--device", "quantum"], 2, ["device", "'quantum'", "cpu"]),
        (["meta-train", "--plugin", "nowhere.py"], 2, ["--plugin", "nowhere.py"]),
        (["meta-train", "--nonsense"], 2, ["--nonsense"]),
        (["evaluate", "nothing-there"], 1, ["shipped name or the path", "'nothing-there'"]),
        (["evaluate", "default-1", "--task", "nope"], 2, ["task", "'nope'"]),
        (["evaluate", "default-1", "--horizon", "0"], 2, ["--horizon", "0"]),
        (["evaluate", "default-1", "--suite", "a", "--task", "b"], 2, ["exclude each other", "'a' and 'b'"]),
        (["evaluate", "default-1", "--baselines", "lion"], 2, ["baseline must be one of", "'lion'", "rmsprop"]),
        (["evaluate", "default-1", "--suite", "nowhere"], 1, ["a suite must be", "'nowhere'", "one task a line"]),
        (["inspect", "nothing-there"], 1, ["'nothing-there'"]),
        (["report", "nothing-there"], 1, ["'nothing-there'"]),
        (["report", "default-1", "--task", "nope"], 2, ["task", "'nope'"]),
        (["report", "default-1", "--baselines", "nope"], 2, ["'nope'"]),
        (["report", "default-1", "--evaluation", "nowhere.json"], 2, ["--evaluation", "nowhere.json"]),
        (["report", "default-1", "--out", "."], 2, ["a report is one file", "--out"]),
        (["report", "."], 2, ["must hold rule.safetensors", "meta-train"]),
        (["show", "nothing-there"], 1, ["'nothing-there'"]),
        (["show"], 2, ["RULE", "neither"]),
        (["show", "default-1", "--runtime"], 2, ["RULE", "both"]),
        (["list", "things"], 2, ["things", "tasks"]),
        (["dance"], 2, ["dance"]),
    ],
)
def test_wrong_words_are_named(run, tmp_path, arguments, code, words):
    got, _, err = run(*arguments)
    line = error_line(err)
    assert got == code, line
    for word in words:
        assert word in line
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        ("quadratics\nquadratix\n", [], ["task", "'quadratix'"]),
        ("# none\n", [], ["at least one task"]),
        ("quadratics\n", ["--baselines", "adamw,lion"], ["baseline must be one of", "'lion'", "prodigy"]),
        ("quadratics\n", ["--dtype", "float16"], ["float16"]),
        ("quadratics @ 40 500\n", ["--horizon", "41"], ["horizon must be one", "[41]", "use 40, 500"]),
    ],
)
def test_bad_suites_are_named_before_any_work(run, tmp_path, content, options, words):
    (tmp_path / "suite.txt").write_text(content)
    command = ["evaluate", "default-1", "--suite", "suite.txt", "--out", "out", "--cache", "cache", *options]
    code, _, err = run(*command)
    line = error_line(err)
    assert code == 2, line
    for word in words:
        assert word in line
    assert "tuning" not in err
    assert not list(tmp_path.rglob("evaluation.json"))


def test_missing_data_names_the_places_and_the_way_out(run, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("L2L_OPT_DATA", raising=False)
    code, _, err = run("meta-train", "--task", "mnist-mlp:root=/nowhere")
    assert code == 1
    line = error_line(err)
    for word in ("mnist must lie on this machine", "/nowhere", "npm pack", "L2L_OPT_DATA"):
        assert word in line


def test_a_student_beyond_memory_is_named_in_a_sentence(run):
    code, _, err = run("meta-train", "--task", "digits-mlp:hidden=10000000000")
    assert code == 1
    assert re.search(r"memory must hold .*; got no room for \d{13} bytes more, use smaller", error_line(err))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "foreign", "text"])
@pytest.mark.parametrize("command", ["show", "evaluate", "inspect", "report", "meta-train"])
def test_broken_artefacts_are_named(run, tmp_path, command, damage):
    path = tmp_path / "broken.safetensors"
    save_rule(RNNProp(hidden_size=2), path)
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[:-3])
    elif damage == "flipped":
        path.write_bytes(content[:-3] + bytes([content[-3] ^ 64]) + content[-2:])
    elif damage == "foreign":
        save_file({"a": torch.zeros(1)}, path)
    else:
        path.write_text("not a rule")
    before = path.read_bytes()
    arguments = ["meta-train", "--rule", path] if command == "meta-train" else [command, path]
    code, _, err = run(*arguments)
    assert code == 1
    assert "an artefact" in error_line(err)
    assert "broken.safetensors" in err
    assert path.read_bytes() == before


@pytest.mark.parametrize("place", ["file", "file/below"])
@pytest.mark.parametrize("command", ["meta-train", "evaluate", "inspect"])
def test_places_that_cannot_be_written_are_named(run, tmp_path, command, place):
    (tmp_path / "file").write_text("precious")
    option = "--logdir" if command == "inspect" else "--out"
    start = META_TRAIN if command == "meta-train" else [command, "default-1", "--task", "quadratics"]
    code, _, err = run(*start, option, tmp_path / place)
    assert code in (1, 2)
    assert str(tmp_path / "file") in error_line(err)
    assert (tmp_path / "file").read_text() == "precious"


def test_a_report_that_cannot_be_written_or_made_is_named_before_any_work(run, tmp_path):
    (tmp_path / "file").write_text("precious")
    start = ["report", "default-1", "--task", "quadratics", "--horizon", "100000"]
    code, _, err = run(*start, "--out", tmp_path / "file" / "report.html")
    assert code == 1
    assert str(tmp_path / "file") in error_line(err)
    code, _, err = run(*start, "--out", tmp_path / "report.html", "--evaluation", tmp_path / "file")
    assert code == 2
    assert "what l2l-opt evaluate wrote" in error_line(err)
    assert (tmp_path / "file").read_text() == "precious"
    assert not (tmp_path / "report.html").exists()


@pytest.mark.slow
def test_a_folder_that_holds_a_run_is_refused_without_resume(run, tmp_path):
    code, _, err = run(*META_TRAIN, "--out", tmp_path / "run")
    assert code == 0, err
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    code, _, err = run(*META_TRAIN, "--out", tmp_path / "run")
    assert code == 2
    assert "--resume" in error_line(err)
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_a_plugin_that_fails_is_named(run, tmp_path):
    (tmp_path / "plugin.py").write_text("1 / 0\n")
    code, _, err = run(*META_TRAIN, "--plugin", tmp_path / "plugin.py")
    assert code == 2
    assert "ZeroDivisionError" in error_line(err)


def test_a_task_whose_function_fails_is_named(run, tmp_path):
    (tmp_path / "plugin.py").write_text(
        "from l2l_opt import register_task\n\n"
        "@register_task('from-a-database')\ndef make():\n    raise RuntimeError('no connection')\n"
    )
    code, _, err = run("meta-train", "--plugin", tmp_path / "plugin.py", "--task", "from-a-database", "--out", "run")
    assert code == 1
    assert "RuntimeError in task 'from-a-database': no connection" in error_line(err)


def test_debug_shows_the_traceback(run):
    with pytest.raises(FileNotFoundError):
        main(["--debug", "show", "nothing-there"])


@pytest.mark.slow
def test_a_full_disk_ends_in_a_sentence_and_leaves_the_checkpoint(tmp_path):
    """A file-size limit stands for the full disk: the first checkpoint fits, the limit comes later."""
    script = f"""
import resource, signal, sys
from l2l_opt.cli.progress import MetaTrainingProgress
from l2l_opt.cli.main import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
usual = MetaTrainingProgress.on_outer_step
def limit(self, trainer, step):
    if step.number == 3:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    usual(self, trainer, step)
MetaTrainingProgress.on_outer_step = limit
main(["meta-train", "--rule", "rnnprop:hidden_size=4", "--task", "quadratics:dim=2", "--outer-steps", "6",
      "--checkpoint-every", "2", "--validate-every", "0", "--out", {str(tmp_path / "run")!r}])
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stderr
    assert "Error: " in result.stderr
    assert "Traceback" not in result.stderr
    script = script.replace("if step.number == 3", "if False").replace('"--out"', '"--resume", "--out"')
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "going on from outer step 2" in result.stderr


NOTHING_FINITE = """
import torch
from torch import nn
from l2l_opt import ModuleTask, register_task
from l2l_opt.tasks.base import TASKS

def enter(name, loss, inputs=torch.ones(8, 2)):
    make = lambda *, device="cpu", dtype=torch.float32: ModuleTask(
        nn.Linear(2, 1), loss, (inputs, inputs[:, 0]), device=device, dtype=dtype
    )
    if name not in TASKS.names():  # a plugin runs anew in each command of this process
        register_task(name)(make)

enter("nan-loss", lambda outputs, _: (-1 - outputs.square()).log().mean())
enter("infinite-loss", lambda outputs, _: (1e30 * (2 + outputs.abs())).square().mean())
enter("nan-gradient", lambda outputs, _: (outputs - outputs.detach()).abs().sqrt().mean() + outputs.square().mean())
"""


@pytest.fixture
def nothing_finite(tmp_path):
    """Options that name a task whose loss, or only its gradient, is not finite."""
    (tmp_path / "plugin.py").write_text(NOTHING_FINITE)
    return lambda name: ["--task", name, "--plugin", tmp_path / "plugin.py", "--horizon", 4]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("nan-loss", ["3 of 3 outer steps skipped", "meta-loss of nan at outer step 1"]),
        ("infinite-loss", ["3 of 3 outer steps skipped", "meta-loss of", "at outer step 1", "--truncation-length"]),
        ("nan-gradient", ["3 of 3 outer steps skipped", "meta-loss of nan at outer step 1"]),
    ],
)
def test_a_run_that_learned_nothing_reports_it_and_leaves_no_rule(run, tmp_path, nothing_finite, task, words):
    small = ["--rule", "rnnprop:hidden_size=2", "--students", 2, "--validation-students", 2, "--outer-steps", 3]
    start = ["meta-train", *small, *nothing_finite(task), "--truncation-length", 2, "--out", "run"]
    for again in ([], ["--resume"]):
        code, out, err = run(*start, *again)
        assert code == 1
        line = error_line(err)
        for word in words:
            assert word in line
        assert "last.safetensors" in out
        assert (tmp_path / "run" / "last.safetensors").is_file()
        assert not (tmp_path / "run" / "rule.safetensors").exists()
    assert run("report", "run")[0] == 2


@pytest.mark.slow
def test_a_run_of_which_no_validation_is_finite_reports_it(run, tmp_path, nothing_finite):
    small = ["--validation-task", "nan-loss", *nothing_finite("quadratics:dim=2")]
    code, _, err = run(*META_TRAIN, *small, "--truncation-length", 2, "--out", "run")
    assert code == 1
    assert "a validation must be finite" in error_line(err)
    assert not (tmp_path / "run" / "rule.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("task", ["nan-loss", "nan-gradient"])
def test_a_run_that_is_never_finite_ends_after_twenty_outer_steps(run, tmp_path, nothing_finite, task):
    small = ["--rule", "rnnprop:hidden_size=2", "--students", 1, "--validation-students", 1, "--outer-steps", 100000]
    start = ["meta-train", *small, *nothing_finite(task), "--truncation-length", 2, "--out", "run"]
    for again, done in (([], 20), (["--resume"], 21)):
        code, out, err = run(*start, *again)
        assert code == 1
        assert f"ended early after outer step {done} of 100000" in out
        assert f"{done} of {done} outer steps skipped" in error_line(err)
        assert not (tmp_path / "run" / "rule.safetensors").exists()
    # What was at fault is mended: the same folder goes on.
    plugin = tmp_path / "plugin.py"
    start = ["meta-train", *small, "--task", "quadratics:dim=2", "--plugin", plugin, "--horizon", 4]
    start += ["--truncation-length", 2, "--out", "run", "--outer-steps", 23, "--resume", "--allow-changed-options"]
    code, out, err = run(*start)
    assert code == 0, err
    assert "finished after outer step 23" in out
    assert (tmp_path / "run" / "rule.safetensors").is_file()


@pytest.mark.slow
def test_a_learner_that_learned_nothing_reports_it_and_leaves_no_file(run, tmp_path):
    start = ["few-shot", "meta-train", "--episodes", "clusters:ways=2,shots=2,dim=4", "--model", "mlp:hidden=4"]
    start += ["--meta-batch", 2, "--validation-episodes", 2, "--outer-steps", 2, "--inner-steps", 3, "--out", "run"]
    for again in ([], ["--resume"]):
        code, _, err = run(*start, "--method", "maml:lr=1e38", *again)
        assert code == 1
        assert "2 of 2 outer steps skipped" in error_line(err)
        assert not (tmp_path / "run" / "learner.safetensors").exists()
    many = ["--outer-steps", 100000, "--out", "many"]
    code, out, err = run(*start, "--method", "maml:lr=1e38", *many)
    assert (code, "ended early after outer step 20" in out) == (1, True), err
    code, _, err = run("few-shot", "evaluate", "run/last.safetensors", "--num-episodes", 4, "--out", "scored")
    assert code == 1
    assert "NaN in all 4 runs on test episodes" in error_line(err)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "task"),
    [(command, task) for command in ("evaluate", "inspect", "report") for task in ("nan-loss", "infinite-loss")]
    # Not of inspect, where the optimizer skips updates that are not finite.
    + [("evaluate", "nan-gradient"), ("report", "nan-gradient")],
)
def test_a_comparison_in_which_nothing_is_finite_reports_it(run, tmp_path, nothing_finite, command, task):
    seeds = {"inspect": [], "report": ["--seeds", 1]}.get(command, ["--seeds", 2])
    small = [*seeds, "--tuning-seeds", 1, "--cache", "cache", *nothing_finite(task)]
    small += ["--baselines", "adamw" if command == "report" else "sgd"]
    code, out, err = run(command, "default-1", *small)
    assert code == 1
    assert "some final loss must be finite" in error_line(err)
    assert "wins" not in out
    assert not list(tmp_path.rglob("evaluation.json"))
    assert not (tmp_path / "report.html").exists()


def test_a_suite_that_is_looked_at_rarely_is_noted_where_looks_are_written_down(run):
    command = ["evaluate", "default-1", "--suite", "held-out", "--cache", "cache", "--horizon", "7"]
    code, _, err = run(*command)  # no task of it is for 7 steps, so that this is no look
    assert code == 2
    assert "note this look" in err
    assert "results/held_out/looks.md" in err
    assert load_rule("default-1").card["digest"] in err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("model", "--model must name a file and a function in it; got 'model', use FILE.py:make"),
        ("model.py:other", "--model must name a function of 'model.py'; got 'other', define it there"),
        ("model.py:nothing", "model.py:nothing must make a torch.nn.Module; got int, return the model"),
        ("model.py:broken", "model.py:broken must make a model; got ZeroDivisionError: division by zero, mend it"),
        ("model.py:frozen", "a model must have parameters to train; got none, return one that has"),
    ],
)
def test_show_model(run, tmp_path, given, message):
    functions = {"nothing": "3", "broken": "1 / 0", "frozen": "torch.nn.ReLU()"}
    lines = [f"def {name}():\n    return {value}\n" for name, value in functions.items()]
    (tmp_path / "model.py").write_text("\n\n".join(["import torch\n", *lines]))
    save_rule(RNNProp(hidden_size=2), tmp_path / "rule.safetensors")
    code, _, err = run("show", "rule.safetensors", "--model", given)
    assert code == 2
    assert message in error_line(err)
