"""The watched student is the first one that evaluations report on, whatever the task."""

import numpy as np
import pytest

from l2l_opt.evaluation.runs import run_rule
from l2l_opt.inspection.pictures.watched_run import watch
from l2l_opt.rules import make_rule
from l2l_opt.tasks.mixture import make_tasks


@pytest.mark.parametrize("seed", range(4))
def test_of_a_mixture_inspect_watches_the_student_that_evaluate_reports_on(seed):
    tasks = make_tasks("quadratics:dim=2..6 + digits-mlp:hidden=2..5,batch_size=4")
    rule = make_rule("adam", lr=0.01)
    seen = watch("adam", rule, tasks, horizon=12, seed=seed).losses
    reported = run_rule(rule, tasks, horizon=12, num_seeds=1, seed=seed)
    np.testing.assert_allclose(seen, reported.curves[:, 0].double().numpy(), rtol=1e-4)
