"""Runs on the reporting students: rules in a batch and torch optimizers in plain loops, paired."""

import pytest
import torch
from torch import nn

from l2l_opt.evaluation.baselines.entries import ADAMW_CONSTANT
from l2l_opt.evaluation.baselines.muon import Muon, hidden_matrices
from l2l_opt.evaluation.baselines.torch_optimizers import prodigy, run_torch_optimizer, schedule_free
from l2l_opt.evaluation.baselines.tuning import Baseline
from l2l_opt.evaluation.runs import TEST_BATCHES, Run, long_curves, run_rule, scores_on_test_batches
from l2l_opt.rules import make_rule
from l2l_opt.tasks import ModuleTask, make_task
from l2l_opt.tasks.mixture import make_tasks
from tests.conftest import small_family

HOW = {"horizon": 60, "num_seeds": 3, "seed": 0}


def make_muon(params):
    names = {str(index): p for index, p in enumerate(params)}
    hidden = hidden_matrices(names)
    pair = [
        torch.optim.Muon([names[key] for key in hidden], lr=0.01, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([p for key, p in names.items() if key not in hidden], lr=0.01),
    ]

    class Both:
        def zero_grad(self):
            for own in pair:
                own.zero_grad()

        def step(self):
            for own in pair:
                own.step()

    return Both()


@pytest.mark.parametrize(
    ("rule", "make"),
    [
        (make_rule("adamw", lr=0.01), lambda params: torch.optim.AdamW(params, lr=0.01)),
        (make_rule("momentum", lr=0.1), lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9)),
        (Muon(lr=0.01), make_muon),
    ],
    ids=["adamw", "momentum", "muon"],
)
def test_a_rule_in_a_batch_is_the_torch_optimizer_in_a_loop(rule, make):
    """The same students, batches and test batches; float64, so that what is left is rounding."""
    family = make_task("digits-mlp:hidden=12,layers=2,activation=relu", dtype=torch.float64)
    ours, theirs = run_rule(rule, family, **HOW), run_torch_optimizer(make, family, **HOW)
    # Muon rounds to bfloat16, where a last bit of a gradient may decide.
    tolerance = {"rtol": 1e-2, "atol": 0} if isinstance(rule, Muon) else {"rtol": 1e-9, "atol": 0}
    torch.testing.assert_close(ours.curves, theirs.curves, **tolerance)
    torch.testing.assert_close(ours.final_losses, theirs.final_losses, **tolerance)
    torch.testing.assert_close(ours.test_losses, theirs.test_losses, **tolerance)
    assert (ours.final_losses < 0.8 * ours.curves[0]).all()
    assert not torch.equal(ours.final_losses, ours.test_losses)


def test_students_of_a_mixture_are_paired_too():
    tasks = make_tasks("quadratics:dim=2..6 + digits-mlp:hidden=3,batch_size=8", dtype=torch.float64)
    ours = run_rule(make_rule("adamw", lr=0.01), tasks, **HOW)
    theirs = run_torch_optimizer(lambda params: torch.optim.AdamW(params, lr=0.01), tasks, **HOW)
    torch.testing.assert_close(ours.curves, theirs.curves, rtol=1e-9, atol=0)


def test_schedule_free_is_evaluated_at_the_better_of_its_points():
    pytest.importorskip("schedulefree")
    family = make_task("digits-mlp:hidden=8", dtype=torch.float64)
    run = run_torch_optimizer(schedule_free, family, **HOW)
    assert run.about["judged_at"] in ("x", "y")
    at_y = run.curves[-10:].mean(dim=0)
    assert run.final_losses.mean() <= at_y.mean()

    class Plain:
        """The same optimizer, whose evaluation point nobody asks for: asking must not have changed the curves."""

        def __init__(self, params):
            self.own = schedule_free(params)
            self.own.train()
            self.zero_grad, self.step = self.own.zero_grad, self.own.step

    plain = run_torch_optimizer(Plain, family, **HOW)
    assert torch.equal(plain.curves, run.curves)
    assert not torch.equal(plain.test_losses, run.test_losses)
    assert plain.about == {}


def test_prodigy_learns_with_its_defaults():
    pytest.importorskip("prodigyopt")
    run = run_torch_optimizer(prodigy, make_task("digits-mlp"), **HOW)
    assert (run.final_losses < 0.7 * run.curves[0]).all()


def test_a_rule_can_be_given_a_wrong_number_of_steps_or_none():
    family, rule = small_family(), make_rule("sgd", lr=0.01, schedule="cosine")
    given, constant = run_rule(rule, family, **HOW), run_rule(make_rule("sgd", lr=0.01), family, **HOW)
    wrong, unknown = (run_rule(rule, family, **HOW, planned_steps=steps) for steps in (10, None))
    torch.testing.assert_close(unknown.curves, constant.curves, rtol=1e-12, atol=0)
    assert not torch.allclose(given.curves, constant.curves)
    assert not torch.allclose(given.curves, wrong.curves)
    exact = run_rule(rule, family, **HOW, planned_steps=60)
    assert torch.equal(exact.curves, given.curves)


def test_the_test_loss_is_of_the_students_own_batches():
    family = small_family()
    params = family.init_params({}, torch.Generator().manual_seed(1))
    first, again = (scores_on_test_batches(family, params, {}, 0, 3)[0] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, scores_on_test_batches(family, params, {}, 0, 4)[0])
    assert TEST_BATCHES >= 10


@pytest.mark.slow
def test_long_curves_begin_as_runs_at_their_rates_do():
    family = small_family()
    curves = long_curves(ADAMW_CONSTANT.make, [0.003, 0.03], family, steps=240, num_seeds=3, seed=0)
    assert curves.shape == (240, 2, 3)
    for index, lr in enumerate((0.003, 0.03)):
        run = run_rule(ADAMW_CONSTANT.make(lr), family, **HOW)
        torch.testing.assert_close(curves[:60, index], run.curves, rtol=1e-9, atol=0)


def test_a_run_goes_through_a_cache_unchanged(tmp_path):
    from l2l_opt.evaluation.cache import Cache

    run = run_rule(Baseline("x", "sgd", range(1)).make(0.01), small_family(), **HOW)
    kept = [Run(**Cache(tmp_path).get({"kind": "run"}, lambda: dict(vars(run)))) for _ in range(2)][1]
    assert torch.equal(kept.curves, run.curves)
    assert (kept.seconds, kept.about) == (run.seconds, {})


def test_accuracy_is_the_share_of_right_classes_along_whichever_axis_they_lie():
    for shape, classes in (((6, 3), (6,)), ((2, 5, 3), (2, 5)), ((2, 3, 4, 4), (2, 4, 4))):
        outputs = torch.zeros(shape)
        axis = 1 if len(shape) != 3 else -1
        outputs.select(axis, 2).fill_(1.0)
        targets = torch.full(classes, 2)
        targets.view(-1)[: targets.numel() // 2] = 0
        scale = nn.Sequential(nn.Identity(), Times())
        family = ModuleTask(scale, lambda a, b: a.square().mean(), (outputs, targets), batch_size=4)
        batch = {"index": torch.arange(len(outputs))}
        assert float(family.accuracy({"1.weight": torch.ones(())}, {}, batch)) == pytest.approx(0.5)


def test_without_classes_there_is_no_accuracy():
    assert run_rule(make_rule("sgd"), make_task("diabetes-mlp"), horizon=2, num_seeds=2, seed=0).accuracies is None
    run = run_rule(make_rule("adam", lr=0.03), make_task("iris-mlp"), horizon=100, num_seeds=2, seed=0)
    assert run.accuracies.shape == (2,)
    assert run.accuracies.min() > 0.8


class Times(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def reset_parameters(self):
        nn.init.ones_(self.weight)

    def forward(self, x):
        return self.weight * x
