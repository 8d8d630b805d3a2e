"""A specialisation is stopped and goes on alike, is compared, and keeps the old rule where nothing is gained."""

import contextlib
import json

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from l2l_opt import ModuleTask, load_rule, save_rule, specialise
from l2l_opt.rules import make_rule
from l2l_opt.specialising import selection
from l2l_opt.specialising.options import SpecialiseOptions
from l2l_opt.specialising.page import percent, sentence
from l2l_opt.specialising.run import Specialisation
from l2l_opt.specialising.selection import Selection
from l2l_opt.tasks import make_task

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _few_students(monkeypatch):
    monkeypatch.setattr(selection, "STUDENTS", 6)
    monkeypatch.setattr(selection, "SIZES", range(-1, 2))
    monkeypatch.setattr(selection, "WIDEST", 1)


def slow_rule(tmp_path):
    """A fresh rule that takes far too small steps, so that any learning is a gain."""
    path = tmp_path / "slow.safetensors"
    torch.manual_seed(0)
    save_rule(make_rule("compact", output_scale=0.01), path)
    return path


def tags_of(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    return events.Tags()


def options(tmp_path, **more):
    own = {"task": "quadratics:dim=3", "rule": str(slow_rule(tmp_path)), "horizon": 10, "minutes": 5.0, "seeds": 2}
    return SpecialiseOptions(**{**own, "tuning_seeds": 1, "baselines": (), **more})


def planned(folder, own, outer_steps=4, normalisation="log"):
    """A folder with a plan, as a run leaves it that was stopped before its first step."""
    stage = {"estimator": "tbptt", "share": 1.0, "meta_lr": 0.05, "average_phi": 0.0, "students": 2}
    stage |= {"truncation_length": 10, "outer_steps": outer_steps, "seconds_per_outer_step": 0.1, "minutes": 1.0}
    folder.mkdir()
    record = {"options": own.plain(), "stages": {}, "plan": [stage], "seconds": 0.0, "normalisation": normalisation}
    (folder / "run.json").write_text(json.dumps(record))


def test_it_goes_on_where_it_stopped_and_ends_alike(tmp_path):
    own = options(tmp_path)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        planned(folder, own)
    found = Specialisation(whole, own, resume=True).go()

    class Stopping:
        def on_outer_step(self, trainer, step):
            if step.number == 2:
                raise KeyboardInterrupt

        def on_validation(self, trainer, validation):
            pass

    watch = lambda trainer: contextlib.nullcontext([Stopping()])  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        Specialisation(parts, own, resume=True, watch=watch).go()
    again = Specialisation(parts, own, resume=True).go()
    for name, weight in found.rule.named_parameters():
        assert torch.equal(weight, dict(again.rule.named_parameters())[name]), name
    assert found.gained == again.gained


def test_what_it_has_bought_is_published(tmp_path):
    own = options(tmp_path, baselines=("adamw",), checks=("dim=4", "horizon=20"))
    planned(tmp_path / "run", own, outer_steps=12)
    found = Specialisation(tmp_path / "run", own, resume=True).go()
    assert found.gained
    content = json.loads((tmp_path / "run" / "specialised.json").read_text())
    names = {result["optimizer"] for result in content["comparison"]["results"]}
    assert names == {"specialised", "before", "resized", "adamw", "adamw-constant"}
    assert [own["horizon"] for own in content["checks"]] == [10, 20]
    assert content["checks"][0]["task"] == "quadratics:dim=4"
    change, (low, high) = content["comparison"]["log_ratio"]["before"]["train"]
    assert low <= change <= high
    assert found.sentence == content["sentence"]
    assert f"the training loss is {percent(change)} than with the rule it began from" in found.sentence
    of_test = sentence(found.comparison, Selection("learned", "learned", {}), seconds=1.0, test=True)
    change_of_test = content["comparison"]["log_ratio"]["before"]["test"][0]
    assert f"the test loss is {percent(change_of_test)} than with the rule it began from" in of_test
    html = (tmp_path / "run" / "specialised.html").read_text()
    assert found.sentence.split(" (")[0] in html
    seen = tags_of(tmp_path / "run" / "events")
    for name in ("before", "specialised"):
        own = tags_of(tmp_path / "run" / "events" / name / "learned")
        assert {"Loss/student", "step_size/vectors"} <= set(own["scalars"])
        assert f"rule/response/{name}" in seen["images"]
    assert "student/losses" in seen["images"]
    assert "selection/text_summary" in seen["tensors"]
    assert {"validation/figure", "validation/low", "validation/high"} <= set(
        tags_of(tmp_path / "run" / "stage-1" / "events")["scalars"]
    )
    kept = load_rule(tmp_path / "run" / "rule.safetensors")
    assert kept.card["figures"]["kept"].startswith("stage 1")
    assert kept.card["horizon"] == "10"
    assert content["command"].startswith("l2l_opt.specialise('quadratics:dim=3', rule='")
    assert "horizon=10" in content["command"]


def learning_nothing(folder, own):
    """A plan by which a rule stays what it is."""
    planned(folder, own, outer_steps=1)
    record = json.loads((folder / "run.json").read_text())
    record["plan"][0]["meta_lr"] = 1e-12
    (folder / "run.json").write_text(json.dumps(record))


def test_the_best_step_size_is_kept_where_learning_gains_no_more(tmp_path):
    own = options(tmp_path)
    learning_nothing(tmp_path / "run", own)
    found = Specialisation(tmp_path / "run", own, resume=True).go()
    assert found.gained
    assert found.sentence.endswith("its best step size, beyond which nothing was gained by learning.")
    before, kept = load_rule(own.rule), load_rule(tmp_path / "run" / "rule.safetensors")
    assert kept.config["output_scale"] == pytest.approx(2**0.5 * before.config["output_scale"])
    assert kept.card["figures"]["kept"] == "resized"
    for name, weight in kept.named_parameters():
        assert torch.equal(weight, dict(before.named_parameters())[name])


def test_a_stage_that_its_minutes_end_is_named(tmp_path):
    own, said = options(tmp_path, minutes=1e-9), []
    planned(tmp_path / "run", own, outer_steps=9)
    Specialisation(tmp_path / "run", own, resume=True, say=said.append).go()
    assert "stage 1 ended with its minutes, after 0 of 9 outer steps" in said


def test_where_test_losses_count_baselines_are_tuned_for_them(tmp_path):
    digits = {"task": "digits-mlp:hidden=4", "loss_on": "test", "baselines": ("adamw",)}
    own, said = options(tmp_path, **digits), []
    planned(tmp_path / "run", own, outer_steps=12)
    found = Specialisation(tmp_path / "run", own, resume=True, say=said.append).go()
    assert found.gained
    tuned = [line for line in said if "tuning adamw" in line]
    assert tuned
    assert all("for validation loss" in line for line in tuned)
    assert "than tuned adamw;" in found.sentence


def test_the_old_rule_stays_where_nothing_was_gained(tmp_path, monkeypatch):
    monkeypatch.setattr(selection, "SIZES", range(1))
    monkeypatch.setattr(selection, "WIDEST", 0)
    own = options(tmp_path)
    learning_nothing(tmp_path / "run", own)
    found = Specialisation(tmp_path / "run", own, resume=True).go()
    assert not found.gained
    assert found.comparison is None
    assert found.sentence.startswith("Nothing was gained")
    before = load_rule(own.rule)
    for name, weight in load_rule(tmp_path / "run" / "rule.safetensors").named_parameters():
        assert torch.equal(weight, dict(before.named_parameters())[name])


def test_other_options_do_not_resume_a_run(tmp_path):
    planned(tmp_path / "run", options(tmp_path))
    with pytest.raises(ValueError, match="options and the data it was started with; got others .horizon was 10, is 20"):
        Specialisation(tmp_path / "run", options(tmp_path, horizon=20), resume=True)
    # What nothing learned depends on may change.
    Specialisation(tmp_path / "run", options(tmp_path, seeds=3), resume=True)


def test_an_own_module_from_python(tmp_path):
    inputs, targets = torch.randn(60, 4), torch.randint(3, (60,))
    family = ModuleTask(torch.nn.Linear(4, 3), torch.nn.functional.cross_entropy, (inputs, targets), batch_size=8)
    said = []
    found = specialise(
        family,
        rule=load_rule(slow_rule(tmp_path)),
        minutes=0.05,
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


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_task_without_finite_losses_is_refused_and_leaves_no_rule(tmp_path, value):
    class Lost(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(3, 1)

        def forward(self, x):
            return self.linear(x) * value

    family = ModuleTask(Lost(), torch.nn.functional.mse_loss, (torch.randn(20, 3), torch.randn(20, 1)), batch_size=4)
    with pytest.raises(ValueError, match="some loss must be finite"):
        specialise(family, minutes=0.02, horizon=10, out=tmp_path / "run", say=lambda text: None)
    assert not (tmp_path / "run" / "rule.safetensors").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"loss_on": "tst"}, "loss_on must be one of train, test; got 'tst'"),
        ({"minutes": "a"}, "minutes must be a positive number; got 'a'"),
        ({"minutes": 0}, "minutes must be a positive number; got 0"),
        ({"seed": -1}, "seed must be a number of 0 or more; got -1"),
        ({"horizon": 2.5}, "horizon must be a positive integer; got 2.5"),
        ({"task": torch.nn.Linear(2, 1)}, "a task must be a notation or a task family; got Linear"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(tmp_path, wrong, message):
    said = []
    with pytest.raises(ValueError, match=message):
        specialise(**{"task": "quadratics", "out": tmp_path / "run", "say": said.append, **wrong})
    assert not said
    assert not (tmp_path / "run").exists()


def test_losses_below_zero_are_compared_by_progress(tmp_path):
    quadratic = make_task("quadratics:dim=3")

    class Lower(type(quadratic)):
        def loss(self, params, data, batch):
            return super().loss(params, data, batch) - 100

    own = options(tmp_path, task="lower")
    planned(tmp_path / "run", own, outer_steps=12, normalisation="none")
    found = Specialisation(tmp_path / "run", own, tasks=Lower(dim=3), resume=True).go()
    assert found.gained
    assert "the loss has come down by" in found.sentence
    assert "% more than with the rule it began from" in found.sentence
