"""What a result depends on is in its key: code, data, weights."""

import pytest
import torch
from torch import nn

from l2l_opt.evaluation import provenance
from l2l_opt.evaluation.task import SuiteConfig, TaskEvaluator
from l2l_opt.rules import make_rule
from l2l_opt.tasks import ModuleTask, make_task
from l2l_opt.tasks.mixture import make_tasks
from tests.own_data import write_rows

RUNS = "l2l_opt.evaluation.runs"


def changed(monkeypatch, name):
    content = provenance._content
    monkeypatch.setattr(provenance, "_content", lambda path: content(path) + b"x" * (path.name == name))


@pytest.mark.parametrize("name", ["runs.py", "students.py", "unroll.py", "randomness.py", "horizon.py", "types.py"])
def test_code_that_a_module_imports_is_in_its_digest(monkeypatch, name):
    before = provenance.code_digest([RUNS], without=provenance.NOT_OF_BASELINES)
    assert before == provenance.code_digest([RUNS], without=provenance.NOT_OF_BASELINES)
    changed(monkeypatch, name)
    assert before != provenance.code_digest([RUNS], without=provenance.NOT_OF_BASELINES)


@pytest.mark.parametrize("name", ["replay.py", "portable.py", "mlp.py", "summary.py"])
def test_code_that_baselines_do_not_run_is_not(monkeypatch, name):
    before = provenance.code_digest([RUNS], without=provenance.NOT_OF_BASELINES)
    changed(monkeypatch, name)
    assert before == provenance.code_digest([RUNS], without=provenance.NOT_OF_BASELINES)


@pytest.mark.parametrize("name", ["lstm.py", "recurrent.py", "reference.py"])
def test_a_rules_identity_holds_its_code(monkeypatch, name):
    rule = make_rule("lstm")
    before = provenance.rule_identity(rule)
    changed(monkeypatch, name)
    assert before != provenance.rule_identity(rule)


def test_compiled_kernels_are_in_the_digest_of_their_package(monkeypatch):
    before = provenance.code_digest(["l2l_opt.kernels"])
    native = sorted((provenance.Path(provenance.__file__).parent.parent / "kernels" / "native").glob("*.c*"))
    changed(monkeypatch, native[0].name)
    assert before != provenance.code_digest(["l2l_opt.kernels"])


def test_a_rules_identity_holds_its_weights_and_config():
    rule = make_rule("adam", lr=0.1)
    before = provenance.rule_identity(rule)
    assert before == provenance.rule_identity(make_rule("adam", lr=0.1))
    assert before != provenance.rule_identity(make_rule("adam", lr=0.1, beta1=0.8))
    with torch.no_grad():
        rule.log_lr += 1e-9
    assert before != provenance.rule_identity(rule)


def test_the_code_of_a_family_made_of_another_is_that_of_both():
    assert provenance.task_code("sized-digits-mlp:head=0.1") == [
        "l2l_opt.tasks.first_sizes",
        "l2l_opt.tasks.images.mlp",
    ]


def test_the_code_of_a_task_is_the_module_of_its_factory():
    assert provenance.task_code("digits-mlp:hidden=3") == ["l2l_opt.tasks.images.mlp"]
    assert provenance.task_code("2*digits-mlp:hidden=3..5 + quadratics") == [
        "l2l_opt.tasks.images.mlp",
        "l2l_opt.tasks.synthetic.quadratics",
    ]


def test_a_fingerprint_tells_data_and_families_apart():
    def family(scale):
        inputs = torch.arange(30.0).reshape(10, 3) * scale
        return ModuleTask(nn.Linear(3, 1), nn.functional.mse_loss, (inputs, torch.ones(10, 1)))

    assert provenance.fingerprint(family(1.0), seed=0) == provenance.fingerprint(family(1.0), seed=0)
    assert provenance.fingerprint(family(1.0), seed=0) != provenance.fingerprint(family(1.001), seed=0)
    quadratics = make_task("quadratics:dim=3")
    assert provenance.fingerprint(quadratics, seed=0) != provenance.fingerprint(quadratics, seed=1)
    assert len(provenance.fingerprint(make_tasks("quadratics:dim=2..6"), seed=0)) == 4


def test_code_of_a_mixture_is_known_whatever_its_values_hold():
    alone = provenance.task_code("least-squares + quadratics")
    assert provenance.task_code("least-squares:condition=1e+3+2*quadratics") == alone
    assert len(alone) == 2


def test_what_is_kept_hangs_on_every_row_of_a_users_file(tmp_path):
    """A row that no first batch holds changes no fingerprint, but the digest of the file."""
    rows = write_rows(tmp_path / "rows.csv", count=400)
    task = f"table-mlp:data={rows},target=rooms,kind=numbers,ignore=price;kind,batch_size=1"
    how = SuiteConfig(horizons=(4,), num_seeds=1, tuning_seeds=1, baselines=(), classical=True, cache=None)
    before = TaskEvaluator(task, how).about
    lines = rows.read_text().splitlines()
    place = 1 + int(torch.randperm(400, generator=torch.Generator().manual_seed(0))[-2])  # a test row
    lines[place] = ",".join(["0.123", *lines[place].split(",")[1:]])
    rows.write_text("\n".join(lines))
    after = TaskEvaluator(task, how).about
    assert before["fingerprint"] == after["fingerprint"]
    assert before["data"].keys() == after["data"].keys() == {str(rows)}
    assert before["data"] != after["data"]
    assert "data" not in TaskEvaluator("quadratics", how).about
