"""Students: seeds, windows, resets, and training without a graph."""

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

from l2l_opt.randomness import Stream
from l2l_opt.schedules import Horizon
from l2l_opt.students import Students, final_losses, training_losses
from l2l_opt.tasks import make_task
from l2l_opt.unroll import InnerState, unroll
from tests.conftest import small_family, small_rule


def make(numbers=(0, 1, 2), horizon=8, seed=0, stream=Stream.META_TRAINING, family=None):
    rule = small_rule("rnnprop").double()
    family = family or small_family()
    horizon = horizon if isinstance(horizon, Horizon) else Horizon(horizon, horizon)
    return rule, family, Students(rule, family, numbers=numbers, horizon=horizon, seed=seed, stream=stream)


def go(rule, family, students, length):
    with torch.no_grad():
        inner, losses = unroll(rule, family, students.data, students.inner, students.window(length))
    students.advance(inner, losses)
    return losses


def test_a_student_does_not_depend_on_its_neighbours():
    _, _, together = make(numbers=(0, 1, 2))
    _, _, alone = make(numbers=(2,))
    for a, b in zip(tree_leaves(together.inner.params), tree_leaves(alone.inner.params), strict=True):
        assert torch.equal(a[2:], b)
    for a, b in zip(together.window(4), alone.window(4), strict=True):
        assert torch.equal(a["index"][2:], b["index"])


@pytest.mark.parametrize("change", [{"seed": 1}, {"stream": Stream.VALIDATION}, {"numbers": (5, 6, 7)}])
def test_seed_stream_and_number_each_make_another_student(change):
    _, _, one = make()
    _, _, other = make(**change)
    assert not torch.equal(one.inner.params["0.weight"], other.inner.params["0.weight"])


def test_a_windows_last_batch_is_the_nexts_first():
    _, _, students = make()
    first, second = students.window(3), students.window(3)
    assert len(first) == 4
    assert torch.equal(first[-1]["index"], second[0]["index"])


def test_windows_do_not_change_what_is_drawn():
    _, _, long = make()
    _, _, short = make()
    whole = long.window(6)
    parts = short.window(2) + short.window(4)[1:]
    for a, b in zip(whole, parts, strict=True):
        assert torch.equal(a["index"], b["index"])


def test_students_start_anew_at_their_horizon():
    rule, family, students = make(horizon=8)
    start = students.inner.params["0.weight"].clone()
    go(rule, family, students, 4)
    assert students.ages == [4, 4, 4]
    assert students.episodes == [0, 0, 0]
    assert torch.isfinite(students.initial_losses).all()
    go(rule, family, students, 4)
    assert students.ages == [0, 0, 0]
    assert students.episodes == [1, 1, 1]
    assert not torch.equal(students.inner.params["0.weight"], start)
    assert students.inner.state["0.weight"]["step"].tolist() == [0, 0, 0]
    assert all(float(value.abs().sum()) == 0 for value in students.inner.state["0.weight"].values())


def test_horizons_may_differ_between_students():
    rule, family, students = make(numbers=range(6), horizon=Horizon(4, 40, 4))
    assert len(set(students.horizons)) > 2
    assert all(horizon % 4 == 0 and 4 <= horizon <= 40 for horizon in students.horizons)
    assert students.inner.num_steps.tolist() == students.horizons
    ends = list(students.horizons)
    go(rule, family, students, 4)
    assert students.episodes == [int(end == 4) for end in ends]
    assert students.inner.num_steps.tolist() == students.horizons


def test_a_student_that_is_not_finite_is_started_anew():
    rule, family, students = make(horizon=100)
    params = tree_map(torch.clone, students.inner.params)
    params["0.weight"][1] = float("inf")
    students.inner = InnerState(params, students.inner.state, students.inner.num_steps)
    go(rule, family, students, 4)
    assert students.episodes == [0, 1, 0]
    assert students.ages == [4, 0, 4]
    assert all(torch.isfinite(leaf).all() for leaf in tree_leaves(students.inner.params))


def test_the_state_cut_at_a_windows_edge_has_no_graph():
    rule, family, students = make()
    inner, losses = unroll(rule, family, students.data, students.inner, students.window(4))
    assert inner.params["0.weight"].requires_grad
    students.advance(inner, losses)
    assert not any(leaf.requires_grad for leaf in tree_leaves((students.inner.params, students.inner.state)))


def test_state_dict_goes_on_bit_for_bit():
    rule, family, students = make(horizon=8)
    go(rule, family, students, 4)
    saved = students.state_dict()
    _, _, again = make(horizon=8, seed=99)
    again.load_state_dict(saved)
    again.seed = students.seed
    for _ in range(4):
        assert torch.equal(go(rule, family, students, 4), go(rule, family, again, 4))


def test_training_losses_do_not_depend_on_the_window():
    rule, family = small_rule("adam", lr=0.1).double(), small_family()
    options = {"numbers": range(2), "horizon": 23, "seed": 0, "stream": Stream.REPORTING}
    whole = training_losses(rule, family, **options, window_length=23)
    parts = training_losses(rule, family, **options, window_length=5)
    assert whole.shape == (23, 2)
    assert torch.equal(whole, parts)
    assert whole[-1].mean() < whole[0].mean()


def test_one_phi_a_student_runs_rules_side_by_side():
    family = small_family()
    options = {"numbers": [0, 0], "horizon": 12, "seed": 0, "stream": Stream.TUNING}
    rates = torch.tensor([0.01, 0.3], dtype=torch.float64)
    both = training_losses(small_rule("sgd"), family, phi={"log_lr": rates.log()}, **options)
    for index, rate in enumerate(rates.tolist()):
        alone = training_losses(small_rule("sgd", lr=rate), family, **{**options, "numbers": [0]})
        torch.testing.assert_close(both[:, index], alone[:, 0], rtol=1e-12, atol=1e-12)


def test_quadratics_differ_between_students_and_episodes():
    rule, family, students = make(horizon=4, family=make_task("quadratics", dtype=torch.float64))
    first = students.data["W"].clone()
    assert not torch.equal(first[0], first[1])
    go(rule, family, students, 4)
    assert not torch.equal(first, students.data["W"])


@pytest.mark.parametrize(("length", "expected"), [(5, slice(0, 5)), (100, slice(90, 100)), (1000, slice(900, 1000))])
def test_final_loss_is_the_mean_of_the_last_tenth_but_of_ten_at_least(length, expected):
    curve = torch.arange(float(length)).unsqueeze(1)
    torch.testing.assert_close(final_losses(curve), curve[expected].mean(dim=0))


def test_no_students_is_an_error():
    with pytest.raises(ValueError, match="at least one student"):
        make(numbers=())
