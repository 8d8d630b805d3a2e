"""The compiled kernels against the definition, for every instruction set that this machine has."""

import os
import subprocess
import sys

import pytest
import torch

from l2l_opt.kernels import LSTMWeights, ReadoutWeights, coordinatewise_lstm, fused_coordinatewise_lstm, native
from tests.kernels.test_operator import NUM_INPUTS, make_states, make_weights

pytestmark = pytest.mark.skipif(native.library is None, reason=native.status)


@pytest.fixture(params=range(len(native.INSTRUCTIONS)), ids=native.INSTRUCTIONS)
def instructions(request):
    """Compute with the lesser instruction sets too; skips what the machine lacks."""
    assert native.library is not None
    if native.library.l2l_opt_choose_instructions(request.param) != request.param:
        pytest.skip("this machine lacks the instruction set")
    yield request.param
    native.choose_instructions(native.library)


def single(tensor):
    return tensor.detach().float().requires_grad_(tensor.requires_grad)


def both(hidden_size, num_layers, sizes, *, seed=0):
    """The same problem in float64 for the definition and in float32 for the kernels."""
    torch.manual_seed(seed)
    layers, readout = make_weights(hidden_size, num_layers, torch.float64)
    states = make_states(sizes, hidden_size * num_layers, torch.float64)
    own = [[single(t) for t in kind] for kind in states], [LSTMWeights(*map(single, layer)) for layer in layers]
    return (states, layers, readout), (*own, ReadoutWeights(*map(single, readout)))


def results_and_gradients(function, states, layers, readout):
    results = [tensor for kind in function(states, layers, readout) for tensor in kind]
    generator = torch.Generator().manual_seed(1)
    seeds = [torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype) for t in results]
    leaves = [t for kind in states for t in kind] + [w for layer in layers for w in layer] + list(readout)
    return results + list(torch.autograd.grad(results, leaves, seeds))


def fused(states, layers, readout):
    return fused_coordinatewise_lstm(*states, layers, readout)


def defined(states, layers, readout):
    return zip(*(coordinatewise_lstm(*column, layers, readout) for column in zip(*states, strict=True)), strict=True)


def assert_close(ours, exact, *, within=1e-5):
    assert len(ours) == len(exact)
    for a, b in zip(ours, exact, strict=True):
        assert a.shape == b.shape
        if b.numel():
            assert (a.detach().double() - b.detach()).abs().max() <= within * b.detach().abs().max()


@pytest.mark.parametrize("sizes", [[1], [7, 1, 30], [0, 3], [64, 128, 65], [5000]])
@pytest.mark.parametrize(("hidden_size", "num_layers"), [(1, 1), (4, 2), (8, 1), (20, 2), (5, 3), (32, 1)])
def test_values_and_gradients_equal_the_definition(instructions, hidden_size, num_layers, sizes):
    exact, ours = both(hidden_size, num_layers, sizes)
    assert native.serves([*ours[0][0]], states=ours[0][1])
    assert_close(results_and_gradients(fused, *ours), results_and_gradients(defined, *exact))


@pytest.mark.parametrize("own_weights", [False, True])
def test_vmap_over_students_equals_a_loop_in_values_and_gradients(own_weights):
    torch.manual_seed(0)
    num_students, sizes, units = 3, (70, 2), 4
    layers, readout = make_weights(units, 2, torch.float32)
    flat = [w.detach() for layer in layers for w in layer] + [w.detach() for w in readout]
    if own_weights:
        flat = [torch.stack([w * (1 + 0.1 * student) for student in range(num_students)]) for w in flat]
    flat = [w.requires_grad_() for w in flat]
    students = [
        [torch.randn(num_students, rows, size).requires_grad_() for size in sizes]
        for rows in (NUM_INPUTS, 2 * units, 2 * units)
    ]
    leaves = [*flat, *(t for kind in students for t in kind)]

    def step(x, h, c, weights):
        own_layers = [LSTMWeights(*weights[k : k + 3]) for k in (0, 3)]
        return fused_coordinatewise_lstm(x, h, c, own_layers, ReadoutWeights(*weights[6:]))

    batched = torch.func.vmap(step, in_dims=(0, 0, 0, 0 if own_weights else None))(*students, flat)
    alone = [
        step(*[[t[s] for t in kind] for kind in students], [w[s] for w in flat] if own_weights else flat)
        for s in range(num_students)
    ]
    looped = [torch.stack([one[k][t] for one in alone]) for k in range(3) for t in range(len(sizes))]
    ours = [t for kind in batched for t in kind]
    for a, b in zip(ours, looped, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad([(r * r).sum() for r in results], leaves) for results in (ours, looped)]
    for a, b in zip(*gradients, strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def test_biases_of_a_tensor_are_its_own():
    torch.manual_seed(0)
    layers, readout = make_weights(4, 1, torch.float32)
    states = make_states([5, 70], 4, torch.float32)
    biases = [torch.randn(18).requires_grad_() for _ in range(2)]
    ours = fused_coordinatewise_lstm(*states, layers, readout, biases=biases)
    expected = [
        coordinatewise_lstm(
            *column,
            [LSTMWeights(layers[0].input, layers[0].hidden, bias[:16])],
            ReadoutWeights(readout.weight, bias[16:]),
        )
        for bias, column in zip(biases, zip(*states, strict=True), strict=True)
    ]
    for kind, theirs in zip(ours, zip(*expected, strict=True), strict=True):
        for a, b in zip(kind, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    gradients = [
        torch.autograd.grad(sum((t * t).sum() for kind in results for t in kind), biases)
        for results in (ours, zip(*expected, strict=True))
    ]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_two_threads_agree_with_one_and_with_themselves():
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            _, ours = both(20, 2, [6000, 10, 3000])
            found.append(results_and_gradients(fused, *ours))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(found[1], found[2], strict=True))
    # Sums over 9,000 coordinates in float32, grouped otherwise.
    assert_close(found[1], [t.double() for t in found[0]], within=4e-6)


def test_states_in_bfloat16(instructions):
    torch.manual_seed(0)
    layers, readout = make_weights(8, 2, torch.float32)
    states = [[t.detach() for t in kind] for kind in make_states([100, 3], 16, torch.float32)]
    half = [states[0], *([t.bfloat16() for t in kind] for kind in states[1:])]
    ours = fused_coordinatewise_lstm(*half, layers, readout)
    expected = defined([half[0], *([t.float() for t in kind] for kind in half[1:])], layers, readout)
    for kind, theirs, dtype in zip(ours, expected, (torch.float32, torch.bfloat16, torch.bfloat16), strict=True):
        for a, b in zip(kind, theirs, strict=True):
            assert a.dtype == dtype
            # One unit in the last place, where the two roundings fall on different sides.
            torch.testing.assert_close(
                a.float(), b.to(dtype).float(), rtol=1e-5 if dtype.itemsize == 4 else 2**-7, atol=1e-5
            )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
@pytest.mark.parametrize("where", range(3))
def test_not_finite_inputs_stay_in_their_coordinate_and_mean_what_they_mean_to_the_definition(
    instructions, where, value
):
    torch.manual_seed(0)
    layers, readout = make_weights(4, 2, torch.float32)
    states = [[t.detach() for t in kind] for kind in make_states([100], 8, torch.float32)]
    states[where][0][1, 70] = value
    with torch.no_grad():
        ours = fused_coordinatewise_lstm(*states, layers, readout)
        exact = coordinatewise_lstm(*(kind[0] for kind in states), layers, readout)
    for (a,), b in zip(ours, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, equal_nan=True)


def test_saturated_gates_stay_close_to_the_definition():
    (states, layers, readout), _ = both(4, 2, [200])
    states = [[200 * t.detach() for t in states[0]], *([t.detach() for t in kind] for kind in states[1:])]
    ours = fused_coordinatewise_lstm(
        *([t.float() for t in kind] for kind in states),
        [LSTMWeights(*map(single, layer)) for layer in layers],
        ReadoutWeights(*map(single, readout)),
    )
    for (a,), (b,) in zip(ours, defined(states, layers, readout), strict=True):
        # Gates of some hundred have lost five digits before any nonlinearity.
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5)


def test_strides_of_any_kind():
    torch.manual_seed(0)
    layers, readout = make_weights(4, 1, torch.float32)
    states = [[t.detach() for t in kind] for kind in make_states([66], 4, torch.float32)]
    expected = fused_coordinatewise_lstm(*states, layers, readout)
    transposed = [[t.T.contiguous().T for t in kind] for kind in states]
    wide = [[torch.cat([t, t])[: t.shape[0]].unfold(0, t.shape[0], 1)[0].T for t in kind] for kind in states]
    for strange in (transposed, wide):
        for kind, theirs in zip(fused_coordinatewise_lstm(*strange, layers, readout), expected, strict=True):
            assert torch.equal(kind[0], theirs[0])


def in_a_new_process(**variables):
    """The kernels' description where these environment variables are set."""
    inherited = {name: value for name, value in os.environ.items() if name != native.INSTRUCTIONS_BY}
    command = [sys.executable, "-c", "from l2l_opt.kernels import native; print(native.describe())"]
    return subprocess.run(command, env=inherited | variables, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_switch_leaves_compiled_kernels_unused():
    output = in_a_new_process(**{native.DISABLED_BY: "1"}).stdout
    assert output == "PyTorch (compiled kernels are switched off by L2L_OPT_NO_NATIVE)\n"


@pytest.fixture
def instructions_here():
    """The names of the instruction sets of this machine."""
    assert native.library is not None
    best = native.library.l2l_opt_choose_instructions(len(native.INSTRUCTIONS) - 1)
    native.choose_instructions(native.library)
    return native.INSTRUCTIONS[: best + 1]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "title"), [("default", "baseline"), ("avx2", "AVX2"), ("avx512", "AVX-512")])
def test_the_environment_names_the_instruction_set(instructions_here, name, title):
    done = in_a_new_process(**{native.INSTRUCTIONS_BY: name})
    if name in instructions_here:
        assert done.stdout == f"compiled, {title}\n"
    else:
        assert f"got '{name}', use {' or '.join(instructions_here)}" in done.stderr


@pytest.mark.slow
def test_an_unknown_instruction_set_is_refused_in_a_sentence(instructions_here):
    command = [sys.executable, "-m", "l2l_opt.cli", "show", "--runtime"]
    environment = os.environ | {native.INSTRUCTIONS_BY: "sse9"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "Error: L2L_OPT_CPU_CAPABILITY must name an instruction set of this processor; "
        f"got 'sse9', use {' or '.join(instructions_here)}\n"
    )


def test_numbers_too_small_to_matter_count_as_zero_and_only_inside():
    """Derivatives through saturated gates are that small, and slow a processor down."""
    _, (states, layers, readout) = both(8, 1, [64])
    with torch.no_grad():
        readout.weight.fill_(2.0**-100)
    found = []
    for function in (fused, defined):
        outputs = next(iter(function(states, layers, readout)))
        (d_inputs,) = torch.autograd.grad(outputs, states[0], [torch.full_like(outputs[0], 2.0**-38)])
        found.append(float(d_inputs.abs().max()))
    assert found[0] == 0 < found[1] < 2.0**-126
