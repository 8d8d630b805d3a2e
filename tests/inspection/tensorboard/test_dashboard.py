"""What inspect draws, recomputed from a raw unroll."""

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.func import functional_call

from l2l_opt.evaluation.baselines.tuning import BASELINES, Tuning
from l2l_opt.inspection.tensorboard.dashboard import inspect_rule
from l2l_opt.randomness import Stream, make_generator
from tests.conftest import small_family, small_rule

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
HORIZON = 12


def raw_unroll(rule, family, seed):
    """Losses, update sizes and cosines with the negative gradient, by the rule's forward pass alone."""
    generator = make_generator(seed, Stream.REPORTING, 0, 0)
    data = family.sample(generator)
    params = family.init_params(data, generator)
    state, rows = rule.init_state(params), {"loss": [], "rms": [], "cosine": []}
    for _ in range(HORIZON):
        batch = family.sample_batch(data, generator)
        points = {name: p.clone().requires_grad_() for name, p in params.items()}
        loss = family.loss(points, data, batch)
        grads = dict(zip(points, torch.autograd.grad(loss, list(points.values())), strict=True))
        with torch.no_grad():
            updates, state = functional_call(
                rule, {}, (grads, state, params), {"num_steps": torch.tensor(float(HORIZON))}
            )
            params = {name: p + updates[name] for name, p in params.items()}
        name = next(iter(params))
        rows["loss"].append(loss.item())
        rows["rms"].append(updates[name].square().mean().sqrt().item())
        rows["cosine"].append(-torch.cosine_similarity(updates[name].flatten(), grads[name].flatten(), dim=0).item())
    return name, rows


def test_charts_show_what_a_raw_unroll_gives(tmp_path):
    torch.manual_seed(0)
    rule, family = small_rule("rnnprop"), small_family(torch.float32)
    adam = next(baseline for baseline in BASELINES if baseline.name == "adam")
    found = inspect_rule(
        rule,
        family,
        task="small",
        horizon=HORIZON,
        seed=3,
        folder=tmp_path,
        baselines=[(adam, Tuning(0.01, {0.01: 1.0}))],
        histogram_every=4,
        pictures_folder=tmp_path / "pictures",
    )
    runs = list(found)
    name, rows = raw_unroll(rule, family, 3)
    events = EventAccumulator(str(tmp_path / "learned"), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    for tag, key in (
        ("Loss/student", "loss"),
        (f"update_rms/{name}", "rms"),
        (f"cosine_with_descent/{name}", "cosine"),
    ):
        drawn = [event.value for event in events.Scalars(tag)]
        np.testing.assert_allclose(drawn, rows[key], rtol=2e-4, atol=1e-5)
    params = dict(small_family(torch.float32).init_params({}, torch.Generator().manual_seed(0)))
    kinds = {"step_size/vectors", "step_size/matrices"}
    assert {p.dim() for p in params.values()} == {1, 2}
    tags = events.Tags()
    assert {tag for tag in tags["scalars"] if tag.startswith("step_size/")} == kinds
    # The root mean square over all matrices is that of each, weighed by their coordinates.
    matrices = {key: p.numel() for key, p in params.items() if p.dim() == 2}
    squares = [
        sum(matrices[key] * value**2 for key, value in zip(matrices, values, strict=True)) / sum(matrices.values())
        for values in zip(
            *([event.value for event in events.Scalars(f"update_rms/{key}")] for key in matrices), strict=True
        )
    ]
    drawn = [event.value for event in events.Scalars("step_size/matrices")]
    np.testing.assert_allclose(drawn, np.sqrt(squares), rtol=1e-5)
    for picture in ("student/losses", "hidden/over_time", "rule/response"):
        assert picture in tags["images"]
    assert any(tag.startswith("trajectory/") for tag in tags["images"])
    files = {path.stem for path in (tmp_path / "pictures").glob("*.svg")}
    assert files >= {"hidden-over_time", "rule-response", "student-losses"}
    assert len(files) == len(tags["images"])
    assert "custom_scalars__config__" in tags["tensors"]
    assert f"gate_forget_open/{name}" in tags["scalars"]
    assert {f"hidden/{name}", f"gradient/{name}", f"update/{name}"} <= set(tags["histograms"])
    others = EventAccumulator(str(tmp_path / "adam"), size_guidance={"scalars": 0})
    others.Reload()
    assert others.Scalars("Loss/student")[0].value == pytest.approx(rows["loss"][0])
    cosines = [event.value for event in others.Scalars(f"cosine_with_adam/{name}")]
    assert min(cosines) > 0.99  # Adam goes where Adam would
    assert [run.optimizer for run in runs] == ["learned", "adam"]
    trace = runs[0].trace
    np.testing.assert_allclose(trace.params[1:], (trace.params + trace.updates)[:-1], rtol=1e-5, atol=1e-6)
