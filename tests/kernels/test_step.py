"""The optimizer's step in place against the rule's own forward pass, for every rule that has such a step."""

import pytest
import torch
from torch.utils._pytree import tree_map

from l2l_opt import LearnedOptimizer
from l2l_opt.kernels import PreparedStep, native, native_perceptron, native_step, serves_in_place
from tests.conftest import small_rule
from tests.kernels.test_native import instructions

pytestmark = pytest.mark.skipif(native.library is None, reason=native.status)

__all__ = ["instructions"]

RULES = {
    "lstm": {"hidden_size": 20, "num_layers": 2},
    "rnnprop": {"hidden_size": 6},
    "compact": {},
    "scale-free": {},
    "scale-free:recurrent=True": {},
    "mlp": {"hidden_size": 6},
    "celo2": {},
}
RECURRENT = [name for name in RULES if name not in ("scale-free", "mlp", "celo2")]
AVERAGING = [name for name in RULES if name not in ("lstm", "mlp", "celo2")]
SHAPES = [(), (1,), (70, 50), (3, 2, 5, 1), (0,), (2, 3, 1, 2, 2)]


def make_rule(name, *, purely, **options):
    torch.manual_seed(2)
    rule = small_rule(name, **{**RULES[name], **options})
    for weight in rule.parameters():
        weight.data += 0.2 * torch.randn(weight.shape)
    if purely:
        rule.compiled_step = lambda: None
    return rule


def gradients(seed, shapes=SHAPES):
    generator = torch.Generator().manual_seed(seed)
    scales = 10.0 ** torch.randint(-4, 3, (len(shapes),), generator=generator)
    return [scale * torch.randn(shape, generator=generator) for shape, scale in zip(shapes, scales, strict=True)]


def run(name, *, purely, steps=4, edit=lambda index, params: None, **options):
    """Parameters and state after some steps on random gradients."""
    rule = make_rule(name, purely=purely)
    params = [torch.nn.Parameter(value) for value in gradients(99)]
    optimizer = LearnedOptimizer(params, rule, **options)
    for index in range(steps):
        for p, gradient in zip(params, gradients(index), strict=True):
            p.grad = gradient
        edit(index, params)
        optimizer.step()
    return [p.detach() for p in params], [dict(optimizer.state[p]) for p in params]


def assert_equal(ours, theirs, *, within=2e-5):
    for p, q in zip(ours[0], theirs[0], strict=True):
        assert (p - q).norm() <= within * q.norm()
    for a, b in zip(ours[1], theirs[1], strict=True):
        assert a.keys() == b.keys()
        for key, value in b.items():
            assert a[key].dtype == value.dtype
            assert a[key].shape == value.shape
            assert (a[key].float() - value.float()).norm() <= within * max(float(value.float().norm()), 1e-3), key


@pytest.fixture
def calls(monkeypatch):
    """How many times the compiled step ran."""
    count = []
    for kernel in (native_step.NativeStep, native_perceptron.NativePerceptron):

        def counted(*arguments, original=kernel.run, **options):
            count.append(1)
            return original(*arguments, **options)

        monkeypatch.setattr(kernel, "run", counted)
    return count


@pytest.mark.parametrize("name", RULES)
def test_equals_the_forward_pass(instructions, calls, name):
    ours = run(name, purely=False, num_steps=10)
    assert len(calls) == 4
    assert_equal(ours, run(name, purely=True, num_steps=10))
    assert len(calls) == 4


@pytest.mark.parametrize("num_steps", [None, 10, 90_000])
def test_runs_of_any_length(num_steps):
    ours, theirs = (run("compact", purely=purely, num_steps=num_steps) for purely in (False, True))
    assert_equal(ours, theirs)


@pytest.mark.parametrize("options", [{"lr": 0.5, "weight_decay": 100.0}, {"maximize": True}, {"guard": None}])
@pytest.mark.parametrize("name", RULES)
def test_options_of_the_group(name, options):
    assert_equal(run(name, purely=False, **options), run(name, purely=True, **options))


@pytest.mark.parametrize("name", RECURRENT)
def test_states_in_bfloat16(instructions, calls, name):
    ours = run(name, purely=False, state_dtype=torch.bfloat16)
    assert len(calls) == 4
    assert ours[1][2]["hidden"].dtype == torch.bfloat16
    # Roundings that fall on different sides of a half.
    assert_equal(ours, run(name, purely=True, state_dtype=torch.bfloat16), within=2e-2)


@pytest.mark.parametrize("name", AVERAGING)
def test_averages_in_bfloat16_are_rounded_with_the_same_random_bits(instructions, calls, name):
    """Bits as the plain path has them, but for the few that rounding before has put on the other side."""
    ours = run(name, purely=False, steps=1, num_steps=10, state_dtype=torch.bfloat16)
    assert len(calls) == 1
    theirs = run(name, purely=True, steps=1, num_steps=10, state_dtype=torch.bfloat16)
    for key in make_rule(name, purely=False).moving_averages:
        a, b = (torch.cat([state[key].flatten() for state in states]) for _, states in (ours, theirs))
        assert a.dtype == torch.bfloat16
        assert a.count_nonzero() > 3000
        assert (a != b).float().mean() < 1e-3
    assert_equal(ours, theirs, within=1e-4 if name == "scale-free" else 2e-2)


@pytest.mark.parametrize("name", AVERAGING)
def test_what_follows_from_averages_in_bfloat16(instructions, name):
    ours, theirs = (run(name, purely=purely, steps=6, state_dtype=torch.bfloat16) for purely in (False, True))
    assert_equal(ours, theirs, within=2e-2)


def with_falling_singular_values(shape, seed):
    """As gradients have them: most of the norm in few directions."""
    rows = gradients(seed, [shape])[0].flatten(1)
    left, values, right = torch.linalg.svd(rows, full_matrices=False)
    return (left * (values / torch.arange(1, len(values) + 1)) @ right).reshape(shape)


@pytest.mark.parametrize("shape", [(97, 71), (71, 97), (64, 64), (80, 9, 3, 3), (257, 300)])
@pytest.mark.parametrize("falling", [False, True])
def test_whitening_in_bfloat16(instructions, calls, shape, falling):
    """As PyTorch's, but for what falls on the other side of a half; and as near to float32."""

    def change(*, purely, dtype=torch.bfloat16):
        rule = make_rule("scale-free", purely=purely)
        param = torch.nn.Parameter(torch.ones(shape))
        optimizer = LearnedOptimizer([param], rule, num_steps=10, guard=None, whitening_dtype=dtype)
        for index in range(2):
            param.grad = (with_falling_singular_values if falling else lambda s, i: gradients(i, [s])[0])(shape, index)
            optimizer.step()
        return param.detach() - 1

    ours, theirs, exact = change(purely=False), change(purely=True), change(purely=True, dtype=torch.float32)
    assert len(calls) == 2
    error, other = (ours - exact).norm() / exact.norm(), (theirs - exact).norm() / exact.norm()
    assert (ours - theirs).norm() < 0.03 * theirs.norm()
    assert 1e-3 < error < 1.3 * other < 0.05


def test_small_matrices_are_whitened_in_float32(instructions):
    """Below a shorter side of 64 there is nothing to save."""
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        param = torch.nn.Parameter(torch.ones(63, 200))
        optimizer = LearnedOptimizer([param], make_rule("scale-free", purely=False), whitening_dtype=dtype)
        (param.grad,) = gradients(0, [(63, 200)])
        optimizer.step()
        found.append(param.detach())
    assert torch.equal(*found)


@pytest.mark.parametrize("name", ["scale-free", "celo2"])
def test_a_rate_that_is_a_tensor_multiplies_the_numbers(name):
    found = []
    for rate, share in ((None, 1.0), (torch.tensor(0.25), 4.0)):
        rule = make_rule(name, purely=False)
        param, gradient = gradients(99, [(7, 5)])[0], gradients(0, [(7, 5)])[0]
        step = PreparedStep(
            rule.compiled_step(), [param], [rule.init_state({"p": param})["p"]], [gradient], num_steps=10
        )
        step([gradient], lr=0.5 * share, decay=0.01 * share, sign=1.0, guarded=True, rate=rate)
        found.append(param)
    assert torch.equal(*found)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", RULES)
def test_a_gradient_that_is_not_finite_moves_nothing_and_is_counted(instructions, name, value):
    def spoil(index, params):
        if index == 1:
            params[2].grad[1, 7] = value

    ours, theirs = (run(name, purely=purely, edit=spoil) for purely in (False, True))
    assert_equal(ours, theirs)
    assert [int(state["skipped"]) for state in ours[1]] == [0, 0, 1, 0, 0, 0]
    assert int(ours[1][2]["step"]) == 3


@pytest.mark.parametrize("guard", ["skip", None])
@pytest.mark.parametrize("name", RULES)
def test_gradients_of_nothing_but_zeros(instructions, name, guard):
    """At first, later, and throughout, in tensors that do not fill their last tile."""

    def spoil(index, params):
        for number, p in enumerate(params):
            if (number + index) % 3 or number == 0:
                p.grad.zero_()

    ours, theirs = (run(name, purely=purely, edit=spoil, guard=guard) for purely in (False, True))
    assert all(torch.isfinite(p).all() for p in ours[0])
    assert_equal(ours, theirs, within=1e-4)


@pytest.mark.parametrize("name", RULES)
def test_without_guard_what_is_not_finite_reaches_the_parameter(name):
    def spoil(index, params):
        params[2].grad[1, 7] = float("nan")

    (params, _) = run(name, purely=False, edit=spoil, guard=None, steps=1)
    assert torch.isnan(params[2][1, 7])


@pytest.mark.parametrize("name", RULES)
def test_the_same_bit_for_bit_on_any_number_of_threads(name):
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(run(name, purely=False, num_steps=10))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0][0], other[0], strict=True))


def strided():
    """Parameters that are transposed, channels-last, with gaps; the last for a gradient of other strides."""
    torch.manual_seed(3)
    params = [
        torch.randn(5, 4).T,
        torch.randn(40, 30).T,
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.randn(70, 8, 3, 3).to(memory_format=torch.channels_last),
        torch.randn(9, 20)[:, 3:11],
        torch.randn(6),
        torch.randn(4, 5),
    ]
    return [torch.nn.Parameter(value) for value in params]


def run_strided(rule, dtype=None):
    params = strided()
    for p in params:
        p.data = p.data.to(dtype)
    optimizer = LearnedOptimizer(params, rule, weight_decay=0.1)
    for _ in range(3):
        for p in params:
            p.grad = torch.randn_like(p)
        params[-1].grad = torch.randn(5, 4).T.to(dtype)
        assert not params[-1].grad.is_contiguous()
        optimizer.step()
    return [p.detach().float() for p in params], [dict(optimizer.state[p]) for p in params]


@pytest.mark.parametrize("name", RULES)
def test_parameters_of_any_strides(instructions, calls, name):
    ours, theirs = (run_strided(make_rule(name, purely=purely)) for purely in (False, True))
    assert len(calls) == 3
    assert_equal(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", RULES)
def test_parameters_in_half_precision(instructions, calls, name, dtype):
    ours, theirs = (run_strided(make_rule(name, purely=purely), dtype) for purely in (False, True))
    assert len(calls) == 3
    assert all(value.dtype == torch.float32 for state in ours[1] for key, value in state.items() if value.dim())
    # Roundings of parameters that fall on different sides of a half, and what follows from them.
    assert_equal(ours, theirs, within=2e-2)


def test_half_precision_is_rounded_as_torch_rounds_it(instructions):
    """All numbers of a type through the kernels, as a step that adds nothing moves them."""
    for dtype in (torch.bfloat16, torch.float16):
        every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
        every = every[torch.isfinite(every) & (every.abs().float() < 1e4)]
        param = torch.nn.Parameter(every.clone())
        optimizer = LearnedOptimizer([param], make_rule("lstm", purely=False), lr=0.0)
        param.grad = torch.zeros_like(param)
        optimizer.step()
        normal = every.float().abs() >= torch.finfo(torch.float32).tiny
        assert torch.equal(param.detach()[normal], every[normal])


def test_what_half_precision_cannot_hold_is_not_written():
    param = torch.nn.Parameter(torch.full((3,), 65000.0, dtype=torch.float16))
    optimizer = LearnedOptimizer([param], make_rule("lstm", purely=False), lr=1e6)
    param.grad = torch.ones_like(param)
    optimizer.step()
    assert torch.isfinite(param).all()


def test_parameters_that_the_kernels_leave_to_the_rule():
    p, shared = torch.zeros(4, 5), torch.zeros(1, 5).expand(4, 5)
    for name in ("compact", "mlp"):
        rule = make_rule(name, purely=False)
        compiled, state = rule.compiled_step(), rule.init_state({"p": p})["p"]
        assert serves_in_place(compiled, p, p, state)
        assert not serves_in_place(compiled, p.double(), p.double(), state)
        assert not serves_in_place(compiled, shared, p, state)
        assert serves_in_place(compiled, p, shared, state)
        # Averages in bfloat16 are read by kernels of recurrent rules, and where all are in it.
        half = {key: state[key].bfloat16() for key in ("averages", "square_average")}
        assert serves_in_place(compiled, p, p, state | half) == (name == "compact")
        assert not serves_in_place(compiled, p, p, state | {"averages": half["averages"]})
        assert not serves_in_place(compiled, p, p, state | {key: kept.half() for key, kept in half.items()})


@pytest.mark.parametrize("steps_before", [0, 3])
@pytest.mark.parametrize("name", ["lstm", "scale-free", "mlp"])
def test_saved_graphs_notice_the_change(name, steps_before):
    param = torch.nn.Parameter(torch.randn(3))
    optimizer = LearnedOptimizer([param], make_rule(name, purely=False))
    for _ in range(steps_before):
        param.grad = torch.ones(3)
        optimizer.step()
    loss = (param**2).sum()
    param.grad = torch.ones(3)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_state_and_parameters_stay_where_they_are():
    """In place: no address changes from the first step on."""
    param = torch.nn.Parameter(torch.randn(50, 3))
    optimizer = LearnedOptimizer([param], make_rule("compact", purely=False))
    addresses = []
    for seed in range(3):
        param.grad = torch.randn(50, 3, generator=torch.Generator().manual_seed(seed))
        optimizer.step()
        state = optimizer.state[param]
        addresses.append([param.data_ptr(), *(state[key].data_ptr() for key in ("hidden", "cell"))])
    assert addresses[0] == addresses[1] == addresses[2]


@pytest.mark.parametrize("name", RULES)
def test_changes_what_it_declares_and_nothing_else(name):
    """Parameters, hidden, cell, moments and tensor scalars; and what became of each tensor."""
    rule = make_rule(name, purely=False)
    params, grads = [torch.randn(30), torch.randn(5, 4)], [torch.randn(30), torch.randn(5, 4)]
    states = list(rule.init_state({"p": params[0], "q": params[1]}).values())
    compiled = rule.compiled_step()
    own_keys = ("hidden", "cell", "square_average", "row_squares", "column_squares")
    kept = [key for key in own_keys if any(key in own for own in states)]
    changed = {*kept, *(compiled.moments or ()), *compiled.tensor_scalars} - {"first_rms"}
    before = [tree_map(torch.clone, tensors) for tensors in (params, grads, states, list(rule.parameters()))]
    flags = PreparedStep(compiled, params, states, grads, num_steps=10)(
        grads, lr=1.0, decay=0.0, sign=1.0, guarded=True
    )
    assert flags == [0, 0]
    assert not any(torch.equal(a, b) for a, b in zip(params, before[0], strict=True))
    for ours, theirs in ((grads, before[1]), (list(rule.parameters()), before[3])):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    for own, old in zip(states, before[2], strict=True):
        assert {key for key, value in own.items() if not torch.equal(value, old[key])} <= changed
        assert not torch.equal(own[kept[0]], old[kept[0]])


@pytest.mark.parametrize("name", RECURRENT)
def test_a_rule_and_the_kernels_name_the_same_things(name):
    rule = make_rule(name, purely=False)
    compiled = rule.compiled_step()
    state = rule.init_state({"p": torch.randn(5)})["p"]
    assert native.layouts[f"{compiled.kind}.options"] == tuple(compiled.options)
    assert native.layouts[f"{compiled.kind}.arrays"] == tuple(compiled.arrays)
    assert native.layouts[f"{compiled.kind}.given"] == tuple(compiled.given(state, 10))
    assert set(compiled.tensor_scalars) <= state.keys()


def test_names_of_other_kernels_are_refused():
    compiled = make_rule("lstm", purely=False).compiled_step()
    strange = compiled._replace(options={**compiled.options, "momentum": 0.9})
    with pytest.raises(RuntimeError, match="compiled kernels must be those of this l2l_opt; they read p, .*momentum"):
        PreparedStep(strange, [torch.randn(3)], [{}], [torch.randn(3)], num_steps=None)


LARGE = [(140, 150), (5,), (300, 131), (20, 30), (6,)]


def run_large(*, purely, shapes=LARGE, edit=lambda index, params: None, **options):
    params = [torch.nn.Parameter(value) for value in gradients(99, shapes)]
    optimizer = LearnedOptimizer(params, make_rule("scale-free", purely=purely), **options)
    for index in range(4):
        for p, gradient in zip(params, gradients(index, shapes), strict=True):
            p.grad = gradient
        edit(index, params)
        optimizer.step()
    return [p.detach() for p in params], [dict(optimizer.state[p]) for p in params]


@pytest.mark.parametrize("options", [{}, {"lr": 0.5, "weight_decay": 100.0}, {"guard": None}])
def test_matrices_of_any_size_are_whitened(instructions, calls, options):
    ours = run_large(purely=False, num_steps=10, **options)
    assert len(calls) == 4
    assert_equal(ours, run_large(purely=True, num_steps=10, **options), within=1e-4)
    assert len(calls) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2_200_000, 2), None), ((3, 1_500_000), None), ((4_300_000,), None), ((3, 1_500_000), torch.bfloat16)],
)
def test_tensors_of_several_blocks(calls, shape, dtype):
    """Tall, wide and a vector, of which no temporary is as large as they are."""
    options = {"shapes": [shape], "num_steps": 100, "state_dtype": dtype}
    ours, theirs = (run_large(purely=purely, **options) for purely in (False, True))
    # In bfloat16 a few averages are rounded to the other side.
    assert_equal(ours, theirs, within=1e-4 if dtype is None else 1e-3)


@pytest.mark.parametrize("shapes", [[(300, 280)], [(70_000, 3), (20, 30)]])
def test_large_matrices_are_the_same_on_two_threads(shapes):
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(run_large(purely=False, shapes=shapes, num_steps=10))
    finally:
        torch.set_num_threads(before)
    assert_equal(*found, within=1e-4)


def test_a_large_matrix_is_left_where_it_was_if_its_gradient_is_not_finite():
    def spoil(index, params):
        if index == 1:
            params[0].grad[1, 7] = float("nan")

    ours, theirs = (run_large(purely=purely, edit=spoil) for purely in (False, True))
    assert_equal(ours, theirs, within=1e-4)
    assert [int(state["skipped"]) for state in ours[1]] == [1, 0, 0, 0, 0]
    (unguarded, _) = run_large(purely=False, edit=spoil, guard=None)
    assert torch.isnan(unguarded[0][1, 7])


def test_a_matrix_is_left_where_it_was_by_a_step_that_is_not_finite():
    params, states = run_large(purely=False, lr=1e38)
    assert all(torch.isfinite(p).all() for p in params)
    assert all(int(state["skipped"]) for state in states)


FACTORED = [(64, 7), (7, 64), (33, 33), (3, 5, 4), (5, 3, 4), (40, 2, 3, 3), (1, 9), (9, 1), (2, 0, 3), (130,)]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", ["mlp", "celo2"])
def test_rows_and_columns_of_tensors_of_any_shape(instructions, calls, name, threads):
    """Along whichever axes they lie, on one thread and on several."""
    before, results = torch.get_num_threads(), []
    shapes = [*FACTORED, (90, 110)]
    try:
        torch.set_num_threads(threads)
        for purely in (False, True):
            params = [torch.nn.Parameter(value) for value in gradients(99, shapes)]
            optimizer = LearnedOptimizer(params, make_rule(name, purely=purely), num_steps=10, weight_decay=1.0)
            for index in range(3):
                for p, gradient in zip(params, gradients(index, shapes), strict=True):
                    p.grad = gradient
                optimizer.step()
            results.append(([p.detach() for p in params], [dict(optimizer.state[p]) for p in params]))
    finally:
        torch.set_num_threads(before)
    assert len(calls) == 3
    assert_equal(*results)


def test_steps_of_a_perceptron_are_prepared_once(monkeypatch):
    made = []
    original = native_perceptron.NativePerceptron.__init__

    def counted(*arguments):
        made.append(1)
        original(*arguments)

    monkeypatch.setattr(native_perceptron.NativePerceptron, "__init__", counted)
    param = torch.nn.Parameter(torch.randn(3, 4))
    optimizer = LearnedOptimizer([param], make_rule("mlp", purely=False))
    for _ in range(5):
        param.grad = torch.randn(3, 4)
        optimizer.step()
    # The first step makes the call that is kept from then on.
    assert len(made) == 1
    assert float(optimizer.state[param]["step"]) == 5
