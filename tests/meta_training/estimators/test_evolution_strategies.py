"""Evolution strategies against exact gradients, against each other, and against a loop."""

import math

import pytest
import torch

from l2l_opt import NRES, PES, FullES, TruncatedBackprop
from l2l_opt.inner_loop.unroll import unroll
from l2l_opt.meta_training.estimators import MetaLoss
from l2l_opt.rules import make_rule
from l2l_opt.tasks import make_task
from tests.conftest import small_family, small_rule

HORIZON, WINDOW = 8, 2


def quadratic(lr=0.02):
    return make_rule("sgd", lr=lr).double(), make_task("quadratics:dim=2,init_scale=1.0", dtype=torch.float64)


def whole_inner_run(estimator, rule, students):
    """The sum of the meta-gradients of one inner run's outer steps, with phi frozen."""
    total = {name: torch.zeros_like(weight) for name, weight in rule.named_parameters()}
    for _ in range(1 if isinstance(estimator, FullES) else HORIZON // WINDOW):
        meta_gradient, students = estimator.estimate(rule, students)
        total = {name: total[name] + gradient for name, gradient in meta_gradient.gradients.items()}
    assert all(student.inner_run == 1 for student in students.members)
    return total


def exact_gradient(rule, family, num_students):
    """Back-propagation through the whole of the same inner runs, second derivatives included."""
    estimator = TruncatedBackprop(horizon=HORIZON, truncation_length=HORIZON, second_derivatives=True)
    students = estimator.init(rule, family, num_students=num_students, seed=0)
    return estimator.estimate(rule, students)[0].gradients


@pytest.mark.slow
@pytest.mark.parametrize("estimator_class", [FullES, PES, NRES])
def test_the_mean_over_inner_runs_is_the_exact_meta_gradient(estimator_class):
    rule, family = quadratic()
    estimator = estimator_class(horizon=HORIZON, truncation_length=WINDOW, sigma=0.01)
    students = estimator.init(rule, family, num_students=500, seed=0)
    exact = float(exact_gradient(rule, family, 500)["log_lr"])
    estimates = []
    for seed in range(8):
        students = estimator.init(rule, family, num_students=500, seed=0)
        students.seed = seed  # The same students under other noise.
        estimates.append(float(whole_inner_run(estimator, rule, students)["log_lr"]))
    estimates = torch.tensor(estimates)
    standard_error = float(estimates.std()) / math.sqrt(len(estimates))
    assert abs(float(estimates.mean()) - exact) <= 4 * standard_error
    assert standard_error < 0.1 * abs(exact)
    # The other estimators' mistake, of differentiating windows alone, would be seen.
    truncated = TruncatedBackprop(horizon=HORIZON, truncation_length=WINDOW, second_derivatives=True)
    greedy = whole_inner_run(truncated, rule, truncated.init(rule, family, num_students=500, seed=0))
    assert abs(float(greedy["log_lr"]) - exact) > 4 * standard_error


def test_noise_reuse_over_an_inner_run_is_full_evolution_strategies():
    rule, family = small_rule("rnnprop").double(), small_family()
    results = []
    for estimator_class in (FullES, NRES):
        estimator = estimator_class(horizon=HORIZON, truncation_length=WINDOW, sigma=0.1)
        results.append(whole_inner_run(estimator, rule, estimator.init(rule, family, num_students=3, seed=0)))
    for name, gradient in results[0].items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradient, results[1][name], rtol=1e-9, atol=1e-12)


def test_persistent_noise_accumulates_over_windows_and_ends_with_the_inner_run():
    rule, family = quadratic()
    estimator = PES(horizon=HORIZON, truncation_length=WINDOW, sigma=0.1)
    students = estimator.init(rule, family, num_students=2, seed=0)
    sums = []
    for _ in range(3):
        estimator.estimate(rule, students)
        sums.append(float(students.members[0].estimator_state["log_lr"]))
    steps = [b - a for a, b in zip([0.0, *sums], sums, strict=False)]
    assert len(set(steps)) == 3
    estimator.estimate(rule, students)
    assert students.members[0].estimator_state == {}


def test_a_pair_differs_by_its_noise_alone():
    rule, family = small_rule("rnnprop").double(), small_family()
    estimator = NRES(horizon=HORIZON, truncation_length=WINDOW, sigma=1e-12)
    students = estimator.init(rule, family, num_students=3, seed=0)
    meta_gradient, _ = estimator.estimate(rule, students)
    pairs = meta_gradient.losses.reshape(WINDOW + 1, 3, 2)
    torch.testing.assert_close(pairs[..., 0], pairs[..., 1], rtol=1e-8, atol=0)
    assert not torch.equal(pairs[:, 0, 0], pairs[:, 1, 0])


@pytest.mark.parametrize("name", ["compact", "lstm"])
def test_particles_in_one_batch_equal_a_loop_over_them(name):
    rule, family = small_rule(name).double(), small_family()
    estimator = NRES(horizon=HORIZON, truncation_length=4, sigma=0.1)
    students = estimator.init(rule, family, num_students=3, seed=0)
    phi = {key: weight.detach() for key, weight in rule.named_parameters()}
    noise = [estimator.perturb(phi, students, student)[0] for student in students.members]
    (window,) = students.windows(4)
    with torch.no_grad():
        _, together = estimator.run_pairs(rule, phi, window, noise)
        alone = [
            estimator_losses(rule, window, index, {key: phi[key] + sign * eps[key] for key in phi})
            for index, (eps, sign) in enumerate((eps, sign) for eps in noise for sign in (1, -1))
        ]
    torch.testing.assert_close(together, torch.cat(alone, dim=1), rtol=1e-11, atol=1e-11)


def estimator_losses(rule, window, index, phi):
    from torch.utils._pytree import tree_map

    from l2l_opt.inner_loop.unroll import InnerState

    def one(leaf):
        return leaf[index : index + 1]

    inner = InnerState(*tree_map(one, (window.inner.params, window.inner.state, window.inner.num_steps)))
    batches = tree_map(one, window.batches)
    return unroll(rule, window.family, tree_map(one, window.data), inner, batches, phi=phi)[1]


def test_a_particle_that_diverges_is_worth_the_clip_and_its_pair_goes_on():
    rule, family = quadratic(lr=1.0)
    loss = MetaLoss("mean", "log", clip=2.0)
    estimator = NRES(horizon=400, truncation_length=200, sigma=3.0, meta_loss=loss)
    students = estimator.init(rule, family, num_students=8, seed=0)
    meta_gradient, students = estimator.estimate(rule, students)
    dead = (~torch.isfinite(meta_gradient.losses[-1])).reshape(8, 2)
    assert (dead.sum(dim=1) == 1).any()
    assert torch.isfinite(meta_gradient.gradients["log_lr"])
    assert float(meta_gradient.meta_loss) <= 2.0
    for student, (one, other) in zip(students.members, dead.tolist(), strict=True):
        assert student.attempt == int(one and other)


def test_without_a_clip_divergence_gives_no_meta_gradient_and_a_new_start():
    rule, family = quadratic(lr=1.0)
    estimator = NRES(horizon=400, truncation_length=200, sigma=3.0)
    students = estimator.init(rule, family, num_students=8, seed=0)
    meta_gradient, students = estimator.estimate(rule, students)
    assert not torch.isfinite(meta_gradient.gradients["log_lr"])
    assert any(student.attempt == 1 for student in students.members)


def test_full_evolution_takes_whole_inner_runs_of_one_horizon():
    rule, family = quadratic()
    estimator = FullES(horizon="4..64", truncation_length=4, sigma=0.1)
    students = estimator.init(rule, family, num_students=3, seed=0)
    lengths = set()
    for _ in range(6):
        assert len({student.horizon for student in students.members}) == 1
        horizon = students.members[0].horizon
        meta_gradient, students = estimator.estimate(rule, students)
        assert meta_gradient.losses.shape == (horizon + 1, 6)
        assert torch.isfinite(meta_gradient.losses).all()
        lengths.add(horizon)
    assert len(lengths) > 2


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf])
def test_sigma_must_be_positive(sigma):
    with pytest.raises(ValueError, match="sigma must be a positive number"):
        NRES(sigma=sigma)
