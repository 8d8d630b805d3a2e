"""A suite evaluated as a whole: pairing, the cache, metrics, several processes."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from l2l_opt.evaluation import provenance
from l2l_opt.evaluation import task as task_evaluation
from l2l_opt.evaluation.baselines.entries import ENTRIES, entries_for, entries_named
from l2l_opt.evaluation.baselines.torch_optimizers import is_installed
from l2l_opt.evaluation.plots import curves_png, profile_png
from l2l_opt.evaluation.suite import evaluate_suite
from l2l_opt.evaluation.suites import Suite
from l2l_opt.evaluation.summary import as_json, losses_of, seconds_speed_ups
from l2l_opt.evaluation.tables import tables_of
from l2l_opt.evaluation.task import SuiteConfig, TaskEvaluator
from l2l_opt.rules import make_rule
from l2l_opt.tasks import make_task

pytestmark = pytest.mark.slow

SUITE = Suite("two", ("digits-mlp:hidden=8,layers=2,activation=relu,batch_size=32", "quadratics:dim=3"))
RULE = {"rule": "x"}
NO_TIMES = {"learned": 2.0, "adamw": 1.0, "adamw_kind": "fused"}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return SuiteConfig(
        horizons=(12, 20), num_seeds=3, tuning_seeds=2, cache=tmp_path_factory.mktemp("cache"), dtype=torch.float64
    )


@pytest.fixture(scope="module")
def evaluated(config):
    torch.set_num_threads(1)
    messages = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task_evaluation, "seconds_per_step", lambda *a, **k: NO_TIMES)
        return evaluate_suite(make_rule("adam", lr=0.05), SUITE, config, settings=RULE, say=messages.append), messages


def names(evaluation):
    return [result.optimizer for result in evaluation.results]


def test_every_task_is_evaluated_at_every_horizon_beside_every_baseline(evaluated):
    evaluations, messages = evaluated
    assert [(own.task, own.horizon) for own in evaluations] == [(task, h) for task in SUITE.tasks for h in (12, 20)]
    there = {name for name, entry in ENTRIES.items() if entry.package is None or is_installed(entry.package)}
    without_matrices = {name for name in there if not name.startswith("muon")}
    for own in evaluations:
        expected = {"learned", "adamw-constant"} | (without_matrices if own.task.startswith("quad") else there)
        assert expected == set(names(own))
        assert names(own)[:2] == ["learned", "adamw"]
    assert any("muon is left out on quadratics:dim=3: it has no hidden matrices" in own.notes for own in evaluations)
    assert "2 of 2 tasks: quadratics:dim=3 done" in messages


def test_all_start_from_the_same_students(evaluated):
    for own in evaluated[0]:
        for result in own.results:
            np.testing.assert_allclose(result.curves[0], own.first_losses, rtol=1e-9)
            assert len(result.test_losses) == 3


def test_a_tuned_entry_is_the_best_of_all_its_trials(evaluated):
    for own in evaluated[0]:
        for result in own.results:
            tried = result.settings.get("tried")
            if tried is None:
                continue
            assert all(len(losses) >= 7 for losses in tried.values())
            losses = {(name, lr): loss for name, row in tried.items() for lr, loss in row.items()}
            (name, lr), _ = min(losses.items(), key=lambda item: item[1])
            assert f"{result.settings['lr']:.3g}" == lr
            assert result.settings["schedule"] in name
            rates = sorted(map(float, tried[name]))
            assert rates[0] < float(lr) < rates[-1]


def test_the_final_loss_is_the_mean_of_the_tail(evaluated):
    for own in evaluated[0]:
        learned = own.results[0]
        np.testing.assert_allclose(learned.final_losses, learned.curves[-10:].mean(axis=0), rtol=1e-9)


def test_speed_ups_in_seconds_are_those_in_steps_times_the_seconds_a_step(evaluated):
    for own in evaluated[0]:
        assert seconds_speed_ups(own) == pytest.approx([value / 2 for value in own.speed_ups])


def test_adamw_evaluated_against_itself_has_no_speed_up(config):
    evaluator = TaskEvaluator(SUITE.tasks[0], replace(config, baselines=()))
    constant = ENTRIES["adamw"].variants[0]
    rule = constant.make(evaluator.tuned(constant, 20).lr)
    own = evaluator.evaluate(rule, 20, RULE)
    assert max(own.speed_ups) <= 1
    assert min(own.speed_ups) > 0.7
    assert max(evaluator.evaluate(make_rule("sgd", lr=1e-12), 20, RULE).speed_ups) < 0.7
    assert evaluator.evaluate(make_rule("sgd", lr=1e12), 20, RULE).speed_ups == [0.0] * 3


def test_speed_ups_may_be_left_out(config, monkeypatch):
    monkeypatch.setattr(task_evaluation, "long_curves", None)
    without = replace(config, horizons=(12,), speed_ups=False)
    first, second = evaluate_suite(make_rule("adam", lr=0.05), SUITE, without, settings=RULE)
    assert first.result_of("adamw") is not None
    assert first.speed_ups == second.speed_ups == first.steps_to_adamw == []
    assert "speed_up_steps" not in as_json([first, second], SUITE, without, RULE)["summary"][0]


def test_the_entry_itself_gets_to_its_loss_at_its_last_step(evaluated, config):
    for own in evaluated[0]:
        tuned = own.results[1].settings
        rule = make_rule("adamw", lr=tuned["lr"], schedule=tuned["schedule"])
        again = TaskEvaluator(own.task, replace(config, baselines=())).evaluate(rule, own.horizon, RULE)
        assert max(again.steps_to_adamw) == own.horizon
        np.testing.assert_allclose(again.results[0].final_losses, own.results[1].final_losses, rtol=1e-9)


def test_the_summary_is_worked_out_from_the_results(evaluated, config):
    evaluations, _ = evaluated
    content = json.loads(json.dumps(as_json(evaluations, SUITE, config, RULE), allow_nan=False))
    assert content["suite"] == {"name": "two", "tasks": list(SUITE.tasks)}
    assert [summary["horizon"] for summary in content["summary"]] == [12, 20]
    for summary in content["summary"]:
        here = [own for own in evaluations if own.horizon == summary["horizon"]]
        ratios = losses_of(here, "adamw").mean(axis=1) / losses_of(here, "learned").mean(axis=1)
        assert summary["ratio"]["adamw"]["geometric_mean"] == pytest.approx(np.exp(np.log(ratios).mean()))
        assert list(summary["ratio_by_task"].values()) == pytest.approx(ratios)
        low, high = summary["ratio"]["adamw"]["interval"]
        assert low <= summary["ratio"]["adamw"]["geometric_mean"] <= high
        assert summary["wins"]["adamw"] == {"wins": int((ratios >= 1).sum()), "tasks": 2}
        assert summary["wins"]["muon"]["tasks"] == 1
        assert max(row[0] for row in summary["profile"]["fractions"].values()) >= 0.5
        assert "adamw-constant" not in summary["profile"]["fractions"]
    assert len(content["results"]) == sum(len(own.results) for own in evaluations)
    assert {"task", "horizon", "optimizer", "settings", "final_losses", "mean", "interval", "seconds"} < set(
        content["results"][0]
    )
    assert {"test_losses", "test_mean", "test_interval"} < set(content["results"][0])
    assert content["speed_up"][0]["seconds_per_step"] == NO_TIMES


def test_even_footing_floors_losses_caps_ratios_and_looks_at_tests(evaluated, config):
    evaluations, _ = evaluated
    content = as_json(evaluations, SUITE, config, RULE)
    for summary in content["summary"]:
        here = [own for own in evaluations if own.horizon == summary["horizon"]]
        for key, test in (("log_ratio", False), ("test_log_ratio", True)):
            logs = []
            for own in here:
                floor = 1e-3 * np.mean(own.first_losses)
                ours, theirs = (
                    np.maximum(result.test_losses if test else result.final_losses, floor).mean()
                    for result in (own.results[0], own.result_of("sgd"))
                )
                logs.append(np.clip(np.log(theirs / ours), -0.7, 0.7))
            found = summary[key]["sgd"]
            assert found["mean"] == pytest.approx(np.mean(logs))
            assert found["interval"][0] <= found["mean"] <= found["interval"][1]
            level = -np.log(1.02) if test else 0
            assert (found["at_or_below"], found["tasks"]) == (int((np.asarray(logs) >= level).sum()), 2)
        assert summary["test_against_best"]["of"] == ["adamw-validated", "sgd-validated", "muon-validated"]
        assert 0 <= summary["test_against_best"]["at_or_below"] <= 2
    of_classes = [record for record in content["results"] if record["task"].startswith("digits")]
    assert all(0 <= record["accuracy_mean"] <= 1 for record in of_classes)
    assert not any("accuracies" in record for record in content["results"] if record not in of_classes)
    captions = [table.caption for table in tables_of(content)]
    assert any("test loss" in caption for caption in captions)
    assert any("accuracy" in caption for caption in captions)


def test_a_second_time_all_is_read(evaluated, config, monkeypatch):
    def refuse(*arguments, **keywords):
        raise AssertionError("computed again")

    for name in ("tune", "run_rule", "run_torch_optimizer", "long_curves", "seconds_per_step"):
        monkeypatch.setattr(task_evaluation, name, refuse)
    again = evaluate_suite(make_rule("adam", lr=0.05), SUITE, config, settings=RULE)
    assert as_json(again, SUITE, config, RULE) == as_json(evaluated[0], SUITE, config, RULE)


def test_another_rule_costs_its_own_runs_only(evaluated, config, monkeypatch):
    monkeypatch.setattr(task_evaluation, "seconds_per_step", lambda *a, **k: NO_TIMES)
    messages = []
    evaluate_suite(make_rule("adam", lr=0.06), SUITE, config, settings=RULE, say=messages.append)
    computed = [message for message in messages if "of 2 tasks" not in message]
    assert len(computed) == 6
    assert all(message.endswith(("learned", "timing")) for message in computed)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"tuning_seeds": 3},
        {"dtype": torch.float32},
        {"plugins": ("x",)},
    ],
)
def test_tuning_is_done_anew_when_anything_changes(evaluated, config, change):
    messages = []
    evaluator = TaskEvaluator("quadratics:dim=3", replace(config, **change), say=messages.append)
    evaluator.tuned(ENTRIES["sgd"].variants[0], 12)
    assert len(messages) == 1


@pytest.mark.parametrize("what", ["code", "torch", "data", "grid", "horizon"])
def test_tuning_is_done_anew_when_its_surroundings_change(evaluated, config, monkeypatch, what):
    baseline, horizon = ENTRIES["sgd"].variants[0], 12
    if what == "code":
        content = provenance._content
        monkeypatch.setattr(provenance, "_content", lambda path: content(path) + b"x" * (path.name == "tuning.py"))
    elif what == "torch":
        monkeypatch.setattr(provenance, "versions", lambda: {"torch": "99"})
    elif what == "data":
        monkeypatch.setattr(provenance, "fingerprint", lambda *a, **k: ["0x1"])
    elif what == "grid":
        baseline = replace(baseline, half_decades=range(-6, 2))
    else:
        horizon = 13
    messages = []
    TaskEvaluator("quadratics:dim=3", config, say=messages.append).tuned(baseline, horizon)
    assert len(messages) == 1


def test_planned_steps_belong_to_the_rules_runs(evaluated, config):
    messages = []
    evaluator = TaskEvaluator("quadratics:dim=3", replace(config, planned_steps=None), say=messages.append)
    evaluator.evaluate(make_rule("adam", lr=0.05), 12, RULE)
    assert messages == ["quadratics:dim=3, 12 steps: learned"]


def test_several_processes_find_the_same(evaluated, config, monkeypatch, tmp_path):
    monkeypatch.setattr(task_evaluation, "seconds_per_step", lambda *a, **k: NO_TIMES)
    few = replace(config, cache=tmp_path, baselines=("sgd",), horizons=(12,))
    rule = make_rule("adam", lr=0.05)
    found = evaluate_suite(rule, SUITE, few, settings=RULE, num_processes=2)
    for ours, theirs in zip(found, [own for own in evaluated[0] if own.horizon == 12], strict=True):
        assert ours.task == theirs.task
        assert ours.results[0].final_losses == pytest.approx(theirs.results[0].final_losses, rel=1e-9)
        assert ours.speed_ups == theirs.speed_ups


def test_evaluating_imports_no_command_line_and_no_tensorboard():
    script = """
import sys
import l2l_opt.evaluation.suite, l2l_opt.evaluation.plots, l2l_opt.evaluation.summary
unwanted = ("click", "tensorboard", "schedulefree", "prodigyopt", "pytorch_optimizer")
print([name for name in unwanted if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_wrong_task_fails_before_any_work(config):
    messages = []
    with pytest.raises(ValueError, match="got 'quadratix'"):
        evaluate_suite(
            make_rule("sgd"), Suite("bad", ("quadratics", "quadratix")), config, settings=RULE, say=messages.append
        )
    assert messages == []


def test_adamw_is_always_among_the_baselines():
    assert [entry.name for entry in entries_named(["muon"])] == ["adamw", "muon"]
    with pytest.raises(ValueError, match="a baseline must be one of adamw, sgd, .*; got 'lion'"):
        entries_named(["lion"])


def test_what_is_not_installed_is_left_out_with_a_note(monkeypatch):
    monkeypatch.setattr("l2l_opt.evaluation.baselines.entries.is_installed", lambda package: False)
    entries, notes = entries_for(make_task("quadratics:dim=3"), "quadratics", entries_named(ENTRIES))
    assert [entry.name for entry in entries] == [
        *("adamw", "sgd", "adam", "adamw-as-used", "adamw-validated", "sgd-validated"),
    ]
    assert "schedule-free is left out: schedulefree is not installed (pip install 'l2l_opt[bench]')" in notes
    assert "soap is left out: pytorch_optimizer is not installed (pip install 'l2l_opt[bench]')" in notes
    assert len(notes) == 6


def test_pictures_are_drawn_even_of_diverged_rules(evaluated, config):
    evaluations, _ = evaluated
    content = as_json(evaluations, SUITE, config, RULE)
    curves = curves_png(evaluations)
    assert curves[:4] == profile_png(content["summary"])[:4] == b"\x89PNG"
    assert len(curves) > 20_000
    bad = evaluations[0].results[0]
    gone = replace(bad, curves=np.full_like(bad.curves, np.nan))
    assert curves_png([replace(evaluations[0], results=[gone])])[:4] == b"\x89PNG"
