"""Every registered rule, through the commands that meta-train, watch, report and show it."""

import pytest

from l2l_opt.rules import RULES
from tests.cli.test_errors import run  # noqa: F401


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES.names())
def test_a_rule_is_meta_trained_watched_and_shown(run, name):  # noqa: F811
    """On a student with matrices and vectors, so that states of rows, columns and whole tensors occur."""
    task = ["--task", "digits-mlp:hidden=3"]
    small = ["--horizon", 4, "--truncation-length", 2, "--students", 2, "--validation-students", 1, "--outer-steps", 1]
    quick = ["--horizon", 4, "--baselines", "adam", "--tuning-seeds", 1, "--seeds", 1]
    for arguments in (
        ["meta-train", "--rule", name, *task, *small, "--out", "run"],
        ["inspect", "run", *task, "--horizon", 4, "--logdir", "watched"],
        ["report", "run/rule.safetensors", *task, *quick, "--out", "report.html"],
        ["show", "run/rule.safetensors"],
    ):
        code, _, err = run(*arguments)
        assert code == 0, (arguments, err)
