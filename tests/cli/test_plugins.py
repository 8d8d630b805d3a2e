"""Plugins that do not keep the contract: one sentence, wrong usage, no traceback, whatever they return or call."""

import re

import pytest

from l2l_opt.cli.main import main
from l2l_opt.rules import RULES
from l2l_opt.tasks import TASKS

TASK = """
import sys
import numpy, torch
from torch import nn
from l2l_opt import ModuleTask, register_task

class Family:
    def sample(self, generator): return {}
    def init_params(self, data, generator): return {"w": torch.zeros(2)}
    def sample_batch(self, data, generator, split="train"): return {}
    def loss(self, params, data, batch): return (params["w"] - 1).square().sum()

@register_task("mine-%(number)s")
def mine(*, device="cpu", dtype=torch.float32):
    family, x, mse = Family(), torch.ones(9, 2), nn.functional.mse_loss
    %(line)s
    return family
"""

RULE = """
import sys
import numpy, torch
from l2l_opt import UpdateRule, register_rule

@register_rule("mine-%(number)s")
class Mine(UpdateRule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        %(init)s
    def init_state(self, params):
        state = {name: {"step": torch.zeros(())} for name in params}
        %(state)s
        return state
    def forward(self, grads, state, params, *, num_steps=None):
        updates = {name: self.weight * g for name, g in grads.items()}
        result = updates, {name: {"step": own["step"] + 1} for name, own in state.items()}
        %(forward)s
        return result
"""


@pytest.fixture
def fails(tmp_path, monkeypatch, capsys):
    """Runs meta-train with a plugin; gives its one sentence, if it is one and it is wrong usage."""
    monkeypatch.chdir(tmp_path)

    def call(text, *arguments):
        (tmp_path / "plugin.py").write_text(text)
        command = ["meta-train", "--plugin", tmp_path / "plugin.py", "--outer-steps", 1, "--out", tmp_path / "run"]
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in (*command, *arguments)])
        error = capsys.readouterr().err
        lines = [line for line in error.splitlines() if line.startswith("Error: ")]
        assert caught.value.code in (1, 2)
        assert len(lines) == 1, error
        assert "Traceback" not in error
        assert "vmap" not in error
        assert not (tmp_path / "run" / "rule.safetensors").exists()
        return lines[0]

    yield call
    for registry in (TASKS, RULES):
        for name in [name for name in registry.names() if name.startswith("mine-")]:
            del registry._factories[name]


@pytest.mark.parametrize(
    ("number", "line", "words"),
    [
        (0, "family = None", "a registered task must return a task family; got NoneType from 'mine-0'"),
        (1, "family = nn.Linear(2, 2)", "must return a task family; got Linear"),
        (2, "family = numpy.ones(3)", "must return a task family; got ndarray"),
        (3, "sys.exit(3)", "task 'mine-3' must not end the program; got sys.exit(3)"),
        (4, "family.sample = lambda generator: None", "sample of task 'mine-4' must return a dict of tensors"),
        (5, "family.init_params = lambda *_: {'w': numpy.zeros(2)}", "init_params of task .* tensors.*; got ndarray"),
        (6, "family.init_params = lambda *_: nn.Linear(2, 2)", "init_params .* got Linear"),
        (7, "family.sample_batch = lambda *_: {'x': numpy.zeros(2)}", "sample_batch .* tensors; got ndarray"),
        (8, "family.loss = lambda *_: None", "loss of task 'mine-8' must return a scalar tensor; got NoneType"),
        (9, "family.loss = lambda params, *_: params['w'].numpy().sum()", "loss .* a scalar tensor; got float32"),
        (10, "family.loss = lambda *_: sys.exit()", r"must not end the program; got sys.exit\(None\)"),
        (11, "family.loss = lambda p, *_: p['w'].sum().item() * p['w'].sum()", "must not read the values .* 'mine-11'"),
        (12, "family = ModuleTask(nn.Linear(2, 2), mse, (x.numpy(), x.numpy()))", "got tuple of ndarray and ndarray"),
        (
            13,
            "family = ModuleTask(nn.Linear(2, 2), lambda *_: None, (x, x))",
            "loss_fn must return a scalar; got NoneType",
        ),
    ],
)
def test_tasks(fails, number, line, words):
    error = fails(TASK % {"number": number, "line": line}, "--task", f"mine-{number}", "--rule", "sgd")
    assert re.search(words if ".*" in words or "\\" in words else re.escape(words), error), error


@pytest.mark.parametrize(
    ("number", "place", "line", "words"),
    [
        (20, "init", "sys.exit(1)", "rule 'mine-20' must not end the program; got sys.exit(1)"),
        (21, "state", "return None", "init_state of rule 'mine-21' must return"),
        (22, "state", "state = {name: numpy.zeros(2) for name in params}", "init_state of rule 'mine-22'"),
        (23, "forward", "return None", "forward of rule 'mine-23' must return two dicts"),
        (24, "forward", "result = {n: numpy.ones(3) for n in grads}, state", "rule 'mine-24' must return updates"),
        (25, "forward", "result = updates, None", "must return states"),
        (26, "forward", "return self", "forward of rule 'mine-26' must return two dicts"),
        (27, "forward", "sys.exit('enough')", "must not end the program; got sys.exit('enough')"),
    ],
)
def test_rules(fails, number, place, line, words):
    parts = {"init": "pass", "state": "pass", "forward": "pass"} | {place: line}
    text = RULE % {"number": number, **parts}
    assert words in fails(text, "--rule", f"mine-{number}", "--task", "quadratics")


def test_files(fails):
    assert "a plugin must run without error; got SystemExit: 4" in fails("import sys\nsys.exit(4)\n")


@pytest.mark.parametrize(("code", "shown"), [("0", "0"), ("", "None")])
def test_a_loss_that_ends_the_program_is_no_success(tmp_path, monkeypatch, capsys, code, shown):
    """It is met in the middle of the command, when all checks of the task are done."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plugin.py").write_text(
        "import sys, torch\n"
        "from l2l_opt import register_task\n"
        "calls = []\n"
        f"@register_task('quits-late-{shown}')\n"
        "class Late:\n"
        "    def sample(self, generator): return {}\n"
        "    def init_params(self, data, generator): return {'w': torch.zeros(2)}\n"
        "    def sample_batch(self, data, generator, split='train'):\n"
        "        calls.append(1)\n"
        f"        if len(calls) > 30: sys.exit({code})\n"
        "        return {}\n"
        "    def loss(self, params, data, batch): return (params['w'] - 1).square().sum()\n"
    )
    arguments = ["meta-train", "--plugin", "plugin.py", "--task", f"quits-late-{shown}", "--rule", "rnnprop"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--outer-steps", "9", "--students", "1", "--validation-students", "1", "--out", "run"])
    assert ended.value.code == 1
    assert f"must not end the program; got sys.exit({shown})" in capsys.readouterr().err
