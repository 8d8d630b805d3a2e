"""The operator against its definition; in float64 it is computed in PyTorch, compiled kernels are tested beside."""

import pytest
import torch
from torch import Tensor

from l2l_opt.kernels import LSTMWeights, ReadoutWeights, coordinatewise_lstm, fused_coordinatewise_lstm
from l2l_opt.kernels.portable import BLOCK_LENGTH

pytestmark = pytest.mark.slow

NUM_INPUTS = 3


def make_weights(hidden_size: int, num_layers: int, dtype: torch.dtype) -> tuple[list[LSTMWeights], ReadoutWeights]:
    def normal(*shape: int) -> Tensor:
        return (0.5 * torch.randn(*shape, dtype=dtype)).requires_grad_()

    layers = [
        LSTMWeights(
            normal(4 * hidden_size, NUM_INPUTS if layer == 0 else hidden_size),
            normal(4 * hidden_size, hidden_size),
            normal(4 * hidden_size),
        )
        for layer in range(num_layers)
    ]
    return layers, ReadoutWeights(normal(2, hidden_size), normal(2))


def make_states(sizes: list[int], features: int, dtype: torch.dtype) -> list[list[Tensor]]:
    return [
        [torch.randn(rows, size, dtype=dtype).requires_grad_() for size in sizes]
        for rows in (NUM_INPUTS, features, features)
    ]


@pytest.mark.parametrize("sizes", [[1], [7, 1, 30], [BLOCK_LENGTH + 5], [0, 3]])
@pytest.mark.parametrize(("hidden_size", "num_layers"), [(1, 1), (4, 2), (20, 2), (5, 3)])
def test_values_and_gradients_equal_the_reference(sizes, hidden_size, num_layers):
    torch.manual_seed(0)
    layers, readout = make_weights(hidden_size, num_layers, torch.float64)
    states = make_states(sizes, hidden_size * num_layers, torch.float64)
    fused = fused_coordinatewise_lstm(*states, layers, readout)
    columns = [coordinatewise_lstm(*column, layers, readout) for column in zip(*states, strict=True)]
    reference = list(zip(*columns, strict=True))
    inputs = [tensor for kind in states for tensor in kind] + [w for layer in layers for w in layer] + list(readout)
    gradients = []
    for result in (fused, reference):
        flat = [tensor for kind in result for tensor in kind]
        generator = torch.Generator().manual_seed(1)
        seeds = [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in flat]
        gradients.append(torch.autograd.grad(flat, inputs, seeds))
    for ours, theirs in zip(fused, reference, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert all(g.abs().sum() > 0 for g in gradients[1] if g.numel())
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_float32_stays_close_to_float64():
    torch.manual_seed(0)
    layers, readout = make_weights(20, 2, torch.float64)
    states = make_states([3000], 40, torch.float64)
    single = [[t.float() for t in kind] for kind in states]
    exact = fused_coordinatewise_lstm(*states, layers, readout)
    close = fused_coordinatewise_lstm(
        *single,
        [LSTMWeights(*(w.float() for w in layer)) for layer in layers],
        ReadoutWeights(*(w.float() for w in readout)),
    )
    for a, b in zip(exact, close, strict=True):
        torch.testing.assert_close(a[0].float(), b[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("own_weights", [False, True])
def test_vmap_over_students_equals_a_loop(own_weights):
    torch.manual_seed(0)
    num_students = 3
    layers, readout = make_weights(4, 2, torch.float64)
    flat = [w.detach() for layer in layers for w in layer] + [w.detach() for w in readout]
    if own_weights:
        flat = [torch.stack([w * (1 + student) for student in range(num_students)]) for w in flat]
    students = [
        [torch.randn(num_students, rows, size, dtype=torch.float64) for size in (5, 2)] for rows in (NUM_INPUTS, 8, 8)
    ]

    def step(x, h, c, weights):
        own_layers = [LSTMWeights(*weights[k : k + 3]) for k in (0, 3)]
        return fused_coordinatewise_lstm(x, h, c, own_layers, ReadoutWeights(*weights[6:]))

    batched = torch.func.vmap(step, in_dims=(0, 0, 0, 0 if own_weights else None))(*students, flat)
    for student in range(num_students):
        weights = [w[student] for w in flat] if own_weights else flat
        alone = step(*[[t[student] for t in kind] for kind in students], weights)
        for kind, kind_alone in zip(batched, alone, strict=True):
            for a, b in zip(kind, kind_alone, strict=True):
                torch.testing.assert_close(a[student], b, rtol=1e-12, atol=1e-12)


def test_gradcheck():
    torch.manual_seed(0)
    layers, readout = make_weights(3, 2, torch.float64)
    states = make_states([4, 2], 6, torch.float64)
    flat = [t for kind in states for t in kind] + [w for layer in layers for w in layer] + list(readout)

    def step(*tensors: Tensor):
        x, h, c = (list(tensors[k : k + 2]) for k in (0, 2, 4))
        weights = tensors[6:]
        own = [LSTMWeights(*weights[k : k + 3]) for k in (0, 3)]
        return tuple(t for kind in fused_coordinatewise_lstm(x, h, c, own, ReadoutWeights(*weights[6:])) for t in kind)

    assert torch.autograd.gradcheck(step, flat)


def flat_arguments(dtype: torch.dtype, sizes: list[int], particles: int = 1):
    layers, readout = make_weights(3, 2, dtype)
    states = make_states(sizes, 6, dtype)

    def per_particle(t: Tensor, axis: int) -> Tensor:
        return torch.stack([t.detach() * (1 + p) for p in range(particles)], axis).requires_grad_()

    biases = torch.cat([*(layer.bias for layer in layers), readout.bias]).detach()
    weights = [w for layer in layers for w in (layer.input, layer.hidden)] + [readout.weight]
    return (
        *([per_particle(t, 1) for t in kind] for kind in states),
        [per_particle(biases, 0) for _ in sizes],
        [per_particle(weight, 0) for weight in weights],
    )


@pytest.mark.parametrize("particles", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(dtype, particles):
    torch.manual_seed(0)
    arguments = flat_arguments(dtype, [4, 0, 2], particles)
    torch.library.opcheck(torch.ops.l2l_opt.coordinatewise_lstm.default, arguments)
    plain = tuple([t.detach() for t in part] for part in arguments)
    results = torch.ops.l2l_opt.coordinatewise_lstm(*plain)
    seeds = [torch.randn_like(t) for t in results]
    torch.library.opcheck(torch.ops.l2l_opt.coordinatewise_lstm_backward.default, (*plain, results[3:6], seeds, True))


def test_torch_compile_goes_through_it_whole():
    torch.manual_seed(0)
    layers, readout = make_weights(4, 1, torch.float32)
    states = make_states([5], 4, torch.float32)

    def step(x: Tensor, h: Tensor, c: Tensor) -> Tensor:
        outputs, hidden, _ = fused_coordinatewise_lstm([2 * x], [h], [c], layers, readout)
        return outputs[0].sum() + hidden[0].square().sum()

    column = [kind[0] for kind in states]
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    gradients = [torch.autograd.grad(run(*column), column) for run in (step, compiled)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_not_finite_inputs_stay_in_their_coordinate():
    torch.manual_seed(0)
    layers, readout = make_weights(4, 1, torch.float32)
    states = make_states([6], 4, torch.float32)
    with torch.no_grad():
        states[0][0][0, 2] = float("nan")
        outputs, hidden, cell = fused_coordinatewise_lstm(*states, layers, readout)
    for result in (outputs[0], hidden[0], cell[0]):
        bad = ~torch.isfinite(result).all(dim=0)
        assert bad.tolist() == [False, False, True, False, False, False]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu():
    torch.manual_seed(0)
    layers, readout = make_weights(4, 2, torch.float64)
    states = make_states([5000], 8, torch.float64)
    on_cuda = fused_coordinatewise_lstm(
        *[[t.cuda() for t in kind] for kind in states],
        [LSTMWeights(*(w.cuda() for w in layer)) for layer in layers],
        ReadoutWeights(*(w.cuda() for w in readout)),
    )
    for a, b in zip(fused_coordinatewise_lstm(*states, layers, readout), on_cuda, strict=True):
        torch.testing.assert_close(a[0], b[0].cpu(), rtol=1e-10, atol=1e-10)
