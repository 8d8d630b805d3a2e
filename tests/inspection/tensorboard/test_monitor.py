"""UnrollMonitor and the meta-training log: what is drawn is true."""

import itertools

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from l2l_opt import LearnedOptimizer, MetaTrainer, RNNProp, TruncatedBackprop
from l2l_opt.inspection import UnrollMonitor
from l2l_opt.inspection.measures.trace import CoordinateTracer
from l2l_opt.inspection.tensorboard.meta_training import MetaTrainingLog
from l2l_opt.rules import RULES
from tests.conftest import small_family, small_rule

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

INPUTS = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))


def read(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0})
    events.Reload()
    return events


def series(events, tag):
    return {event.step: event.value for event in events.Scalars(tag)}


def run(folder, make_optimizer, steps=5, every=1, histogram_every=1, **options):
    """Train a small model under the monitor; returns what the charts should say."""
    model = nn.Linear(3, 2)
    optimizer = make_optimizer(model)
    truth = {"loss": [], "gradient": [], "update": [], "hidden": []}
    with (
        SummaryWriter(str(folder)) as writer,
        UnrollMonitor(optimizer, writer, every=every, histogram_every=histogram_every, **options) as monitor,
    ):
        for _ in range(steps):
            loss = (model(INPUTS) ** 2).mean()
            monitor.log_loss(loss.detach())
            optimizer.zero_grad()
            loss.backward()
            before = model.weight.detach().clone()
            optimizer.step()
            truth["loss"].append(loss.item())
            truth["gradient"].append(model.weight.grad.square().mean().sqrt().item())
            truth["update"].append((model.weight.detach() - before).square().mean().sqrt().item())
            hidden = optimizer.state[model.weight].get("hidden")
            truth["hidden"].append(0.0 if hidden is None else hidden.square().mean().sqrt().item())
    return model, optimizer, truth


def test_charts_say_what_happened(tmp_path):
    _, _, truth = run(tmp_path, lambda model: LearnedOptimizer(model.named_parameters(), RNNProp(hidden_size=3)))
    events = read(tmp_path)
    for tag, key in (
        ("Loss/student", "loss"),
        ("gradient_rms/weight", "gradient"),
        ("update_rms/weight", "update"),
        ("state_hidden_rms/weight", "hidden"),
    ):
        drawn = series(events, tag)
        assert list(drawn) == list(range(5))
        np.testing.assert_allclose(list(drawn.values()), truth[key], rtol=1e-5)
        assert min(truth[key]) > 0


def test_histograms_hold_every_coordinate(tmp_path):
    run(tmp_path, lambda model: LearnedOptimizer(model.named_parameters(), RNNProp(hidden_size=3)))
    events = read(tmp_path)
    for quantity in ("gradient", "update"):
        histograms = events.Histograms(f"{quantity}/weight")
        assert [event.step for event in histograms] == list(range(5))
        assert all(event.histogram_value.num == 6 for event in histograms)


def test_attaches_to_any_optimizer(tmp_path):
    _, _, truth = run(tmp_path, lambda model: torch.optim.Adam(model.parameters(), lr=0.1))
    drawn = series(read(tmp_path), "update_rms/0.0")
    np.testing.assert_allclose(list(drawn.values()), truth["update"], rtol=1e-5)


@pytest.mark.parametrize("name", RULES.names())
def test_attaches_to_every_rule(name, tmp_path):
    run(tmp_path, lambda model: LearnedOptimizer(model.named_parameters(), small_rule(name), num_steps=5))
    assert list(series(read(tmp_path), "update_rms/weight")) == list(range(5))


@pytest.mark.parametrize("name", RULES.names())
def test_coordinates_of_every_rule_are_traced(name):
    model = nn.Linear(3, 2)
    optimizer = LearnedOptimizer(model.named_parameters(), small_rule(name), num_steps=5)
    tracer = CoordinateTracer(optimizer, coordinates=4)
    for _ in range(3):
        optimizer.zero_grad()
        (model(INPUTS) ** 2).mean().backward()
        tracer.before_step()
        optimizer.step()
        tracer.after_step()
    trace = tracer.trace()
    assert trace.updates.shape == (3, 6)
    own = optimizer.state[model.weight]
    units = {key: own[key].shape[0] for key in optimizer.rule.recurrent_state if key in own}
    assert {key: value.shape for key, value in trace.hidden.items()} == {
        key: (3, count, 6) for key, count in units.items()
    }


def test_cadences(tmp_path):
    run(tmp_path, lambda model: torch.optim.SGD(model.parameters(), lr=0.1), steps=7, every=3, histogram_every=6)
    events = read(tmp_path)
    assert list(series(events, "update_rms/0.0")) == [0, 3, 6]
    assert [event.step for event in events.Histograms("update/0.0")] == [0, 6]


def test_by_default_points_and_what_comes_with_them_wait_until_they_cost_little(tmp_path, monkeypatch):
    """A clock that the test turns: 1 s a step, 3 s a point, and 5 s its histograms."""
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([parameter], lr=1e-3)

    def slowed(function, seconds):
        def slow(*arguments):
            now[0] += seconds
            function(*arguments)

        return slow

    with SummaryWriter(str(tmp_path)) as writer, UnrollMonitor(optimizer, writer) as monitor:
        monkeypatch.setattr(monitor._tab, "add", slowed(monitor._tab.add, 3))
        monkeypatch.setattr(monitor, "_write_histograms", slowed(monitor._write_histograms, 5))
        for _ in range(10_000):
            parameter.grad = parameter.detach().clone()
            optimizer.step()
            now[0] += 1
    points = list(series(read(tmp_path), "update_rms/0.0"))
    # 1 % of the time is one point's cost every 300 steps.
    assert points[:3] == [0, 400, 700]
    assert len(points) == pytest.approx(33, abs=2)
    # Half as much is five seconds every 1,000 steps, with a point, once there was time for ten points' cost.
    drawn = [event.step for event in read(tmp_path).Histograms("update/0.0")]
    assert 5800 <= drawn[0] <= 6200
    assert all(1000 <= later - before <= 1400 for before, later in itertools.pairwise(drawn))
    assert len(drawn) >= 3


def test_the_monitor_changes_nothing_and_leaves_cleanly(tmp_path):
    torch.manual_seed(0)
    watched, optimizer, _ = run(tmp_path, lambda model: torch.optim.Adam(model.parameters(), lr=0.1))
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    plain = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(5):
        plain.zero_grad()
        (model(INPUTS) ** 2).mean().backward()
        plain.step()
    assert torch.equal(model.weight, watched.weight)


def test_bad_cadences_are_named(tmp_path):
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    with SummaryWriter(str(tmp_path)) as writer, pytest.raises(ValueError, match="every must be at least 1"):
        UnrollMonitor(optimizer, writer, every=0)


def test_a_meta_training_run_is_drawn_whole(tmp_path):
    trainer = MetaTrainer(
        small_rule("rnnprop").double(),
        small_family(),
        TruncatedBackprop(horizon=8, truncation_length=4),
        outer_steps=4,
        num_students=2,
        validate_every=2,
        validation_students=2,
    )
    log, steps, validations = MetaTrainingLog(tmp_path), [], []

    def on_step(step):
        steps.append(step)
        log.on_outer_step(trainer, step)

    def on_validation(validation):
        validations.append(validation)
        log.on_validation(trainer, validation)

    trainer.run(on_outer_step=on_step, on_validation=on_validation)
    log.close()
    events = read(tmp_path)
    assert series(events, "meta/loss") == pytest.approx({step.number: step.meta_loss for step in steps})
    assert series(events, "meta/gradient_norm") == pytest.approx(
        {step.number: step.meta_gradient_norm for step in steps}
    )
    metrics = {validation.outer_step: validation.metric for validation in validations}
    assert series(events, "validation/figure") == pytest.approx(metrics)
    assert set(metrics) == {0, 2, 4}
    low, high = (series(events, f"validation/{end}") for end in ("low", "high"))
    for step, metric in metrics.items():
        assert low[step] < metric < high[step]
    curve = series(read(tmp_path / "validation-000004"), "Loss/student")
    np.testing.assert_allclose(list(curve.values()), validations[-1].curve.numpy(), rtol=1e-6)
    assert list(curve) == list(range(8))
