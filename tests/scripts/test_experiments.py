"""Scripts whose output is kept in the repository."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from l2l_opt import load_rule, save_rule
from l2l_opt.evaluation.baselines.entries import ADAMW_CONSTANT
from l2l_opt.evaluation.runs import long_curves
from l2l_opt.evaluation.speed_up import running_mean
from l2l_opt.evaluation.suites import load_suite
from l2l_opt.inner_loop.training import tail_length
from l2l_opt.pretrained import DEFAULT
from l2l_opt.rules import make_rule
from l2l_opt.storage.named_rule import read_rule
from l2l_opt.tasks import make_task
from scripts.experiments.benchmarks import scale
from scripts.experiments.default import ablate_default, measure_sizes, merge_families, search_constants, ship_rule
from scripts.experiments.few_shot import page as few_shot
from scripts.experiments.paper import figures, recipes, reproduce_paper
from scripts.experiments.rules import compare_rules
from scripts.experiments.specialise import measure_specialise, measure_speed_ups

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def start(name, *arguments):
    """A script of scripts/experiments as one types it."""
    command = [sys.executable, "-m", f"scripts.experiments.{name}", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def run_script(name, *arguments):
    done = start(name, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_on_scale_is_what_its_script_writes_from_the_measurements():
    assert scale.PAGE.read_text() == scale.page(), "python -m scripts.experiments.benchmarks.scale writes it anew"


def test_the_page_on_few_examples_is_what_its_script_writes_from_the_results():
    assert few_shot.PAGE.read_text() == few_shot.page(), "python -m scripts.experiments.few_shot.page writes it anew"


def test_the_papers_quadratics_come_out_again_from_what_is_committed(tmp_path):
    """The first 30 steps as they are, then what the page claims: rounding grows a hundredfold and more in ten steps."""
    run_script("paper.reproduce_paper", "--figure", "quadratics", "--artefacts", "--out", tmp_path)
    folders = [folder / "quadratics" for folder in (reproduce_paper.RESULTS, tmp_path)]
    committed, again = (json.loads((folder / "evaluation.json").read_text())["results"] for folder in folders)
    assert [row["optimizer"] for row in again] == [row["optimizer"] for row in committed]
    assert again[0]["optimizer"] == "learned"
    for ours, theirs in zip(again, committed, strict=True):
        assert theirs["interval"][0] < ours["mean"] < theirs["interval"][1]
    assert again[0]["mean"] < min(row["mean"] for row in again[1:]) / 2
    curves, curves_again = (np.load(folder / "curves.npz") for folder in folders)
    assert len(curves) == len(committed)
    for row, curve in curves.items():
        assert curve[:30] == pytest.approx(curves_again[row][:30], rel=1e-4)
    assert "| Quadratics | quadratics-lstm |" in (tmp_path / "README.md").read_text()
    assert "</svg>" in (tmp_path / "quadratics" / "curves.svg").read_text()


def test_the_page_on_the_papers_figures_is_what_its_script_writes_from_the_results():
    page = figures.page(reproduce_paper.RESULTS, reproduce_paper.all_artefacts(), recipes.FIGURES)
    assert (reproduce_paper.RESULTS / "README.md").read_text() == page


def test_every_artefact_of_a_figure_is_committed_with_the_command_that_makes_it():
    for name, figure in recipes.FIGURES.items():
        for artefact in figure.artefacts:
            assert reproduce_paper.artefact(artefact).exists(), (name, artefact)
            if artefact in recipes.ELSEWHERE:
                continue
            command = load_rule(reproduce_paper.artefact(artefact)).card["provenance"]["command"]
            for option in recipes.META_TRAINING[artefact].options.split(" --"):
                assert option.removeprefix("--").strip("'\"") in command.replace("'", ""), (artefact, option)


def test_losses_run_again_replace_those_read_and_the_others_stay():
    results = figures.read(reproduce_paper.RESULTS / "quadratics")
    stored = results[0]
    again = replace(stored, final_losses=[1.0, 2.0], curves=stored.curves[:, :2] + 1)
    merged = reproduce_paper.completed(again, stored)
    assert merged.final_losses == [1.0, 2.0, *stored.final_losses[2:]]
    assert merged.mean == pytest.approx(sum(merged.final_losses) / len(merged.final_losses))
    assert merged.interval[0] < merged.mean < merged.interval[1]
    assert merged.curves.shape == stored.curves.shape
    assert (merged.curves[:, 2:] == stored.curves[:, 2:]).all()
    assert (merged.curves[:, :2] != stored.curves[:, :2]).all()


def test_damaged_files_and_state_dicts_are_refused_or_load_as_they_are(tmp_path):
    run_script("optimizer.fuzz_files", "--cases", 200, "--seed", 1, "--out", tmp_path / "fuzz.json")
    content = json.loads((tmp_path / "fuzz.json").read_text())
    for kind in ("artefacts", "checkpoints", "state_dicts"):
        outcomes = content[kind]["outcomes"].values()
        assert sum(sum(counts.values()) for counts in outcomes) == 200
        assert sum(counts.get("refused", 0) for counts in outcomes) > 100
        assert sum(counts.get("refused", 0) for counts in outcomes) < 200
        assert content[kind]["failures"] == []


@pytest.fixture(scope="module")
def small_default(tmp_path_factory):
    """Two short runs of meta-training, the second from the first, and a suite of two small tasks."""
    folder = tmp_path_factory.mktemp("default")
    common = ["--task", "quadratics:dim=3", "--horizon", "10", "--truncation-length", "5", "--outer-steps", "1"]
    common += ["--estimator", "nres:only=readout", "--students", "2", "--validation-students", "1"]
    # Without a natural size, so that a tensor's scale is nothing to it.
    rule = "scale-free:hidden_size=2,tensor_size=2,natural_share=0"
    for stage in ("first", "second"):
        arguments = ["meta-train", "--rule", rule, *common, "--out", str(folder / stage)]
        subprocess.run([sys.executable, "-m", "l2l_opt.cli", *arguments], check=True, capture_output=True)
        rule = str(folder / stage / "rule.safetensors")
    (folder / "suite.txt").write_text("quadratics:dim=3\ndigits-mlp:hidden=4,batch_size=16\n")
    return folder


def test_the_default_rule_is_measured_outside_its_comfort(small_default, tmp_path):
    rule = small_default / "second" / "rule.safetensors"
    common = ["--rule", rule, "--suite", small_default / "suite.txt", "--seeds", 1, "--out", tmp_path]
    run_script("default.measure_default", "planned", *common, "--horizon", 20)
    run_script("default.measure_default", "scales", *common, "--horizon", 20)
    run_script("default.measure_default", "long", *common, "--horizon", 30, "--longest", 40)
    planned, scales, long = (
        json.loads(next(tmp_path.glob(f"{name}-*.json")).read_text()) for name in ("planned", "scales", "long")
    )
    assert [row["horizon"] for row in planned["rows"]] == [20, 20]
    assert len({*planned["rows"][1]["losses"].values()}) == 5  # every way of telling makes another run
    for row in scales["rows"]:
        assert all(abs(change) < 0.05 for change in row["changes"].values()), row
    assert [row["horizon"] for row in long["rows"]] == [30, 30, 40, 40]
    assert long["diverged"] == 0


def test_a_rule_is_evaluated_again_beside_baselines_that_ran_before(small_default, tmp_path):
    rule, suite = small_default / "second" / "rule.safetensors", small_default / "suite.txt"
    common = ["--horizon", 12, "--seeds", 2, "--tuning-seeds", 1, "--baselines", "adamw,prodigy"]
    arguments = ["evaluate", rule, "--suite", suite, *common, "--cache", tmp_path / "cache", "--out", tmp_path / "then"]
    command = [sys.executable, "-m", "l2l_opt.cli", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)
    earlier = tmp_path / "then" / "evaluation.json"
    again = ["--rule", rule, "--cache", tmp_path / "cache", "--out", tmp_path / "now"]
    run_script("default.evaluate_again", tmp_path / "then", *again)
    then, now = (json.loads(path.read_text()) for path in (earlier, tmp_path / "now" / "evaluation.json"))
    assert {key: now[key] for key in ("summary", "results", "suite")} == {
        key: then[key] for key in ("summary", "results", "suite")
    }
    run_script("default.measure_default", "against", earlier, "--rule", rule, "--horizon", 12, "--out", tmp_path)
    against = json.loads((tmp_path / "against-12.json").read_text())
    assert against["at_or_below"]["learned"] == [2, 2]
    learned = [row["final_losses"] for row in then["results"] if row["optimizer"] == "learned"]
    assert [row["final_losses"] for row in against["rows"]] == learned

    then["results"][1]["final_losses"][0] += 1e-3
    earlier.write_text(json.dumps(then))
    done = start("default.evaluate_again", tmp_path / "then", *again)
    assert done.returncode == 1
    assert "adamw must end where it did" in done.stderr
    run_script("default.evaluate_again", tmp_path / "then", *again, "--keep-adamw")
    kept = json.loads((tmp_path / "now" / "evaluation.json").read_text())
    order = {"task", "optimizer", "final_losses"}
    assert [{key: row[key] for key in order} for row in kept["results"]] == [
        {key: row[key] for key in order} for row in then["results"]
    ]
    assert "speed_up_steps" in then["summary"][0]
    assert "speed_up_steps" not in kept["summary"][0]


def test_parts_of_the_default_rule_are_taken_out(small_default, tmp_path):
    suite = tmp_path / "suite.txt"
    suite.write_text("quadratics:dim=6\ndigits-linear:batch_size=4\n")
    options = ["--rule", small_default / "second" / "rule.safetensors", "--suite", suite, "--students", 2]
    run_script("default.ablate_default", *options, "--horizon", 20, "--out", tmp_path)
    run_script("default.ablate_default", *options, "--horizon", 10, "--only", "no whitening", "--out", tmp_path)
    rows = json.loads((tmp_path / "ablation.json").read_text())["rows"]
    assert [row["part"] for row in rows[:3]] == ["all of it", "no whitening", "all of it"]
    assert [row["part"] for row in rows[2:]] == list(ablate_default.PARTS)
    whole = rows[2]
    assert whole["train"]["mean"] == whole["test"]["mean"] == 0
    same = [row["part"] for row in rows[3:] if row["train"]["losses"] == whole["train"]["losses"]]
    assert set(same) <= {"no natural size for small weights", "no brake on memorised data"}
    words = (tmp_path / "ablation.md").read_text()
    assert f"| no whitening | 20, 2 | {rows[-8]['train']['mean']:+.3f} (" in words


def test_what_was_learned_is_measured_against_nothing_learned(small_default, tmp_path):
    rule, suite = small_default / "second" / "rule.safetensors", small_default / "suite.txt"
    options = ["--name", "small", "--suite", suite, "--horizon", 20, "--students", 3, "--size", 2, "--out", tmp_path]
    run_script("default.measure_learning", rule, *options)
    (row,) = json.loads((tmp_path / "learning.json").read_text())["results"]["small"]
    assert row["train"]["mean"] != 0
    assert row["train"]["interval"][0] < row["train"]["mean"] < row["train"]["interval"][1]
    assert row["train"]["mean"] == pytest.approx(np.mean([task["mean"] for task in row["train"]["tasks"]]))
    assert row["size_shifts"]["2"] not in (0, row["train"]["mean"])
    assert f"| `small` | suite, 20, 3 | {row['train']['mean']:+.3f} (" in (tmp_path / "learning.md").read_text()
    assert len(row["digest"]) == 64


@pytest.mark.parametrize(
    ("rule", "suite", "message"),
    [
        ("default-9", "validation", "a rule must be a shipped or registered name or the path of an artefact"),
        ("default-1", "nothing", "got 'nothing'"),
    ],
)
def test_what_there_is_not_to_measure_is_said_in_a_sentence(rule, suite, message, tmp_path):
    done = start("default.measure_learning", rule, "--suite", suite, "--out", tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_rule_is_measured_as_networks_grow(monkeypatch, tmp_path):
    monkeypatch.setattr(measure_sizes, "HORIZON", 12)
    families = {name: (make, {1: 4, 2: 8}) for name, (make, _) in measure_sizes.FAMILIES.items()}
    monkeypatch.setattr(measure_sizes, "FAMILIES", families)
    arguments = ["adam:lr=0.001", "--parameters", "2", "--parameters", "1", "--out", str(tmp_path)]
    measure_sizes.main(arguments, standalone_mode=False)
    results = json.loads((tmp_path / "sizes.json").read_text())["results"]
    small, large = (results["gpt adam:lr=0.001"][size] for size in ("1", "2"))
    assert small["parameters"] < large["parameters"]
    best = small["adamw"]["tried"][f"{small['adamw']['lr']:.3g}"]
    assert best == min(small["adamw"]["tried"].values())
    assert "muon" not in results["resnet adam:lr=0.001"]["1"]
    ratios = [mine / their for mine, their in zip(small["rule"]["train"], small["muon"]["train"], strict=True)]
    words = (tmp_path / "sizes.md").read_text()
    assert f"{np.exp(np.log(ratios).mean()):.3f} ({ratios[0]:.3f}, {ratios[1]:.3f})" in words
    assert words.index(f"gpt, {small['parameters']:,}") < words.index(f"gpt, {large['parameters']:,}")
    assert " | - | " in words


def test_long_runs_are_measured_on_the_tasks_that_are_meant_for_them_and_go_on(tmp_path):
    (tmp_path / "suite.txt").write_text(f"quadratics:dim=3 @ 12\niris-mlp @ 20\n{SMALL} @ 12 20\n")
    arguments = ["adam:lr=0.001", "--suite", tmp_path / "suite.txt", "--horizon", 12, "--out", tmp_path]
    run_script("held_out.measure_beside", *arguments)
    results = json.loads((tmp_path / "long.json").read_text())["results"]
    assert list(results) == ["quadratics:dim=3", SMALL]
    each = [np.log(np.mean(own["adamw"]["train"]) / np.mean(own["rule"]["train"])) for own in results.values()]
    ahead = sum(ratio >= 0 for ratio in each)
    words = (tmp_path / "long.md").read_text()
    assert f"| all | {np.mean(np.clip(each, -0.7, 0.7)):+.3f} (" in words
    assert f"at or below on {ahead} of 2 |" in words
    assert "muon" not in results["quadratics:dim=3"]
    written = (tmp_path / "long.json").stat().st_mtime_ns
    run_script("held_out.measure_beside", *arguments)
    assert (tmp_path / "long.json").stat().st_mtime_ns == written

    run_script("held_out.measure_beside", *arguments, "--validated")
    validated = json.loads((tmp_path / "validated.json").read_text())["results"]
    assert set(validated[SMALL]) == {"rule", "adamw", "muon", "sgd"}
    assert validated[SMALL]["rule"]["test"] == results[SMALL]["rule"]["test"]
    assert validated[SMALL]["adamw"]["tried"] != results[SMALL]["adamw"]["tried"]
    best = [min(np.mean(own[key]["test"]) for key in own if key != "rule") for own in validated.values()]
    level = sum(np.mean(own["rule"]["test"]) <= 1.02 * low for own, low in zip(validated.values(), best, strict=True))
    assert f"or within 2 %, on {level} of 2 tasks" in (tmp_path / "validated.md").read_text()


SMALL = "digits-mlp:hidden=4,batch_size=8"


@pytest.fixture
def compared(monkeypatch, tmp_path):
    """Two kinds of rule, which have learned on two small tasks for a second each."""
    monkeypatch.setattr(compare_rules, "FOLDER", tmp_path / "elsewhere")
    monkeypatch.setattr(compare_rules, "TASKS", {"mixture": "quadratics:dim=2 + least-squares:dim=3", "gru": SMALL})
    monkeypatch.setattr(compare_rules, "HORIZON", 20)
    monkeypatch.setattr(compare_rules, "LISTED_HORIZON", 12)
    suite = replace(load_suite("validation"), tasks=("quadratics:dim=3", SMALL))
    monkeypatch.setattr(compare_rules, "load_suite", lambda name: suite)
    monkeypatch.setattr(compare_rules, "best_size", lambda *own: 2.0)
    small = ["--rule", "celo2", "--minutes", "0.02", "--seed", "0"]
    folders = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "results")]
    return lambda *more: compare_rules.main([*small, *folders, *more], standalone_mode=False)


def test_kinds_of_rule_learn_alike_and_stand_in_one_table(compared, tmp_path):
    compared("--on", "gru")
    compared("--on", "mixture", "--rule", "mlp")
    one, two = (
        json.loads((tmp_path / "results" / f"{name}.json").read_text())
        for name in ("celo2-gru-0.02-0", "mlp-mixture-0.02-0")
    )
    assert list(one["losses"]) == [SMALL]
    assert len(one["losses"][SMALL]["train"]) == compare_rules.OWN_STUDENTS
    assert list(two["losses"]) == ["quadratics:dim=3", SMALL]
    assert [stage["estimator"].partition(":")[0] for stage in two["plan"]] == ["tbptt", "nres"]
    assert min(stage["done"] for stage in two["outer_steps"].values()) >= 1
    assert two["weights"] == 2409
    references = {on: compare_rules.references(on, tmp_path / "results") for on in ("gru", "mixture")}
    assert set(references["gru"][SMALL]) == {DEFAULT, "adamw", "muon"}
    assert "muon" not in references["mixture"]["quadratics:dim=3"]
    found = compare_rules.log_ratios(two, references, "adamw", "train")
    each = [
        np.log(np.mean(references["mixture"][task]["adamw"]["train"]) / np.mean(two["losses"][task]["train"]))
        for task in two["losses"]
    ]
    assert found["mean"] == pytest.approx(np.mean(np.clip(each, -0.7, 0.7)))
    assert found["ahead"] == sum(own >= 0 for own in each)
    words = (tmp_path / "results" / "README.md").read_text()
    taken = sum(two["seconds"].values()) / 60
    assert f"| mixture | `mlp` | 0.02, {taken:.1f}, 0 | {found['mean']:+.3f} (" in words
    assert "| `celo2` | 329 | 16.0 |" in words

    digests = [one["digest"]]
    compared("--on", "gru")
    digests.append(json.loads((tmp_path / "results" / "celo2-gru-0.02-0.json").read_text())["digest"])
    assert digests[0] == digests[1]


def test_speed_ups_are_measured_against_a_run_sixteen_times_as_long(monkeypatch, tmp_path):
    """Of a rule whose loss AdamW comes to and of one whose loss it never has."""
    monkeypatch.setattr(measure_specialise, "FOLDER", tmp_path)
    horizon, rate = 20, 0.01
    rates = [rate * 10 ** (k / 2) for k in measure_speed_ups.HALF_DECADES]
    how = {"steps": measure_speed_ups.TIMES * horizon, "num_seeds": 3, "seed": 0}
    curves = long_curves(ADAMW_CONSTANT.make, rates, make_task(SMALL), **how).double().numpy()
    length = tail_length(horizon)
    # The least loss on the way to where the third horizon ends, so that it is not met before by chance.
    means = running_mean(curves, length).min(axis=1)[: 3 * horizon - length + 1]
    there, steps = means.min(axis=0), means.argmin(axis=0) + length
    results = [
        {"optimizer": name, "final_losses": losses, "settings": settings}
        for name, losses, settings in (
            ("before", there.tolist(), {}),
            ("specialised", [0.0] * 3, {}),
            ("adamw-constant", [1.0] * 3, {"lr": rate}),
        )
    ]
    content = {
        "options": {"task": SMALL, "seed": 0, "horizon": horizon, "seeds": 3},
        "comparison": {
            "results": results,
            "log_ratio": {"before": {"train": [0.0, [0.0, 0.0]], "test": [0.0, [0.0, 0.0]]}},
            "speed_ups": {"before": [3.0], "specialised": [4.0]},
        },
        "checks": [],
        "break_even": None,
    }
    (tmp_path / "table-default-9-8-0.json").write_text(json.dumps(content))
    measure_speed_ups.main([], standalone_mode=False)
    found = json.loads((tmp_path / "speed-ups.json").read_text())["speed_ups"]["table-default-9-8-0"]
    assert found["specialised"] == [16.0] * 3
    assert found["before"] == pytest.approx(steps / horizon)
    assert 2 < max(found["before"]) <= 3
    mean = np.mean(found["before"])
    assert f"| table-default-9-8-0 | {mean:.2f} | 16.00 | {16 / mean:.2f} |" in (tmp_path / "README.md").read_text()


def test_half_of_what_families_have_learned_is_added_up(tmp_path):
    start = read_rule("scale-free", seed=0).state_dict()
    rule = make_rule("scale-free")
    for head, family in enumerate(merge_families.MERGED):
        own = {name: weight.clone() for name, weight in start.items()}
        own["choices.bias"][head] += 0.3
        rule.load_state_dict(own)
        (tmp_path / family / "all").mkdir(parents=True)
        save_rule(rule, tmp_path / family / "all" / "rule.safetensors")
    merge_families.main.callback(tmp_path, tmp_path / "merged.safetensors")
    merged = load_rule(tmp_path / "merged.safetensors").state_dict()
    torch.testing.assert_close(merged["choices.bias"] - start["choices.bias"], torch.tensor([0.15, 0.15, 0, 0, 0, 0]))
    assert all(torch.equal(merged[name], start[name]) for name in start if name != "choices.bias")


def test_the_search_of_constants_finds_that_steps_are_too_short_and_goes_on_where_it_stopped(monkeypatch, tmp_path):
    rule = read_rule("scale-free", seed=0)
    size = search_constants.places(rule).index(("choices.bias", 3, 0))
    shorter = rule.state_dict() | {"choices.bias": rule.state_dict()["choices.bias"] - 2}
    rule.load_state_dict(shorter)
    save_rule(rule, tmp_path / "start.safetensors")
    monkeypatch.setattr(search_constants, "TASKS", {"least-squares": (2, 1.0)})
    changes = np.zeros((3, len(search_constants.places(rule))))
    changes[1:, size] = 1, 2
    found = search_constants.gains(
        "least-squares", changes, start=str(tmp_path / "start.safetensors"), horizon=30, seed=0
    )
    assert found[0] < found[1] < found[2]
    outs = [tmp_path / name for name in ("whole", "resumed")]
    for out, stops in zip(outs, ([3], [2, 3]), strict=True):
        for generations in stops:
            search_constants.main.callback(out, str(tmp_path / "start.safetensors"), generations, 30, 0, 1)
    ends = [load_rule(out / "rule.safetensors").state_dict() for out in outs]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert float(ends[0]["choices.bias"][3]) != float(shorter["choices.bias"][3])


def test_quality_is_drawn_against_meta_training_time(small_default, tmp_path):
    runs = [small_default / name for name in ("first", "second")]
    run_script("default.meta_training_curve", *runs, "--out", tmp_path)
    curves = json.loads((tmp_path / "meta-training.json").read_text())["curves"]
    for curve, run in zip(curves, runs, strict=True):
        about = json.loads((run / "run.json").read_text())
        assert curve["outer_steps"][0] == 0
        assert curve["outer_steps"][-1] == about["outer_step"]
        assert curve["hours"][-1] == pytest.approx(about["minutes"] / 60, abs=1e-3)
        assert min(curve["validation"]) == pytest.approx(about["figures"]["validation"], abs=1e-4)
    picture = tmp_path / "meta-training.png"
    assert picture.read_bytes()[:4] == b"\x89PNG"
    picture.unlink()
    run_script("default.meta_training_curve", "--out", tmp_path)
    assert picture.exists()


def test_a_shipped_rules_card_tells_all_its_stages(small_default, monkeypatch, tmp_path):
    stages = ship_rule.stages_of(small_default / "second", small_default)
    assert len(stages) == 2
    assert "scale-free:hidden_size=2,tensor_size=2" in stages[0]["command"]
    assert "runs/default/first/rule.safetensors" in stages[1]["command"]
    assert str(small_default) not in json.dumps(stages)
    monkeypatch.setattr(ship_rule, "FOLDER", tmp_path)
    monkeypatch.setattr(ship_rule.records, "RESULTS", tmp_path)
    ship_rule.main.callback(small_default / "second", (), "small-1", None, None, None, "one option", ())
    card = load_rule(tmp_path / "small-1.safetensors").card
    assert card["provenance"]["stages"] == stages
    assert card["since_meta_training"] == "one option"
    assert card["rule"]["config"]["hidden_size"] == 2

    evaluation = tmp_path / "evaluation.json"
    ratio = {"geometric_mean": 1.5, "interval": [1.0, 2.0]}
    summary = {"horizon": 500, "wins": {"adamw": {"wins": 1, "tasks": 2}}, "ratio": {"adamw": ratio}}
    summary |= {key: {"interquartile_mean": 2.0} for key in ("speed_up_steps", "speed_up_seconds")}
    evaluation.write_text(json.dumps({"summary": [summary]}))
    monkeypatch.setattr(ship_rule, "load_rule", lambda name: load_rule(tmp_path / f"{name}.safetensors"))
    learning, gain = tmp_path / "learning.json", {"mean": 0.0754, "interval": [0.05, 0.1]}
    rows = [{"suite": suite, "horizon": 500, "train": gain, "test": gain} for suite in ("validation", "held-out")]
    learning.write_text(json.dumps({"results": {"small-1": rows}}))
    ship_rule.main.callback(None, (), "small-1", None, evaluation, learning, "another", ("growth=3",))
    later = load_rule(tmp_path / "small-1.safetensors").card
    assert (later["digest"], later["provenance"]) == (card["digest"], card["provenance"])
    assert later["rule"]["config"] == card["rule"]["config"] | {"growth": 3.0}
    assert later["since_meta_training"] == "another"
    assert later["figures"]["held_out"]["500 steps"]["at or below tuned AdamW"] == "1 of 2 tasks"

    gains = later["figures"]["held_out"]["500 steps, beside nothing learned"]
    assert (gains["gain, test loss"], gains["its interval, training"]) == (0.075, [0.05, 0.1])

    ship_rule.main.callback(None, (), "small-2", "small-1", None, None, "a third", ("braking=0",))
    other = load_rule(tmp_path / "small-2.safetensors").card
    assert other["digest"] == card["digest"]
    assert other["rule"]["config"]["braking"] == 0
    assert "held_out" not in other["figures"]


def test_other_tasks_are_measured(tmp_path):
    common = ["--horizon", 12, "--seeds", 2, "--tuning-seeds", 1, "--out", tmp_path]
    script, flow = "other_tasks.measure_other_tasks", "flow-sampler:couplings=2,hidden=4,batch_size=16"
    run_script(script, "recommendation", *common, "--ratings", 3000)
    run_script(script, "density", *common, "--task", flow)
    ratings, density = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("recommendation", "density"))
    assert ratings["command"].startswith(f"python -m scripts.experiments.{script} recommendation --horizon 12")
    assert [row["task"] for row in ratings["results"][::2]] == [
        "recommendation",
        "recommendation:file=./ratings.csv,batch_size=512",
    ]
    for row, adam in zip(*((ratings["results"] + density["results"])[start::2] for start in (0, 1)), strict=True):
        assert (row["optimizer"], adam["optimizer"]) == ("learned", "adam")
        assert all(len(tried) >= 7 for tried in adam["settings"]["tried"].values())
        for key, difference in row["above_adam"].items():
            assert row[key]["interval"][0] <= row[key]["mean"] <= row[key]["interval"][1]
            assert difference["mean"] == pytest.approx(row[key]["mean"] - adam[key]["mean"])
            assert difference["mean"] != 0
    for row in density["results"]:
        assert 0 < row["effective_sample_size"]["mean"] < 1
    run_script(script, "bounds", *common)
    for row in json.loads((tmp_path / "bounds.json").read_text())["rows"]:
        assert len(row["final_losses"]) == 4
        assert row["final_losses"]["as shipped"] != row["final_losses"]["caution 0"]


def test_the_network_to_be_fine_tuned_is_trained(tmp_path):
    run_script("held_out.train_language_base", "--steps", 2, "--out", tmp_path / "base.npz")
    with np.load(tmp_path / "base.npz") as arrays:
        assert {array.dtype for array in arrays.values()} == {np.dtype(np.float16)}
        assert arrays["symbols.weight"].shape == (39, 48)


def test_a_folder_with_a_page_of_somebody_elses_is_not_written_into(tmp_path):
    (tmp_path / "README.md").write_text("# My own\n")
    for options, message in (
        (["--out", tmp_path], "--out must be a folder whose README.md is a page of figures or is not there"),
        (["--minutes", "0"], "0.0 is not in the range x>0"),
        (["--only", "mnist-lstm"], "--only must name artefacts of --figure quadratics; got mnist-lstm"),
    ):
        done = start("paper.reproduce_paper", "--figure", "quadratics", "--artefacts", *options)
        assert done.returncode == 2
        assert message in " ".join(done.stderr.split())
    assert (tmp_path / "README.md").read_text() == "# My own\n"


def test_an_interrupted_command_is_waited_for(tmp_path):
    """As the keyboard does it: both processes are interrupted, and the inner one needs a second to write."""
    (tmp_path / "slow.py").write_text(
        "import pathlib, time\n"
        "pathlib.Path('began').touch()\n"
        "try:\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    time.sleep(1)\n    pathlib.Path('written').touch()\n    raise SystemExit(3)\n"
    )
    code = "from scripts.experiments import commands; commands.run('slow')"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment, start_new_session=True) as outer:
        while not (tmp_path / "began").exists():
            time.sleep(0.05)
        os.killpg(outer.pid, signal.SIGINT)
        assert outer.wait(timeout=30) == 3
    assert (tmp_path / "written").exists()
