"""What TensorBoard shows of gates, of Adam, of response surfaces and of meta-gradients, against definitions."""

import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from l2l_opt.inner_loop.horizon import Horizon
from l2l_opt.inner_loop.students import Students
from l2l_opt.inner_loop.unroll import unroll
from l2l_opt.inspection.measures.adam_reference import AdamReference
from l2l_opt.inspection.measures.gates import gates_of, saturation
from l2l_opt.inspection.measures.meta_gradients import meta_gradient_by_position
from l2l_opt.inspection.measures.quantities import tensor_quantities
from l2l_opt.inspection.measures.response import response_surface
from l2l_opt.randomness import Stream
from l2l_opt.rules import RULES, make_rule
from tests.conftest import small_family, small_rule


def test_quantities_of_a_tensor():
    g, u, p = torch.tensor([3.0, 4.0]), torch.tensor([-0.6, -0.8]), torch.tensor([0.0, 2.0])
    expected = [math.sqrt(12.5), math.sqrt(0.5), 0.5, 1.0, 0.2]
    torch.testing.assert_close(tensor_quantities(g, u, p).tolist(), expected)
    zeros = tensor_quantities(torch.zeros(2), torch.zeros(2), torch.zeros(2))
    assert zeros[:2].tolist() == [0, 0]
    assert zeros[2:].isnan().all()


def test_adams_direction_is_torchs():
    torch.manual_seed(0)
    params = {"a": nn.Parameter(torch.randn(5, 3)), "b": nn.Parameter(torch.randn(4))}
    optimizer = torch.optim.Adam(params.values(), lr=1.0)
    reference = AdamReference(params, coordinates=1000)
    for step in range(6):
        present = ["a", "b"] if step != 3 else ["a"]  # a tensor without a gradient stays as it is
        for name, p in params.items():
            p.grad = torch.randn_like(p) if name in present else None
        before = {name: p.detach().clone() for name, p in params.items()}
        optimizer.step()
        reference.observe({name: params[name].grad for name in present})
        for name in present:
            update = (params[name].detach() - before[name]).flatten()
            torch.testing.assert_close(reference.direction(name), update, rtol=1e-5, atol=1e-6)
            assert float(reference.cosine(name, update.reshape(params[name].shape))) == pytest.approx(1, abs=1e-5)


def test_a_stretch_begins_the_mean_anew_and_keeps_the_squares():
    reference = AdamReference({"a": torch.zeros(1)}, coordinates=1)
    for value in (3.0, -3.0):
        reference.begin_stretch()
        reference.observe({"a": torch.tensor([value])})
    assert float(reference.direction("a")) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["lstm", "rnnprop", "compact", "scale-free:recurrent=True"])
def test_gates_are_those_of_the_forward_pass(name):
    """The next cell and hidden state follow from the gates that are reported."""
    torch.manual_seed(0)
    rule = make_rule(name)
    param, gradient = torch.randn(3, 4), torch.randn(3, 4)
    state = rule.init_state({"p": param})
    with torch.no_grad():
        for _ in range(3):
            _, state = rule({"p": gradient}, state, {"p": param}, num_steps=torch.tensor(50.0))
        _, after = rule({"p": gradient}, state, {"p": param}, num_steps=torch.tensor(50.0))
    before = {key: value.clone() for key, value in state["p"].items()}
    layers = gates_of(rule, "p", gradient, state["p"], param, num_steps=torch.tensor(50.0))
    assert all(torch.equal(before[key], value) for key, value in state["p"].items())
    output = torch.cat([gates[2] for gates in layers])
    hidden, cell = (after["p"][key].flatten(1) for key in ("hidden", "cell"))
    torch.testing.assert_close(output * cell.tanh(), hidden, rtol=1e-4, atol=1e-5)
    shares = saturation(torch.cat(layers, dim=1))
    assert shares.shape == (3, 2)
    assert float(shares[2, 1]) == pytest.approx(float((output > 0.9).float().mean()))


@pytest.mark.slow
def test_gates_are_seen_without_loading_torchs_compiler():
    script = """
import sys, torch
from l2l_opt.inspection.measures.gates import gates_of
from l2l_opt.rules import make_rule
rule, p = make_rule("rnnprop"), torch.ones(2)
state = rule.init_state({"p": p})["p"]
print(len(gates_of(rule, "p", p, state, p, num_steps=torch.tensor(9.0))), "torch._dynamo" in sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert int(found[0]) > 0
    assert found[1] == "False"


def test_a_rule_without_an_lstm_has_no_gates():
    rule = make_rule("adam")
    state = rule.init_state({"p": torch.ones(2)})
    assert gates_of(rule, "p", torch.ones(2), state["p"], torch.ones(2), num_steps=None) == []


@pytest.mark.parametrize("name", [name for name in RULES.names() if name != "composed"])
def test_every_rule_has_a_response_surface(name):
    surface = response_surface(small_rule(name), points=5, history=3)
    assert surface.updates.shape == (5, 5)
    assert torch.isfinite(surface.updates).all()


def test_the_surface_of_momentum_is_its_equation():
    surface = response_surface(make_rule("momentum:lr=0.1,momentum=0.5"), points=3, history=2, reach=1.0)
    past, present = torch.meshgrid(surface.past, surface.present, indexing="ij")
    torch.testing.assert_close(surface.updates, -0.1 * (present + 0.5 * past + 0.25 * past))


def test_the_last_part_of_a_meta_gradient_is_that_of_one_step_from_there():
    """Of a window of one step all of the meta-gradient is that step's."""
    torch.manual_seed(0)
    rule, family = small_rule("rnnprop").double(), small_family()
    students = Students(
        rule, family, numbers=range(2), horizon=Horizon(4, 4), seed=0, stream=Stream.VALIDATION, group_size=2
    )
    (window,) = students.windows(1)
    _, losses = unroll(rule, window.family, window.data, window.inner, window.batches)
    gradients = torch.autograd.grad(
        losses[1].mean(), list(rule.parameters()), materialize_grads=True, allow_unused=True
    )
    expected = torch.stack([gradient.norm() for gradient in gradients]).norm()
    torch.testing.assert_close(meta_gradient_by_position(rule, family, length=1, horizon=4, seed=0), expected[None])
    norms = meta_gradient_by_position(rule, family, length=4, horizon=4, seed=0)
    assert norms.shape == (4,)
    assert (norms > 0).all()
