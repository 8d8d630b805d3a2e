"""Mixtures: their notation, what they draw, and what they refuse."""

import pytest
import torch

from l2l_opt.tasks.mixture import Choice, Range, TaskMixture, components_of, draw_family, make_tasks
from l2l_opt.tasks.module_task import ModuleTask
from l2l_opt.tasks.synthetic.quadratics import Quadratics


def draws(spec, number=400):
    tasks = make_tasks(spec)
    generator = torch.Generator().manual_seed(0)
    return [draw_family(tasks, generator) for _ in range(number)]


def widths(families):
    return [family.module[1].out_features for family in families]


def test_a_plain_name_is_the_family_itself():
    tasks = make_tasks("quadratics:dim=3")
    assert isinstance(tasks, Quadratics)
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert draw_family(tasks, generator) is tasks
    assert torch.equal(generator.get_state(), before)


def test_families_come_as_often_as_they_weigh():
    families = draws("3*quadratics:dim=2 + digits-mlp:hidden=2")
    share = sum(isinstance(family, Quadratics) for family in families) / len(families)
    assert abs(share - 0.75) < 0.08
    assert len(set(map(id, families))) == 2


def test_ranges_are_log_uniform_and_reach_their_bounds():
    dims = torch.tensor([float(family.dim) for family in draws("quadratics:dim=1..16", 3000)])
    assert dims.min() == 1
    assert dims.max() == 16
    # log-uniform: as many below 4 as above, but for the half unit at each end.
    assert 0.35 < (dims < 4).float().mean() < 0.65
    scales = [family.init_scale for family in draws("quadratics:init_scale=0.01..1.0", 500)]
    assert all(0.01 <= scale <= 1 for scale in scales)
    assert 0.4 < sum(scale < 0.1 for scale in scales) / 500 < 0.6


def test_choices_are_all_drawn():
    families = draws("digits-mlp:hidden=2|7,activation=relu|tanh,layers=1..2", 60)
    assert set(widths(families)) == {2, 7}
    assert {type(family.module[2]).__name__ for family in families} == {"ReLU", "Tanh"}
    assert {len(family.module) for family in families} == {4, 6}


def test_the_same_options_give_the_same_object_and_share_the_images():
    families = draws("digits-mlp:hidden=2..4,batch_size=8|16", 60)
    kinds = {id(family): family for family in families}
    assert len(kinds) == 6
    assert all(isinstance(family, ModuleTask) for family in families)
    assert len({family.examples.inputs.data_ptr() for family in kinds.values()}) == 1


def test_images_are_averaged_down_to_a_side():
    (family,) = {id(f): f for f in draws("fashion-mlp:side=8,hidden=2..2", 3)}.values()
    assert family.examples.inputs.shape[1:] == (8, 8)
    full = make_tasks("fashion-mlp")
    assert isinstance(full, ModuleTask)
    assert float(family.examples.inputs[0].mean()) == pytest.approx(float(full.examples.inputs[0].mean()), rel=0.05)


def test_its_largest_and_smallest_families():
    tasks = make_tasks("quadratics:dim=3..9 + digits-mlp:hidden=2..5,activation=tanh|relu")
    assert isinstance(tasks, TaskMixture)
    assert tasks.largest()[0].dim == 9
    assert tasks.smallest()[0].dim == 3
    assert widths(tasks.largest()[1:]) == [5]
    assert widths(tasks.smallest()[1:]) == [2]


def test_a_folder_with_dots_is_no_range(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("L2L_OPT_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=r"\.\./nowhere"):
        make_tasks("mnist-mlp:root=../nowhere")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("two*quadratics", "a weight must be a number; got 'two'"),
        ("0*quadratics + digits-mlp", "a mixture's weights must be positive numbers"),
        ("-1*quadratics + digits-mlp", "a mixture's weights must be positive numbers"),
        ("quadratics:dim=9..3", "a range must be positive and in order; got '9..3'"),
        ("quadratics:dim=0..3", "a range must be positive and in order; got '0..3'"),
        ("digits-mlp + quadratics:dtype=float64", "must be one it has; got 'dtype', which is passed beside"),
        ("quadratics:device=cuda", "'quadratics' must be one it has; got 'device', which is passed beside"),
        ("quadratics + nonsense", "a task must be a registered name; got 'nonsense'"),
        ("quadratics +", "a task must be a registered name; got ''"),
        ("quadratics:size=2..3", "an option of task 'quadratics' must be one it has; got 'size'"),
        ("digits-mlp:activation=relu|softmax", "activation must be one of"),
    ],
)
def test_what_cannot_be_read_is_named(spec, message):
    with pytest.raises(ValueError, match=message):
        make_tasks(spec)


def test_a_range_of_whole_numbers_gives_whole_numbers():
    generator = torch.Generator().manual_seed(0)
    drawn = {Range(2, 4).draw(generator) for _ in range(200)}
    assert drawn == {2, 3, 4}
    assert all(isinstance(value, int) for value in drawn)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("a:rate=1e+3 + b", [(1, "a", {"rate": 1e3}), (1, "b", {})]),
        ("a:rate=1e+3..2e+3", [(1, "a", {"rate": Range(1e3, 2e3)})]),
        ("a:rate=+3|+4", [(1, "a", {"rate": Choice((3, 4))})]),
        ("a:file=x+y.csv", [(1, "a", {"file": "x+y.csv"})]),
        ("a:file=x*y.csv+2*quadratics", [(1, "a", {"file": "x*y.csv"}), (2, "quadratics", {})]),
        ("1e+2*a+quadratics:dim=2", [(100, "a", {}), (1, "quadratics", {"dim": 2})]),
        ("quadratics+quadratics+digits-mlp", [(1, "quadratics", {}), (1, "quadratics", {}), (1, "digits-mlp", {})]),
        ("quadratics:dim=2+ 2 * quadratics", [(1, "quadratics", {"dim": 2}), (2, "quadratics", {})]),
    ],
)
def test_a_plus_within_a_value_parts_no_families(spec, expected):
    found = components_of(spec)
    assert [(component.weight, component.name, component.options) for component in found] == expected
