"""Students: seeds, windows, resets."""

import pytest
import torch
from torch.utils._pytree import tree_leaves

from l2l_opt.inner_loop.horizon import Horizon
from l2l_opt.inner_loop.students import Students
from l2l_opt.inner_loop.unroll import InnerState, unroll
from l2l_opt.randomness import Stream
from l2l_opt.tasks import make_task
from l2l_opt.tasks.mixture import make_tasks
from l2l_opt.tasks.module_task import Examples
from tests.conftest import small_family, small_rule


def make(numbers=(0, 1, 2), horizon=8, seed=0, stream=Stream.META_TRAINING, family=None):
    rule = small_rule("rnnprop").double()
    family = family or small_family()
    horizon = horizon if isinstance(horizon, Horizon) else Horizon(horizon, horizon)
    return rule, family, Students(rule, family, numbers=numbers, horizon=horizon, seed=seed, stream=stream)


def next_window(students, length):
    (window,) = students.windows(length)
    return window


def go(students, length):
    all_losses = torch.empty(length + 1, len(students) * students.num_particles, dtype=torch.float64)
    with torch.no_grad():
        for window in students.windows(length):
            inner, losses = unroll(students.rule, window.family, window.data, window.inner, window.batches)
            students.advance(window, inner, losses)
            all_losses.reshape(length + 1, len(students), -1)[:, window.indices] = losses.double().reshape(
                length + 1, len(window.indices), -1
            )
    students.restart(all_losses)
    return all_losses


def all_of(students, attribute):
    return [getattr(student, attribute) for student in students.members]


def param(students, index):
    return students.members[index].inner.params["0.weight"]


def test_a_student_does_not_depend_on_its_neighbours():
    _, _, together = make(numbers=(0, 1, 2))
    _, _, alone = make(numbers=(2,))
    together, alone = next_window(together, 4), next_window(alone, 4)
    for a, b in zip(tree_leaves(together.inner.params), tree_leaves(alone.inner.params), strict=True):
        assert torch.equal(a[2:], b)
    for a, b in zip(together.batches, alone.batches, strict=True):
        assert torch.equal(a["index"][2:], b["index"])


@pytest.mark.parametrize("change", [{"seed": 1}, {"stream": Stream.VALIDATION}, {"numbers": (5, 6, 7)}])
def test_seed_stream_and_number_each_make_another_student(change):
    _, _, one = make()
    _, _, other = make(**change)
    assert not torch.equal(param(one, 0), param(other, 0))


def test_a_windows_last_batch_is_the_nexts_first():
    _, _, students = make()
    first, second = next_window(students, 3).batches, next_window(students, 3).batches
    assert len(first) == 4
    assert torch.equal(first[-1]["index"], second[0]["index"])


def test_windows_do_not_change_what_is_drawn():
    _, _, long = make()
    _, _, short = make()
    whole = next_window(long, 6).batches
    parts = next_window(short, 2).batches + next_window(short, 4).batches[1:]
    for a, b in zip(whole, parts, strict=True):
        assert torch.equal(a["index"], b["index"])


def test_students_start_anew_at_their_horizon():
    _, _, students = make(horizon=8)
    start = param(students, 0).clone()
    go(students, 4)
    assert all_of(students, "inner_step") == [4, 4, 4]
    assert all_of(students, "inner_run") == [0, 0, 0]
    assert all(torch.isfinite(student.initial_losses).all() for student in students.members)
    go(students, 4)
    assert all_of(students, "inner_step") == [0, 0, 0]
    assert all_of(students, "inner_run") == [1, 1, 1]
    assert not torch.equal(param(students, 0), start)
    for student in students.members:
        assert student.initial_losses.isnan().all()
        assert student.best_losses.isinf().all()
        assert all(float(value.abs().sum()) == 0 for value in student.inner.state["0.weight"].values())


def test_horizons_may_differ_between_students():
    _, _, students = make(numbers=range(6), horizon=Horizon(4, 40, 4))
    horizons = all_of(students, "horizon")
    assert len(set(horizons)) > 2
    assert all(horizon % 4 == 0 and 4 <= horizon <= 40 for horizon in horizons)
    assert [float(student.inner.num_steps) for student in students.members] == horizons
    go(students, 4)
    assert all_of(students, "inner_run") == [int(horizon == 4) for horizon in horizons]


def test_growing_horizons_follow_the_run():
    _, _, students = make(horizon=Horizon(4, 64, 4, growing=True))
    assert all_of(students, "horizon") == [4, 4, 4]
    students.progress = 0.5
    go(students, 4)
    assert all_of(students, "horizon") == [16, 16, 16]
    assert float(students.members[0].inner.num_steps) == 16
    assert Horizon(4, 64, 4, growing=True).draw(torch.Generator(), progress=1.0) == 64


def test_staggered_students_are_cut_at_different_steps_in_their_first_inner_run_only():
    rule, family = small_rule("sgd").double(), small_family()
    students = Students(
        rule, family, numbers=range(12), horizon=Horizon(40, 40, 4), seed=0, stream=Stream.META_TRAINING, staggered=True
    )
    assert len(set(all_of(students, "run_length"))) > 4
    assert all(0 < run_length <= 40 and run_length % 4 == 0 for run_length in all_of(students, "run_length"))
    assert all_of(students, "horizon") == [40] * 12
    for _ in range(10):
        go(students, 4)
    assert len(set(all_of(students, "inner_step"))) > 4
    assert all_of(students, "run_length") == [40] * 12


def test_a_student_that_is_not_finite_begins_again_and_ends_with_its_group():
    _, _, students = make(horizon=100)
    spoilt = students.members[1]
    spoilt.inner = InnerState({**spoilt.inner.params, "0.weight": param(students, 1) + torch.inf}, *list_of(spoilt))
    go(students, 4)
    assert all_of(students, "attempt") == [0, 1, 0]
    assert all_of(students, "inner_run") == [0, 0, 0]
    assert all_of(students, "inner_step") == [4, 4, 4]
    assert students.members[1].initial_losses.isnan().all()
    assert float(students.members[1].inner.state["0.weight"]["step"]) == 0
    assert not torch.equal(param(students, 1), param(make(horizon=100)[2], 1))
    assert all(torch.isfinite(leaf).all() for student in students.members for leaf in tree_leaves(student.inner.params))


def list_of(student):
    return student.inner.state, student.inner.num_steps


def test_a_pair_of_which_one_is_finite_may_be_spared():
    rule, family = small_rule("sgd").double(), small_family()
    students = Students(
        rule, family, numbers=[0, 1], horizon=Horizon(8, 8), seed=0, stream=Stream.META_TRAINING, num_particles=2
    )
    losses = torch.zeros(5, 4)
    losses[2, 1] = torch.nan
    students.restart(losses, spare_diverged=True)
    assert all_of(students, "attempt") == [0, 0]
    students.restart(losses)
    assert all_of(students, "attempt") == [1, 0]


def test_particles_of_a_student_start_alike_and_see_the_same_batches():
    rule, family = small_rule("sgd").double(), make_task("quadratics", dtype=torch.float64)
    students = Students(
        rule, family, numbers=[0, 1], horizon=Horizon(8, 8), seed=0, stream=Stream.META_TRAINING, num_particles=2
    )
    window = next_window(students, 4)
    for tree in (window.data, window.inner.params):
        for leaf in tree_leaves(tree):
            assert torch.equal(leaf[0], leaf[1])
            assert not torch.equal(leaf[1], leaf[2])


def test_best_losses_are_those_of_the_inner_run():
    _, _, students = make(horizon=12)
    first = go(students, 4)
    second = go(students, 4)
    expected = torch.minimum(first[1:].amin(0), second[1:].amin(0))
    assert torch.equal(torch.cat(all_of(students, "best_losses")), expected)


def test_with_losses_on_test_batches_the_training_batches_stay_the_same():
    rule, family = small_rule("sgd").double(), small_family()
    examples = family.examples
    family.examples = Examples(examples.inputs, examples.targets, {"train": (0, 20), "test": (20, 40)})
    options = {"numbers": [0], "horizon": Horizon(8, 8), "seed": 0, "stream": Stream.META_TRAINING}
    window = next_window(Students(rule, family, **options, loss_on="test"), 4)
    assert window.loss_batches is not None
    assert all(int(batch["index"].max()) < 20 for batch in window.batches)
    assert all(int(batch["index"].min()) >= 20 for batch in window.loss_batches)
    with torch.no_grad():
        _, losses = unroll(rule, family, window.data, window.inner, window.batches, loss_batches=window.loss_batches)
        params = {key: value[0] for key, value in window.inner.params.items()}
        expected = family.loss(params, {}, {"index": window.loss_batches[0]["index"][0]})
    torch.testing.assert_close(losses[0, 0], expected)


def test_students_of_a_group_share_architecture_and_horizon_in_every_inner_run():
    rule = small_rule("sgd")
    tasks = make_tasks("quadratics:dim=2..9 + 2*digits-mlp:hidden=2..5,batch_size=4")
    options = {"horizon": Horizon(2, 4, 2), "seed": 0, "stream": Stream.META_TRAINING}
    students = Students(rule, tasks, numbers=range(6), **options, group_size=2)
    kinds = set()
    for _ in range(12):
        families = all_of(students, "family")
        assert all(families[2 * group] is families[2 * group + 1] for group in range(3))
        kinds |= {id(family) for family in families}
        assert len(list(students.windows(2))) <= 3
        go(students, 2)
        horizons = all_of(students, "horizon")
        assert all(horizons[2 * group] == horizons[2 * group + 1] for group in range(3))
    assert len(kinds) > 5


def test_the_state_cut_at_a_windows_edge_has_no_graph():
    rule, family, students = make()
    window = next_window(students, 4)
    inner, losses = unroll(rule, family, window.data, window.inner, window.batches)
    assert inner.params["0.weight"].requires_grad
    students.advance(window, inner, losses)
    assert not any(
        leaf.requires_grad
        for student in students.members
        for leaf in tree_leaves((student.inner.params, student.inner.state))
    )


def test_state_dict_goes_on_bit_for_bit():
    _, _, students = make(horizon=8)
    go(students, 4)
    saved = students.state_dict()
    _, _, again = make(horizon=8, seed=99)
    again.load_state_dict(saved)
    again.seed, again.rule = students.seed, students.rule
    for _ in range(4):
        assert torch.equal(go(students, 4), go(again, 4))


def test_quadratics_differ_between_students_and_inner_runs():
    _, _, students = make(horizon=4, family=make_task("quadratics", dtype=torch.float64))
    first, second, _ = (student.data["W"] for student in students.members)
    assert not torch.equal(first, second)
    go(students, 4)
    assert not torch.equal(first, students.members[0].data["W"])


def test_no_students_is_an_error():
    with pytest.raises(ValueError, match="at least one student"):
        make(numbers=())
