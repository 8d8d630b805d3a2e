"""Registry, notation, schedules, seeds, meta-loss."""

import math
from contextvars import ContextVar
from typing import Annotated, Any

import pytest
import torch

from l2l_opt.contexts import holding
from l2l_opt.inner_loop.horizon import Horizon
from l2l_opt.meta_training.estimators import MetaLoss
from l2l_opt.meta_training.options import meta_learning_rate
from l2l_opt.randomness import Stream, make_generator
from l2l_opt.registry import Registry, parse_spec


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("lstm", ("lstm", {})),
        ("lstm:hidden_size=8", ("lstm", {"hidden_size": 8})),
        ("mnist-mlp:hidden=40,activation=relu", ("mnist-mlp", {"hidden": 40, "activation": "relu"})),
        ("a:x=1e-3,y=True,z=None", ("a", {"x": 1e-3, "y": True, "z": None})),
        ("a:root=/some/where", ("a", {"root": "/some/where"})),
        ("a:x=[{'rule':'b','y':2},{'rule':'c'}],z=3", ("a", {"x": [{"rule": "b", "y": 2}, {"rule": "c"}], "z": 3})),
        ("a:x=(1,2),y={'b':[3,4],'c':5}", ("a", {"x": (1, 2), "y": {"b": [3, 4], "c": 5}})),
        ("a:file=my(x.csv,target=y", ("a", {"file": "my(x.csv", "target": "y"})),
    ],
)
def test_notation(spec, expected):
    assert parse_spec(spec) == expected


@pytest.mark.parametrize("spec", ["a:b", "a:1=2", "a:=3"])
def test_broken_notation_is_named(spec):
    with pytest.raises(ValueError, match="an option must read key=value; got"):
        parse_spec(spec)


def test_registry_refuses_a_second_factory_under_one_name():
    registry: Registry[int] = Registry("thing")
    registry.register("one", int)
    registry.register("one", int)
    with pytest.raises(ValueError, match="a thing's name must be new; got 'one'"):
        registry.register("one", float)
    with pytest.raises(ValueError, match="must be a word"):
        registry.register("a:b", int)
    with pytest.raises(ValueError, match="a thing must be a registered name; got 'on', did you mean 'one'"):
        registry.factory("on")


def test_horizon_reads_numbers_and_ranges():
    assert Horizon.parse("100", truncation_length=20) == Horizon(100, 100, 20)
    assert Horizon.parse(60, truncation_length=20) == Horizon(60, 60, 20)
    assert Horizon.parse("100..2000", truncation_length=50) == Horizon(100, 2000, 50)
    assert str(Horizon.parse("100..2000")) == "100..2000"
    assert str(Horizon.parse("100")) == "100"


@pytest.mark.parametrize(
    ("text", "length", "message"),
    [
        ("0", 1, "horizon must be positive and in order; got '0'"),
        ("-5", 1, "horizon must be positive"),
        ("200..100", 1, "horizon must be positive and in order"),
        ("many", 1, "horizon must be a number or a range; got 'many'"),
        ("100", 7, "truncation_length must divide horizon; got 7 and 100, use 4, 5 or 10"),
        ("100", 200, "truncation_length must not exceed horizon; got 200 and 100"),
        ("100", 0, "truncation_length must be a positive integer; got 0"),
        ("100..210", 20, "truncation_length must divide horizon; got 20 and 210"),
    ],
)
def test_bad_horizons_are_named(text, length, message):
    with pytest.raises(ValueError, match=message):
        Horizon.parse(text, truncation_length=length)


def test_log_uniform_horizons_are_multiples_and_spread_evenly_on_a_log_scale():
    horizon, generator = Horizon.parse("100..1600", truncation_length=20), torch.Generator().manual_seed(0)
    drawn = [horizon.draw(generator) for _ in range(2000)]
    assert all(100 <= value <= 1600 and value % 20 == 0 for value in drawn)
    below = sum(value <= 400 for value in drawn) / 2000
    assert 0.45 < below < 0.56


def test_meta_learning_rate():
    assert meta_learning_rate(0.1, 7, 10, schedule="constant") == 0.1
    assert meta_learning_rate(0.1, 0, 10, schedule="cosine") == 0.1
    assert meta_learning_rate(0.1, 5, 10, schedule="cosine") == pytest.approx(0.05)
    assert meta_learning_rate(0.1, 10, 10, schedule="cosine") == pytest.approx(0)
    with pytest.raises(ValueError, match="meta_lr_schedule must be"):
        meta_learning_rate(0.1, 0, 10, schedule="step")


def test_generators_differ_by_every_number_and_repeat():
    keys = [
        (0, Stream.TUNING, 0, 0),
        (1, Stream.TUNING, 0, 0),
        (0, Stream.REPORTING, 0, 0),
        (0, Stream.TUNING, 1, 0),
        (0, Stream.TUNING, 0, 1),
    ]
    values = [float(torch.rand((), generator=make_generator(*key))) for key in keys]
    assert len(set(values)) == len(values)
    assert values == [float(torch.rand((), generator=make_generator(*key))) for key in keys]
    with pytest.raises(ValueError, match="seed must not be negative; got -1"):
        make_generator(-1, Stream.TUNING)


LOSSES = torch.tensor([[4.0, 8.0], [2.0, 8.0], [1.0, 4.0], [0.5, 2.0]], dtype=torch.float64)
INITIAL = torch.tensor([4.0, 8.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("sum", (3.5 + 14) / 2),
        ("last", (0.5 + 2) / 2),
        ("linear", (2 / 3 + 2 / 3 + 0.5 + 8 / 3 + 8 / 3 + 2) / 2),
        ((1.0, 0.0, 2.0), (3 + 12) / 2),
        ("mean", (3.5 + 14) / 6),
        ("best-so-far", (3.5 + 14) / 6),
        ("progress", 2 / 9 * (2 + 2 + 1.5 + 8 + 8 + 6) / 2),
    ],
)
def test_meta_loss_weighs_the_losses_after_each_step(weights, expected):
    assert float(MetaLoss(weights)(LOSSES, INITIAL)) == pytest.approx(expected)


def test_progress_weighs_windows_as_it_does_the_whole_horizon():
    """Two windows of an inner run of four steps, of students at one inner step or at different ones."""
    losses = torch.rand(5, 2, dtype=torch.float64) + 0.5
    initial, progress = losses[0], MetaLoss("progress", "log")
    whole = progress.per_student(losses, initial)
    fractions = torch.tensor([0.25, 0.5, 0.75, 1.0], dtype=torch.float64).unsqueeze(1).expand(4, 2)
    first = progress.per_student(losses[:3], initial, None, fractions[:2])
    second = progress.per_student(losses[2:], initial, None, fractions[2:])
    torch.testing.assert_close((first + second) / 2, whole)
    torch.testing.assert_close(progress.per_student(losses, initial, None, fractions), whole)
    assert (second.abs() > 0).all()
    own_fractions = torch.stack([fractions[:2, 0], fractions[2:, 0]], dim=1)
    mixed = progress.per_student(losses[:3], initial, None, own_fractions)
    assert float(mixed[0]) == pytest.approx(float(first[0]))
    expected = (1.5 * (losses[1, 1] / initial[1]).log() + 2 * (losses[2, 1] / initial[1]).log()) / 2
    assert float(mixed[1]) == pytest.approx(float(expected))


def test_a_floor_bounds_what_a_student_who_is_all_but_done_counts():
    losses = torch.tensor([[2.0, 2.0], [1.0, 2e-9]], dtype=torch.float64, requires_grad=True)
    initial = torch.tensor([2.0, 2.0], dtype=torch.float64)
    floored, plain = MetaLoss("last", "log", floor=0.001), MetaLoss("last", "log")
    expected = [math.log(0.501), math.log(0.001 + 1e-9)]
    assert floored.per_student(losses, initial).tolist() == pytest.approx(expected)
    slopes = [torch.autograd.grad(loss(losses, initial), losses)[0][1] for loss in (floored, plain)]
    assert slopes[0][1] == pytest.approx(0.5 / 2 / 0.001, rel=1e-3)
    assert slopes[1][1] > 1e5 * slopes[0][1]
    assert slopes[0][0] == pytest.approx(float(slopes[1][0]), rel=1e-2)
    # Where losses are not normalised there is nothing that it could be a part of.
    assert MetaLoss("sum", floor=0.5)(LOSSES, INITIAL) == MetaLoss("sum")(LOSSES, INITIAL)


def test_the_best_so_far_is_that_of_the_inner_run():
    losses = torch.tensor([[9.0], [3.0], [5.0], [math.nan], [1.0]], dtype=torch.float64)
    initial = torch.tensor([9.0], dtype=torch.float64)
    best = MetaLoss("best-so-far")
    assert float(best(losses, initial)) == pytest.approx((3 + 3 + 3 + 1) / 4)
    assert float(best(losses, initial, torch.tensor([2.0]))) == pytest.approx((2 + 2 + 2 + 1) / 4)
    assert float(best(losses, initial, torch.tensor([torch.inf]))) == pytest.approx((3 + 3 + 3 + 1) / 4)


def test_a_clip_bounds_each_loss_and_stands_for_divergence():
    losses = torch.tensor([[1.0, 1.0], [math.e, 100.0], [math.e, math.nan], [math.e, math.inf]], dtype=torch.float64)
    initial = torch.ones(2, dtype=torch.float64)
    clipped = MetaLoss("mean", "log", clip=2.0)
    assert clipped.per_student(losses, initial).tolist() == pytest.approx([1.0, 2.0])
    assert not torch.isfinite(MetaLoss("mean", "log")(losses, initial))
    finite = losses[:3].nan_to_num(3.0).requires_grad_()
    clipped(finite, initial).backward()
    assert finite.grad is not None
    assert finite.grad[1, 1] == 0  # Beyond the bound nothing is to be gained.
    assert finite.grad[1, 0] > 0


def test_log_meta_loss_does_not_see_a_tasks_scale():
    meta_loss = MetaLoss("last", "log")
    value = float(meta_loss(LOSSES, INITIAL))
    assert value == pytest.approx((torch.log(torch.tensor(1 / 8)) + torch.log(torch.tensor(1 / 4))).item() / 2)
    assert float(meta_loss(1000 * LOSSES, 1000 * INITIAL)) == pytest.approx(value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("squares", "none"), "over_steps must be one of"),
        (("sum", "sqrt"), "normalisation must be"),
        (((), "none"), "over_steps must be finite numbers"),
        (((float("nan"),), "none"), "over_steps must be finite numbers"),
        (("sum", "log", math.inf), "clip must be a finite number or None; got inf"),
        (("sum", "log", None, "validation"), "loss_on must be 'train' or 'test'; got 'validation'"),
        (("sum", "log", None, "train", -0.1), "floor must be a number and not negative; got -0.1"),
        (("sum", "log", None, "train", math.nan), "floor must be a number and not negative; got nan"),
    ],
)
def test_bad_meta_losses_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        MetaLoss(*options)


def test_over_steps_must_fit_the_window():
    with pytest.raises(ValueError, match="as many as the steps; got 2 and 3"):
        MetaLoss((1.0, 2.0))(LOSSES, INITIAL)


@pytest.mark.parametrize(
    ("losses", "initial"),
    [([2.0, 1.0, -0.5], 2.0), ([-90.0, -91.0, -100.0], -90.0), ([-1.0, 2.0, 3.0], -1.0), ([0.1, 0.0, -1e-3], 0.1)],
)
@pytest.mark.parametrize("floor", [0.0, 0.01])
def test_the_logarithm_of_losses_below_zero_is_refused(losses, initial, floor):
    losses, initial = torch.tensor(losses).unsqueeze(1), torch.tensor([initial])
    for over_steps in ("sum", "best-so-far", "progress"):
        with pytest.raises(ValueError, match=r"must not fall below zero .*; got -.*, use --normalisation none"):
            MetaLoss(over_steps, "log", floor=floor)(losses, initial)
        assert torch.isfinite(MetaLoss(over_steps, "none", floor=floor)(losses, initial))


def test_the_logarithm_of_a_loss_that_rounding_took_below_zero_is_that_of_none():
    losses, initial = torch.tensor([[1.0], [0.5], [-1e-8]]), torch.tensor([1.0])
    for floor in (0.0, 1e-3):
        assert torch.isfinite(MetaLoss("last", "log", floor=floor)(losses, initial))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("width", "abc", "width of thing 'made' must be an integer; got 'abc', use e.g. width=3"),
        ("width", 2.5, "width of thing 'made' must be an integer; got 2.5"),
        ("rate", "fast", "rate of thing 'made' must be a number; got 'fast', use e.g. rate=0.1"),
        ("rate", True, "rate of thing 'made' must be a number; got True"),
        ("plain", "abc", "plain of thing 'made' must be an integer; got 'abc', use e.g. plain=4"),
        ("needed", "abc", "needed of thing 'made' must be a number; got 'abc'"),
        ("flag", "yes", "flag of thing 'made' must be True or False; got 'yes', use e.g. flag=False"),
        ("size", "abc", "size of thing 'made' must be an integer; got 'abc', use e.g. size=2"),
        ("word", [1], r"word of thing 'made' must be a text; got \[1\], use e.g. word=a"),
    ],
)
def test_options_of_a_wrong_type_are_refused_before_anybodys_factory_sees_them(key, value, message):
    def make(
        *,
        needed: Annotated[float, "positive"],
        width: int = 3,
        rate: "float" = 0.1,
        plain=4,
        flag: bool = False,
        size: int | None = None,
        word: str = "a",
    ):
        return needed, width, rate, plain, flag, size, word

    registry: Registry[Any] = Registry("thing")
    registry.register("made", make)
    assert registry.make("made", needed=1, rate=2, plain=5, flag=True) == (1, 3, 2, 5, True, None, "a")
    assert registry.make("made", needed=1, size=7, word=2024)[-2:] == (7, 2024)
    with pytest.raises(ValueError, match=message):
        registry.make("made", **{"needed": 1.0, key: value})


def test_a_value_that_is_held_is_given_back_also_after_an_error():
    variable: ContextVar[int] = ContextVar("variable", default=1)

    def fail() -> None:
        with holding(variable, 2):
            with holding(variable, 3):
                assert variable.get() == 3
            assert variable.get() == 2
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert variable.get() == 1
