"""l2l-opt few-shot from the command line: journeys, resume, and bad input."""

import csv
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from l2l_opt import load_rule
from l2l_opt.cli import adapt
from tests.cli.test_errors import error_line, run  # noqa: F401
from tests.cli.test_journeys import digests, l2l_opt

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

SMALL = ["--episodes", "clusters:ways=2,shots=2,dim=8", "--model", "mlp:hidden=8", "--meta-batch", 4]
SMALL += ["--validation-episodes", 20, "--validate-every", 20, "--meta-lr", 0.01]


def test_meta_train_and_evaluate(tmp_path):
    for name, method in {"maml": "maml:lr=0.3", "meta-lstm": "meta-lstm:lr=0.3,hidden_size=3"}.items():
        result = l2l_opt(
            "few-shot", "meta-train", *SMALL, "--method", method, "--outer-steps", 60, "--out", tmp_path / name
        )
        assert "finished after outer step 60 of 60" in result.stdout
        assert (tmp_path / name / "learner.safetensors").is_file()
    assert load_rule(tmp_path / "meta-lstm" / "rule.safetensors").config["hidden_size"] == 3
    assert not (tmp_path / "maml" / "rule.safetensors").exists()
    for name in ("maml", "meta-lstm"):
        events = EventAccumulator(str(tmp_path / name / "events"))
        events.Reload()
        tags = events.Tags()["scalars"]
        assert {"meta/loss", "validation/figure"} <= set(tags)
        # TensorBoard opens on the first of them.
        assert min(tags, key=str.casefold) == "Loss/student"
        losses = [[event.value for event in events.Scalars(tag)] for tag in ("Loss/student", "meta/loss")]
        assert losses[0] == losses[1] != []

    result = l2l_opt(
        "few-shot", "evaluate", tmp_path / "maml", tmp_path / "meta-lstm", "--inner-steps", 1, "--inner-steps", 3,
        "--num-episodes", 40, "--out", tmp_path / "evaluated",
    )  # fmt: skip
    assert "40 test episodes" in result.stdout
    content = json.loads((tmp_path / "evaluated" / "evaluation.json").read_text())
    assert [(len(row["scores"]), row["inner_steps"]) for row in content["results"]] == [(40, 1), (40, 3)] * 2
    maml, _, other, _ = content["results"]
    apart = np.mean(np.subtract(other["scores"], maml["scores"]))
    assert content["differences"][0]["mean"] == pytest.approx(apart, abs=1e-6)
    assert 0.5 < maml["mean"] <= 1


def test_a_learned_rule_goes_on_from_an_artefact(tmp_path):
    first = ["few-shot", "meta-train", *SMALL, "--outer-steps", 20, "--method", "learned-rule"]
    l2l_opt(*first, "--rule", "rnnprop:hidden_size=3", "--out", tmp_path / "a")
    l2l_opt(*first, "--rule", tmp_path / "a" / "rule.safetensors", "--out", tmp_path / "b")
    before, after = (dict(load_rule(tmp_path / name / "rule.safetensors").named_parameters()) for name in "ab")
    assert any(not np.array_equal(before[key].detach(), after[key].detach()) for key in before)


def test_killed_and_resumed_is_the_same_run(tmp_path):
    options = [*SMALL, "--method", "meta-sgd:lr=0.3", "--outer-steps", 150, "--checkpoint-every", 10]
    l2l_opt("few-shot", "meta-train", *options, "--out", tmp_path / "whole")
    command = [sys.executable, "-m", "l2l_opt.cli", "few-shot", "meta-train", *map(str, options)]
    process = subprocess.Popen([*command, "--out", str(tmp_path / "killed")], stderr=subprocess.DEVNULL)
    record = tmp_path / "killed" / "run.json"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (record.exists() and json.loads(record.read_text())["outer_step"] >= 20):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert json.loads(record.read_text())["outer_step"] < 150
    result = l2l_opt("few-shot", "meta-train", *options, "--out", tmp_path / "killed", "--resume")
    assert "going on from outer step" in result.stderr
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")


@pytest.fixture
def table(tmp_path):
    """Rows whose label a sum of two columns gives, one column of words, and new rows without labels."""
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(60, 4))
    labels = np.where(rows[:, 0] + rows[:, 1] > 0.8, "fraud", "fine")
    for name, part, with_label in (("my.csv", slice(0, 40), True), ("new.csv", slice(40, 60), False)):
        with open(tmp_path / name, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["a", "b", "c", "d", "shop"] + ["label"] * with_label)
            for row, label in zip(rows[part], labels[part], strict=True):
                writer.writerow([*row, "north" if row[3] > 0 else "south"] + [label] * with_label)
    return tmp_path, labels[40:]


FAST = ["--members", 4, "--steps", 40, "--model", "mlp:hidden=16"]


def test_adapt_and_predict_rows(table):
    folder, expected = table
    result = l2l_opt("few-shot", "adapt", "--data", folder / "my.csv", "--label", "label", "--out", folder / "m", *FAST)
    for words in ("logistic regression", "gradient boosting", "PR-AUC", "the rule default-2 transfers", "'fraud'"):
        assert words in result.stdout
    report = json.loads((folder / "m" / "report.json").read_text())
    assert report["cross_validation"]["adapted"]["pr_auc"] > 0.7
    l2l_opt("few-shot", "predict", "--model", folder / "m", "--data", folder / "new.csv", "--out", folder / "p.csv")
    with open(folder / "p.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["row"] for row in rows] == [str(number + 1) for number in range(20)]
    assert np.mean([row["prediction"] == label for row, label in zip(rows, expected, strict=True)]) > 0.75
    for row in rows:
        assert float(row["probability_fraud"]) + float(row["probability_fine"]) == pytest.approx(1, abs=1e-5)


def test_messages_ids_and_unknown_cells_reach_the_user(tmp_path):
    """An id, free text, an NA, decimal commas, semicolons, Latin-1; then blanks, an unknown word, another order."""
    rows = [
        f"K{n:03};{n / 4}".replace(".", ",")
        + f";{['Zürich', 'Bern'][n % 2]};words of row {n};{['ja', 'nein'][n % 2]}\n"
        for n in range(30)
    ]
    rows[4] = rows[4].replace(";1,0;", ";NA;")
    (tmp_path / "t.csv").write_bytes(("key;size;town;about;y\n" + "".join(rows)).encode("latin-1"))
    result = l2l_opt("few-shot", "adapt", "--data", tmp_path / "t.csv", "--label", "y", "--out", tmp_path / "m", *FAST)
    for words in (
        "not UTF-8 and was read as cp1252",
        "column 'size' is read as numbers with a decimal comma: '0,0' as 0",
        "left out, unless named as numbers or words: 'key'",
        "'about'",
        "cells without a value, taken as the mean or as no word: 1 in 'size'",
    ):
        assert words in result.stderr
    assert len(json.loads((tmp_path / "m" / "report.json").read_text())["notes"]) == 4
    (tmp_path / "new.csv").write_text('town,key,size,y\nGenf,K900,"3,5",\nBern,K901,?,\n')
    options = ["--model", tmp_path / "m", "--data", tmp_path / "new.csv", "--out", tmp_path / "p.csv"]
    result = l2l_opt("few-shot", "predict", *options)
    assert "cells of unknown words: 1 in 'town'" in result.stderr
    assert "cells without a value, taken as the mean or as no word: 1 in 'size'" in result.stderr
    with open(tmp_path / "p.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["row"], row["key"]) for row in rows] == [("1", "K900"), ("2", "K901")]
    assert rows[1]["prediction"] == "nein"
    l2l_opt("few-shot", "predict", *options, "--id", "town")
    assert "row,town,prediction," in (tmp_path / "p.csv").read_text()


def test_a_budget_is_kept_to_and_said(tmp_path, run):  # noqa: F811
    generator = np.random.default_rng(0)
    rows = "".join(f"{generator.normal() + n % 2},{generator.normal()},{'xz'[n % 2]}\n" for n in range(1200))
    (tmp_path / "t.csv").write_text(f"a,b,y\n{rows}")
    code, _, err = run("few-shot", "adapt", "--data", "t.csv", "--label", "y", "--out", "m", *FAST, "--budget", 0.1)
    assert (code, "cross-validation has 2 folds instead of 5, no gradient boosting" in err) == (0, True)
    assert "more than 1000 examples: a model trained by LearnedOptimizer on batches may be better" in err
    assert "gradient boosting" not in json.loads((tmp_path / "m" / "report.json").read_text())["cross_validation"]


def test_adapt_and_predict_images(tmp_path):
    generator = np.random.default_rng(0)
    for name, colour in (("sea", [0, 60, 200]), ("wood", [20, 150, 30])):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(6):
            pixels = np.clip(generator.normal(colour, 40, (12, 12, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.png")
    small = ["--members", 2, "--steps", 20, "--side", 12]
    l2l_opt("few-shot", "adapt", "--data", tmp_path / "data", "--out", tmp_path / "m", *small)
    l2l_opt("few-shot", "predict", "--model", tmp_path / "m", "--data", tmp_path / "data", "--out", tmp_path / "p.csv")
    with open(tmp_path / "p.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert all(f"/{row['prediction']}/" in row["file"] for row in rows)


@pytest.mark.parametrize(
    ("text", "arguments", "code", "words"),
    [
        ("a,y\n1,x\n2,x\n3,x\n", [], 2, ["at least two classes", "'x' alone"]),
        ("a,y\n1,x\n2,x\n3,z\n", [], 2, ["at least 2 examples", "1 of 'z'"]),
        ("a,y\n1,x\n2,\n3,z\n", [], 2, ["every cell", "line 3", "'y'"]),
        ("a,y\n1,x\n2,nan\n3,z\n", [], 2, ["every cell", "'nan'"]),
        (
            "a,y\n" + "".join(f"{n}.5,{'xz'[n % 2]}\n" for n in range(20)) + "7b,x\n",
            [],
            2,
            ["one way", "'7b'", "line 22", "'a'", "--ignore"],
        ),
        ("a,y\n" + "".join(f"{n},{n / 8}\n" for n in range(20)), [], 2, ["labels must be classes", "regression"]),
        ("a,y\n1,x\n2,x\n3,z\n4,z\n", ["--ignore", "b"], 2, ["a column must be in the table", "'b'", "use one of a"]),
        ("a,y\n1,x\n2,x\n3,z\n4,z\n", ["--ignore", "a"], 2, ["a column of numbers"]),
        ("a,b\n1,x\n", [], 2, ["label's column", "'y'", "a, b"]),
        ("a,y\n1,x\n2,x\n3,z\n4,z\n", ["--positive", "q"], 2, ["--positive", "'q'", "x, z"]),
        ("a,y\n1,x\n2,x\n3,z\n4,z\n", ["--rule", "nothing"], 2, ["rule", "'nothing'"]),
        ("a,y\n1,x\n2,x\n3,z\n4,z\n", ["--model", "tree"], 2, ["model", "'tree'"]),
        ("a,y\n1,x\n2,x\n3,z\n4,z\n", ["--model", "conv"], 2, ["convolutions need images"]),
    ],
)
def test_adapt_names_what_is_wrong_and_writes_nothing(run, tmp_path, text, arguments, code, words):  # noqa: F811
    (tmp_path / "t.csv").write_text(text)
    found, _, err = run("few-shot", "adapt", "--data", "t.csv", "--label", "y", "--out", "model", *arguments)
    assert found == code
    assert all(word in error_line(err) for word in words), err
    assert not (tmp_path / "model").exists()


def test_adapt_refuses_what_is_not_there(run, tmp_path):  # noqa: F811
    code, _, err = run("few-shot", "adapt", "--data", "none.csv", "--label", "y", "--out", "model")
    assert (code, "a table must exist" in error_line(err)) == (1, True)
    code, _, err = run("few-shot", "adapt", "--data", "none", "--out", "model")
    assert (code, "a CSV file or a folder of images must exist; got 'none'" in error_line(err)) == (1, True)
    (tmp_path / "t.csv").write_text("a,y\n1,x\n2,x\n3,z\n4,z\n")
    code, _, err = run("few-shot", "adapt", "--data", "t.csv", "--out", "model")
    assert (code, "use --label NAME" in error_line(err)) == (2, True)
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
    code, _, err = run("few-shot", "adapt", "--data", "data", "--out", "model")
    assert (code, "every class must have images" in error_line(err)) == (2, True)
    for name in ("a", "b"):
        (tmp_path / "data" / name / "x.png").write_text("no image")
    code, _, err = run("few-shot", "adapt", "--data", "data", "--out", "model")
    assert (code, "every image must be readable" in error_line(err)) == (2, True)
    code, _, err = run("few-shot", "predict", "--model", "model", "--data", "t.csv", "--out", "p.csv")
    assert (code, "a model must lie in its folder" in error_line(err)) == (1, True)
    assert not (tmp_path / "model").exists()
    assert not (tmp_path / "p.csv").exists()


def test_a_model_is_not_overwritten_and_predictions_need_its_columns(table, run):  # noqa: F811
    folder, _ = table
    arguments = ["few-shot", "adapt", "--data", "my.csv", "--label", "label", "--out", "m", *FAST]
    assert run(*arguments)[0] == 0
    before = (folder / "m" / "model.safetensors").read_bytes()
    code, _, err = run(*arguments)
    assert (code, "must not hold a model already" in error_line(err)) == (2, True)
    assert (folder / "m" / "model.safetensors").read_bytes() == before
    (folder / "other.csv").write_text("a,b\n1,2\n")
    code, _, err = run("few-shot", "predict", "--model", "m", "--data", "other.csv", "--out", "p.csv")
    assert (code, "got none named 'c'" in error_line(err)) == (2, True)
    assert not (folder / "p.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--episodes", "cluster"], ["source of episodes", "'cluster'", "clusters"]),
        (["--episodes", "clusters:shots=90"], ["at least shots + queries"]),
        (["--method", "mamml"], ["few-shot method", "'mamml'", "maml"]),
        (["--method", "maml:rate=1"], ["'rate'"]),
        (["--method", "learned-rule"], ["without one"]),
        (["--rule", "lstm"], ["'maml' with 'lstm'"]),
        (["--model", "mpl"], ["model", "'mpl'", "mlp"]),
        (["--episodes", "images:folder=none"], ["a folder of images must exist"]),
        (["--episodes", "clusters:ways=99"], ["as many classes as ways", "60 for meta-train", "split=3x1x1"]),
        (["--episodes", "images"], ["must be given", "'folder'", "images:folder=VALUE"]),
        (["--meta-lr", "-1"], ["meta_lr must be a positive number"]),
    ],
)
def test_meta_train_names_what_is_wrong_and_writes_nothing(run, tmp_path, arguments, words):  # noqa: F811
    code, _, err = run("few-shot", "meta-train", "--outer-steps", 2, "--out", "run", *arguments)
    assert code in (1, 2)
    assert all(word in error_line(err) for word in words), err
    assert not (tmp_path / "run").exists()


def test_a_folder_with_a_run_is_refused(run, tmp_path):  # noqa: F811
    arguments = ["few-shot", "meta-train", *SMALL, "--outer-steps", 2, "--out", "run"]
    assert run(*arguments)[0] == 0
    code, _, err = run(*arguments)
    assert (code, "--resume" in error_line(err)) == (2, True)
    code, _, err = run(*arguments, "--resume", "--method", "fomaml")
    assert (code, "method was 'maml', is 'fomaml'" in error_line(err)) == (2, True)
    assert run(*arguments, "--resume")[0] == 0


def test_what_is_noted_of_data_is_a_line_of_the_output(run, tmp_path):  # noqa: F811
    rows = "".join(f"{n},{n % 7},{n % 5}\n" for n in range(90))
    (tmp_path / "t.csv").write_text(f"id,x,kind\n{rows}")
    episodes = ["--episodes", "table:file=t.csv,label=kind,ways=2,shots=2,queries=3,split=2x2x1"]
    small = [*episodes, "--meta-batch", 2, "--validation-episodes", 2, "--model", "mlp:hidden=4"]
    code, _, err = run("few-shot", "meta-train", *small, "--outer-steps", 1, "--out", "run")
    assert code in (0, 2), err
    (note,) = [line for line in err.splitlines() if "numbers the rows" in line]
    assert note.startswith("note: ")
    assert "DataNote" not in err
    assert "warn" not in err


@pytest.mark.parametrize(("seconds", "lines"), [(0.0, 3), (100.0, 0)])
def test_cross_validation_shows_lines_where_there_is_no_terminal(seconds, lines, monkeypatch, capsys):
    monkeypatch.setattr(adapt, "LINE_SECONDS", seconds)
    assert list(adapt._progress(["a", "b", "c"])) == ["a", "b", "c"]
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == lines
    assert all(line.startswith("cross-validation: ") and "of 3 parts" in line for line in shown)
