"""A run on disk: what it writes, what it refuses, and going on after it was stopped."""

import json

import pytest
import torch

from l2l_opt import MetaTrainer, TruncatedBackprop, load_rule
from l2l_opt.meta_training.run import MetaTrainingRun
from l2l_opt.storage.checkpoint_file import load_tree
from l2l_opt.storage.safetensors_file import digest
from tests.conftest import small_family, small_rule

pytestmark = pytest.mark.slow


def make_trainer(outer_steps=6, validate_every=2, **options):
    torch.manual_seed(0)
    estimator = TruncatedBackprop(horizon=8, truncation_length=4)
    rule = small_rule("rnnprop").double()
    return MetaTrainer(
        rule,
        small_family(),
        estimator,
        outer_steps=outer_steps,
        num_students=2,
        validate_every=validate_every,
        validation_students=2,
        **options,
    )


def make_run(folder, *, resume=False, options=None, trainer=None, **more):
    messages = []
    run = MetaTrainingRun(
        folder,
        trainer or make_trainer(),
        options=options or {"seed": 0},
        card={"task": "t"},
        resume=resume,
        say=messages.append,
        **more,
    )
    return run, messages


def go(run, **options):
    return run.go(**{"minutes": None, "checkpoint_every": 2, "observers": [], **options})


def record_of(folder):
    return json.loads((folder / "run.json").read_text())


class StopAfter:
    """Observer that ends a run as a signal would, or as a crash does."""

    def __init__(self, outer_step, error):
        self.outer_step, self.error = outer_step, error

    def on_outer_step(self, trainer, step):
        if step.number == self.outer_step:
            raise self.error

    def on_validation(self, trainer, validation):
        pass


def test_writes_all_that_the_design_names(tmp_path):
    run, _ = make_run(tmp_path / "run")
    assert go(run) == "finished"
    record = record_of(tmp_path / "run")
    assert record["outer_step"] == 6
    assert record["finished"]
    assert record["options"] == {"seed": 0}
    assert record["figures"]["validation"] > 0
    for name in ("rule", "last"):
        rule = load_rule(tmp_path / "run" / f"{name}.safetensors")
        assert digest(dict(rule.named_parameters())) == record["digests"][name]
        assert rule.card["task"] == "t"
        assert rule.card["provenance"]["outer_steps"] == 6
        assert rule.card["licence"] == "Apache-2.0"
    assert len(list((tmp_path / "run" / "checkpoint").iterdir())) == 2


def test_the_best_is_the_best_and_the_last_is_the_last(tmp_path):
    run, _ = make_run(tmp_path)
    go(run)
    best, last = (load_rule(tmp_path / f"{name}.safetensors") for name in ("rule", "last"))
    for (key, value), theirs in zip(run.trainer.rule.named_parameters(), last.parameters(), strict=True):
        assert torch.equal(value, theirs), key
    for key, value in best.named_parameters():
        assert torch.equal(value, run.trainer.best_phi[key])


@pytest.mark.parametrize("crash_at", [1, 3, 5, 6])
def test_a_crash_then_resume_gives_the_uninterrupted_digests(crash_at, tmp_path):
    whole, _ = make_run(tmp_path / "whole")
    go(whole)
    part, _ = make_run(tmp_path / "part")
    with pytest.raises(RuntimeError, match="crash"):
        go(part, observers=[StopAfter(crash_at, RuntimeError("crash"))])
    resumed, messages = make_run(tmp_path / "part", resume=True)
    assert resumed.trainer.outer_steps_done == (crash_at - 1) // 2 * 2
    assert messages == [f"going on from outer step {resumed.trainer.outer_steps_done}"]
    assert go(resumed) == "finished"
    assert record_of(tmp_path / "part")["digests"] == record_of(tmp_path / "whole")["digests"]


def test_out_of_time_leaves_a_checkpoint_and_a_validated_rule(tmp_path):
    run, _ = make_run(tmp_path, trainer=make_trainer(validate_every=0))
    assert go(run, minutes=1e-9) == "out of time"
    assert record_of(tmp_path)["figures"]["validation"] is not None
    assert not record_of(tmp_path)["finished"]
    assert load_rule(tmp_path / "rule.safetensors")
    resumed, _ = make_run(tmp_path, resume=True, trainer=make_trainer(validate_every=0))
    assert resumed.trainer.best is None
    go(resumed)
    whole, _ = make_run(tmp_path / "whole", trainer=make_trainer(validate_every=0))
    go(whole)
    assert record_of(tmp_path)["digests"] == record_of(tmp_path / "whole")["digests"]


def test_out_of_time_leaves_the_average_that_was_validated(tmp_path, monkeypatch):
    run, _ = make_run(tmp_path, trainer=make_trainer(validate_every=0, average_phi=0.9))

    class TimePasses:
        def on_outer_step(self, trainer, step):
            if step.number == 4:
                monkeypatch.setattr("time.monotonic", lambda: 1e12)

        def on_validation(self, trainer, validation):
            pass

    assert go(run, minutes=1, observers=[TimePasses()]) == "out of time"
    monkeypatch.undo()
    assert run.trainer.outer_steps_done == 4
    best, last = (load_rule(tmp_path / f"{name}.safetensors") for name in ("rule", "last"))
    for name, weight in best.named_parameters():
        assert torch.equal(weight, run.trainer.averaged_phi[name])
    assert digest(dict(best.named_parameters())) != digest(dict(last.named_parameters()))


def test_a_finished_run_may_be_resumed(tmp_path):
    run, _ = make_run(tmp_path)
    go(run)
    before = record_of(tmp_path)["digests"]
    again, _ = make_run(tmp_path, resume=True)
    assert go(again) == "finished"
    assert record_of(tmp_path)["digests"] == before


def test_a_folder_with_a_run_is_refused_and_left_alone(tmp_path):
    run, _ = make_run(tmp_path)
    go(run)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="a run's folder must not hold a run already; got .*--resume"):
        make_run(tmp_path)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_resume_where_there_is_nothing_starts(tmp_path):
    run, messages = make_run(tmp_path / "new", resume=True)
    assert messages == ["no checkpoint there yet: starting from the beginning"]
    assert go(run) == "finished"


def test_other_options_are_named_and_refused_unless_allowed(tmp_path):
    run, _ = make_run(tmp_path, options={"seed": 0, "meta_lr": 0.001})
    go(run)
    with pytest.raises(
        ValueError, match=r"got others \(meta_lr was 0.001, is 0.1\), use the old ones or --allow-changed"
    ):
        make_run(tmp_path, resume=True, options={"seed": 0, "meta_lr": 0.1})
    make_run(tmp_path, resume=True, options={"seed": 0, "meta_lr": 0.1}, allow_changed_options=True)


def test_other_data_are_named_and_refused_and_where_allowed_students_begin_anew(tmp_path):
    before, after = {"rows.csv": "sha256:1"}, {"rows.csv": "sha256:2"}
    run, _ = make_run(tmp_path, data=before)
    go(run)
    assert record_of(tmp_path)["data"] == before
    assert load_rule(tmp_path / "rule.safetensors").card["provenance"]["data"] == before
    for data in (after, None):
        with pytest.raises(ValueError, match=r"got others \(rows.csv was 'sha256:1', is ('sha256:2'|None)\)"):
            make_run(tmp_path, resume=True, data=data)
    same, _ = make_run(tmp_path, resume=True, data=before)
    assert same.students_go_on
    other, said = make_run(tmp_path, resume=True, data=after, allow_changed_options=True)
    assert not other.students_go_on
    assert "students are reset" in said[-1]


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path):
    run, _ = make_run(tmp_path)
    go(run)
    newest = sorted((tmp_path / "checkpoint").iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:-10])
    resumed, messages = make_run(tmp_path, resume=True)
    assert messages[0].startswith("passing over a checkpoint: a checkpoint must be a whole safetensors file")
    assert resumed.trainer.outer_steps_done == 4
    go(resumed)
    assert record_of(tmp_path)["outer_step"] == 6


def test_a_file_in_the_folders_place_is_named(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ValueError, match="a folder for results must be a folder; got the file"):
        make_run(tmp_path / "file")
    with pytest.raises(NotADirectoryError):
        make_run(tmp_path / "file" / "run")
    assert (tmp_path / "file").read_text() == "precious"


def test_a_write_that_fails_leaves_the_last_checkpoint_good(tmp_path, monkeypatch):
    run, _ = make_run(tmp_path)

    class FillDisk:
        def on_outer_step(self, trainer, step):
            if step.number == 4:

                def fail(descriptor):
                    raise OSError(28, "No space left on device", "somewhere")

                monkeypatch.setattr("os.fsync", fail)

        def on_validation(self, trainer, validation):
            pass

    with pytest.raises(OSError, match="No space left"):
        go(run, observers=[FillDisk()])
    monkeypatch.undo()
    newest = sorted((tmp_path / "checkpoint").glob("outer-step-*"))[-1]
    assert load_tree(newest)["trainer"]["outer_steps_done"] == 2
    resumed, _ = make_run(tmp_path, resume=True)
    assert go(resumed) == "finished"
