"""Imitation: the learner comes to write what the model writes, on the model's own path."""

import pytest
import torch

from l2l_opt import MetaTrainer, TruncatedBackprop
from l2l_opt.meta_training.estimators.imitation import Imitation
from l2l_opt.rules import make_rule
from tests.conftest import small_family, small_rule

pytestmark = pytest.mark.slow


def estimate(rule, model, *, outer_steps=1):
    imitation = Imitation(model, horizon=8, truncation_length=4)
    students = imitation.init(rule, small_family(), num_students=2, seed=0)
    results = []
    for _ in range(outer_steps):
        result, students = imitation.estimate(rule, students)
        results.append(result)
    return results, students


def test_a_rule_that_is_the_model_makes_no_error():
    (result,), _ = estimate(make_rule("adam", lr=0.01).double(), make_rule("adam", lr=0.01).double())
    assert float(result.meta_loss) < 1e-20
    (result,), _ = estimate(make_rule("adam", lr=0.02).double(), make_rule("adam", lr=0.01).double())
    assert float(result.meta_loss) == pytest.approx(1.0)
    # d (e^x - 1)^2 / dx at x = log 2 is 4.
    assert float(result.gradients["log_lr"]) == pytest.approx(4.0)


def test_students_walk_the_models_path_and_the_model_is_not_trained():
    model = make_rule("adam", lr=0.01).double()
    results = [estimate(rule, model)[0][0] for rule in (small_rule("rnnprop").double(), make_rule("sgd").double())]
    torch.testing.assert_close(results[0].losses, results[1].losses, rtol=1e-12, atol=0)
    assert set(results[0].gradients) == {name for name, _ in small_rule("rnnprop").named_parameters()}
    assert not any(weight.requires_grad for weight in model.parameters())


def test_meta_gradient_equals_finite_differences():
    rule, model = small_rule("rnnprop").double(), make_rule("momentum", lr=0.01).double()
    (result,), _ = estimate(rule, model)
    for name, weight in rule.named_parameters():
        gradient, direction = result.gradients[name], torch.randn_like(weight)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight += sign * 1e-5 * direction
            values.append(float(estimate(rule, model)[0][0].meta_loss))
            with torch.no_grad():
                weight -= sign * 1e-5 * direction
        expected = (values[0] - values[1]) / 2e-5
        assert float((gradient * direction).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-7), name


def test_early_outer_steps_imitate_and_later_ones_do_not():
    rule = small_rule("rnnprop").double()
    imitation = Imitation(make_rule("adam", lr=0.01), horizon=8, truncation_length=4)
    trainer = MetaTrainer(
        rule,
        small_family(),
        TruncatedBackprop(horizon=8, truncation_length=4),
        outer_steps=60,
        num_students=2,
        meta_lr=0.02,
        imitation=imitation,
        imitation_steps=50,
    )
    losses = [trainer.outer_step().meta_loss for _ in range(50)]
    assert losses[-1] < 0.75 * losses[0]
    assert all(student.inner_step == 0 and student.inner_run == 0 for student in trainer.students.members)
    saved = trainer.state_dict()
    assert saved["imitating"] is not None
    trainer.outer_step()
    assert trainer.students.members[0].inner_step == 4
    assert trainer.state_dict()["imitating"] is None
    trainer.load_state_dict(saved)
    assert trainer.students.members[0].inner_step == 0


def test_rule_and_outer_steps_belong_together():
    for options in ({"imitation_steps": 5}, {"imitation": Imitation(make_rule("adam"))}):
        with pytest.raises(ValueError, match="belong together"):
            MetaTrainer(small_rule("rnnprop"), small_family(), TruncatedBackprop(), outer_steps=1, **options)
