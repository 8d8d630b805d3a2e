"""What a GPU computes: traced here without one, and run where there is one."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from l2l_opt.kernels import inductor, native, portable
from l2l_opt.kernels.operands import Operands
from tests.kernels.test_operator import make_states, make_weights

pytestmark = pytest.mark.slow


@pytest.fixture
def counter(monkeypatch):
    """Graphs that were traced; blocks, which a GPU does not make, left out."""
    counter = CompileCounter()
    monkeypatch.setattr(inductor, "BACKEND", counter)
    monkeypatch.setattr(portable, "_blocks", lambda tensor: iter((slice(None),)))
    inductor._compiled.cache_clear()
    torch._dynamo.reset()
    yield counter
    inductor._compiled.cache_clear()
    torch._dynamo.reset()


def problem(sizes, device="cpu"):
    torch.manual_seed(0)
    layers, readout = make_weights(4, 2, torch.float64)
    inputs, hidden, cell = (
        [t.detach().unsqueeze(1).to(device) for t in kind] for kind in make_states(sizes, 8, torch.float64)
    )
    weights = [w.detach().unsqueeze(0).to(device) for layer in layers for w in layer[:2]]
    weights.append(readout.weight.detach().unsqueeze(0).to(device))
    bias = torch.cat([*(layer.bias for layer in layers), readout.bias]).detach().unsqueeze(0).to(device)
    return Operands(inputs, hidden, cell, [bias] * len(sizes), weights)


def both_passes(where, operands, *, with_ends):
    results = where.forward(operands)
    count = len(operands.inputs)
    seeds = [torch.sin(torch.arange(t.numel(), dtype=t.dtype, device=t.device)).reshape(t.shape) for t in results]
    d_results = seeds if with_ends else [*seeds[:count], *[None] * (2 * count)]
    return results, where.backward(operands, results[count : 2 * count], d_results, needs_d_inputs=True)


@pytest.mark.parametrize("with_ends", [False, True])
def test_traced_whole_and_once_for_all_sizes(counter, with_ends):
    operands = problem([7, 300, 64, 20])
    ours, theirs = (both_passes(where, operands, with_ends=with_ends) for where in (inductor, portable))
    for kind, expected in zip(ours, theirs, strict=True):
        assert len(kind) == len(expected)
        for a, b in zip(kind, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert counter.frame_count == 2


def test_it_does_not_serve_the_cpu():
    assert not inductor.serves(problem([2]))
    assert not inductor.serves(problem([]))
    assert not native.serves([torch.zeros(2, dtype=torch.float64)], states=[torch.zeros(2)])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu():
    ours = both_passes(inductor, problem([7, 300], "cuda"), with_ends=True)
    theirs = both_passes(portable, problem([7, 300]), with_ends=True)
    for kind, expected in zip(ours, theirs, strict=True):
        for a, b in zip(kind, expected, strict=True):
            torch.testing.assert_close(a.cpu(), b, rtol=1e-10, atol=1e-10)
