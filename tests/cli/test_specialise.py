"""l2l-opt specialise from beginning to end, and what it refuses."""

import json
import signal

import pytest
import torch

from l2l_opt import LearnedOptimizer, load_rule
from l2l_opt.pretrained import DEFAULT
from l2l_opt.specialising.options import SpecialiseOptions
from tests.cli.test_terminal import interrupted, resume_command
from tests.command_line import run_python
from tests.own_data import write_rows, write_texts
from tests.specialising.test_run import planned

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
    assert rule.card["provenance"]["began_from"] == DEFAULT
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


def test_a_changed_plugin_does_not_resume_a_run_and_the_page_names_it(tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from l2l_opt import register_task\nfrom l2l_opt.tasks.synthetic.quadratics import Quadratics\n\n"
        "@register_task('mine')\ndef mine():\n    return Quadratics(dim=3)\n"
    )
    # From far too small steps something is gained for certain, so that there is a page.
    command = ["compact:output_scale=1e-4", "--plugin", plugin, "--task", "mine", *QUICK[2:], "--out", tmp_path / "out"]
    done = run(*command)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["data"][str(plugin)].startswith("sha256:")
    assert str(plugin) in json.loads((tmp_path / "out" / "specialised.json").read_text())["command"]
    plugin.write_text(plugin.read_text().replace("dim=3", "dim=4"))
    refused = run(*command, "--resume")
    assert refused.returncode == 2
    assert "mine.py was 'sha256:" in refused.stderr.replace("\n", " ")


def test_a_folder_that_holds_a_run_is_left_alone(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    done = run(*QUICK, "--out", tmp_path)
    assert done.returncode == 2
    assert "must not hold a run already" in done.stderr


def test_a_signal_in_a_stage_ends_it_in_a_sentence_and_it_goes_on_alike(tmp_path):
    given = {"rule": "default-1", "task": "quadratics:dim=3", "horizon": 10, "minutes": 30.0, "seeds": 2}
    command = ["specialise", "default-1", "--task", "quadratics:dim=3", "--horizon", 10, "--minutes", 30.0]
    command += ["--seeds", 2, "--baselines", "", "--resume", "--out"]

    def weights(folder):
        done = run_python("-m", "l2l_opt.cli", *command, folder)
        assert done.returncode == 0, done.stderr
        files = ("rule.safetensors", "stage-1/rule.safetensors", "stage-1/last.safetensors")
        return [dict(load_rule(folder / file).named_parameters()) for file in files]

    for name in ("whole", "part"):
        planned(tmp_path / name, SpecialiseOptions(**given, baselines=()), outer_steps=12)
    whole, part = weights(tmp_path / "whole"), tmp_path / "part"
    said = interrupted([*command, part], "outer step 2 of 12", number=signal.SIGTERM)
    assert "stopped by SIGTERM; go on with: " in said
    assert resume_command(said) == [*map(str, command), str(part)]
    assert not (part / "rule.safetensors").exists()
    for one, other in zip(weights(part), whole, strict=True):
        assert all(torch.equal(weight, other[key]) for key, weight in one.items())


def test_a_table_of_ones_own_is_specialised_on_and_a_changed_one_is_refused(tmp_path):
    rows = write_rows(tmp_path / "a, b=c.csv")
    task = f"table-mlp:data='{rows}',target=price,hidden=4,layers=1,batch_size=4"
    command = ["--task", task, *QUICK[2:], "--check", "hidden=8", "--out", tmp_path / "mine"]
    done = run(*command)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "mine" / "run.json").read_text())
    assert list(record["data"]) == [str(rows)]
    assert record["data"][str(rows)].startswith("sha256:")
    assert load_rule(tmp_path / "mine" / "rule.safetensors").card["provenance"]["data"] == record["data"]
    again = run(*command, "--resume")
    assert again.returncode == 0, again.stderr
    rows.write_text(rows.read_text().replace("north", "north-west"))
    refused = run(*command, "--resume")
    assert refused.returncode == 2
    assert "with the options and the data it was started with; got others" in refused.stderr.replace("\n", " ")
    assert "b=c.csv was 'sha256:" in refused.stderr.replace("\n", " ")


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("table-mlp:data=nope.csv,target=a", "data must be a file or a folder that exists; got 'nope.csv'"),
        ("table-mlp:data=few.csv,target=a", "a table must have at least 10 rows, of which a fifth is held out; got 3"),
        ("table-mlp:data=rows.csv,target=a", "must be in the table; got 'a', use one of x0"),
        ("table-mlp:data=rows.csv", "target must name the column that is learned"),
        ("table-mlp", "an option of task 'table-mlp' must be given; got no 'data'"),
        ("text-rnn:data=texts,length=5000", "length must leave many stretches in a text of"),
    ],
)
def test_data_of_ones_own_that_cannot_be_learned_are_refused_in_a_sentence(task, message, tmp_path):
    write_rows(tmp_path / "rows.csv")
    write_texts(tmp_path / "texts")
    (tmp_path / "few.csv").write_text("a,b\n1,2\n3,4\n5,6\n")
    done = run("--task", task, "--out", tmp_path / "out", folder=tmp_path)
    assert done.returncode in (1, 2)
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
