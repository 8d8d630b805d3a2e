"""What every registered rule must do; a new one is covered by being registered."""

import copy
import inspect
import itertools
import json

import pytest
import torch
from torch.func import functional_call, vmap
from torch.overrides import TorchFunctionMode

from l2l_opt.optimizer.learned_optimizer import LearnedOptimizer
from l2l_opt.rules import RULES, UpdateRule, make_rule
from tests.conftest import ODD_VALUES, small_rule

NAMES = RULES.names()
WAITING = {"scale-free": {"layer.weight_hidden"}}
"""Weights that do nothing unless an option is set: ``recurrent``."""
SHAPES = {
    "scalar": (),
    "vector": (5,),
    "weight": (3, 4),
    "cube": (2, 3, 2),
    "kernel": (4, 3, 2, 2),
    "five": (2, 1, 2, 3, 2),
}


def make_student(dtype=torch.float64, shapes=SHAPES, seed=0):
    """Params and gradients whose scale differs by tensor and along the axes of each."""
    generator = torch.Generator().manual_seed(seed)
    params, grads = {}, {}
    for index, (name, shape) in enumerate(shapes.items()):
        params[name] = torch.randn(shape, generator=generator, dtype=dtype)
        scales = 10.0 ** torch.randn(shape, generator=generator, dtype=dtype)
        grads[name] = torch.randn(shape, generator=generator, dtype=dtype) * scales * 10.0 ** (index - 3)
    return params, grads


def in_dtype(name, dtype):
    return small_rule(name).to(dtype)


def is_state_shape(shape, of_param):
    """[features, *of_param], of which an axis may be 1."""
    return len(shape) == 1 + len(of_param) and all(
        own in (1, size) for own, size in zip(shape[1:], of_param, strict=True)
    )


def assert_trees_equal(ours, theirs, **tolerance):
    assert ours.keys() == theirs.keys()
    for key in ours:
        if isinstance(ours[key], dict):
            assert_trees_equal(ours[key], theirs[key], **tolerance)
        elif tolerance:
            torch.testing.assert_close(ours[key], theirs[key], **tolerance)
        else:
            assert torch.equal(ours[key], theirs[key]), key


@pytest.mark.parametrize("name", NAMES)
def test_is_built_by_name_without_arguments(name):
    rule = make_rule(name)
    assert isinstance(rule, UpdateRule)
    assert rule.registry_name == name
    assert list(rule.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_config_is_json_and_builds_the_same_rule(name):
    rule = small_rule(name)
    again = make_rule(name, **json.loads(json.dumps(rule.config)))
    assert {k: v.shape for k, v in again.named_parameters()} == {k: v.shape for k, v in rule.named_parameters()}
    assert again.config == rule.config


@pytest.mark.parametrize("name", NAMES)
def test_values_of_no_known_kind_are_refused_in_a_sentence(name):
    for option, value in itertools.product(RULES.options(name), ODD_VALUES):
        with pytest.raises(ValueError, match=r"must .*; got .*, use"):
            RULES.make(name, **{option: value})


@pytest.mark.parametrize("name", NAMES)
def test_has_a_docstring_with_its_equation_or_meaning(name):
    text = inspect.getdoc(RULES.factory(name)) or ""
    assert len(text.splitlines()[0]) > 10
    assert "Args:" in text or not RULES.options(name) or name == "sgd"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_updates_and_state_have_the_contracts_shapes_and_dtypes(name, dtype):
    rule = in_dtype(name, dtype)
    params, grads = make_student(dtype)
    state = rule.init_state(params)
    for _ in range(2):
        updates, state = rule(grads, state, params)
        for key, param in params.items():
            assert updates[key].shape == param.shape
            assert updates[key].dtype == dtype
            assert state[key]["step"].dim() == 0
            for feature, value in state[key].items():
                assert value.dim() == 0 or is_state_shape(value.shape, param.shape), feature
                assert feature == "step" or value.dtype == dtype
    assert all(float(s["step"]) == 2 for s in state.values())


@pytest.mark.parametrize("name", NAMES)
def test_is_pure(name):
    rule = in_dtype(name, torch.float64)
    params, grads = make_student()
    with torch.no_grad():
        _, state = rule(grads, rule.init_state(params), params)
        before = copy.deepcopy((params, grads, state))
        first = rule(grads, state, params)
        assert_trees_equal(params, before[0])
        assert_trees_equal(grads, before[1])
        assert_trees_equal(state, before[2])
        second = rule(grads, state, params)
    assert_trees_equal(first[0], second[0])
    assert_trees_equal(first[1], second[1])


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_gets_a_gradient(name):
    rule = in_dtype(name, torch.float64)
    params, grads = make_student()
    state = rule.init_state(params)
    total = torch.zeros((), dtype=torch.float64)
    for _ in range(3):
        updates, state = rule(grads, state, params)
        total = total + sum((u * u).sum() for u in updates.values())
    for key, gradient in zip(
        dict(rule.named_parameters()), torch.autograd.grad(total, list(rule.parameters())), strict=True
    ):
        assert (gradient.abs().sum() > 0) == (key not in WAITING.get(name, ())), key


@pytest.mark.parametrize("name", NAMES)
def test_moves_every_tensor(name):
    rule = in_dtype(name, torch.float64)
    params, grads = make_student()
    updates, _ = rule(grads, rule.init_state(params), params)
    assert all(update.abs().sum() > 0 for update in updates.values())


@pytest.mark.parametrize("name", NAMES)
def test_number_of_weights_does_not_depend_on_the_student(name):
    rule = in_dtype(name, torch.float64)
    before = sum(weight.numel() for weight in rule.parameters())
    for shapes in ({"a": (2,)}, {"a": (30, 20), "b": (7,)}):
        params, grads = make_student(shapes=shapes)
        rule(grads, rule.init_state(params), params)
        assert sum(weight.numel() for weight in rule.parameters()) == before


@pytest.mark.parametrize("name", NAMES)
def test_tensors_do_not_see_each_other(name):
    rule = in_dtype(name, torch.float64)
    params, grads = make_student()
    together, _ = rule(grads, rule.init_state(params), params)
    for key in params:
        alone, _ = rule({key: grads[key]}, rule.init_state({key: params[key]}), {key: params[key]})
        torch.testing.assert_close(alone[key], together[key], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_what_reads_no_whole_tensors_may_be_run_on_parts(name):
    """And ``reads_whole_tensors`` is False for no rule that does."""
    rule = in_dtype(name, torch.float64)
    params, grads = make_student()
    whole, half = ("weight", "kernel"), slice(0, 2)
    updates, state = rule(grads, rule.init_state(params), params)
    part_params, part_grads = ({key: tree[key][half] for key in whole} for tree in (params, grads))
    part_updates, part_state = rule(part_grads, rule.init_state(part_params), part_params)
    same = all(torch.allclose(part_updates[key], updates[key][half], rtol=1e-12, atol=0) for key in whole)
    assert same != rule.reads_whole_tensors
    if same:
        for key in whole:
            for feature, value in part_state[key].items():
                torch.testing.assert_close(value, state[key][feature][:, half] if value.dim() else state[key][feature])


@pytest.mark.parametrize("name", NAMES)
def test_vmap_over_students_equals_a_loop(name):
    rule = in_dtype(name, torch.float64)
    students = [make_student(seed=seed) for seed in range(3)]
    params, grads = ({k: torch.stack([s[part][k] for s in students]) for k in SHAPES} for part in (0, 1))
    phi = dict(rule.named_parameters())
    states = [rule.init_state(s[0]) for s in students]
    state = {k: {f: torch.stack([s[k][f] for s in states]) for f in states[0][k]} for k in SHAPES}
    steps = torch.tensor([5.0, 10.0, 20.0])
    run = vmap(lambda g, s, p, n: functional_call(rule, phi, (g, s, p), {"num_steps": n}))
    updates, state = run(grads, state, params, steps)
    updates, _ = run(grads, state, params, steps)
    for index, (own_params, own_grads) in enumerate(students):
        own_updates, own_state = rule(own_grads, states[index], own_params, num_steps=steps[index])
        own_updates, _ = rule(own_grads, own_state, own_params, num_steps=steps[index])
        for key in SHAPES:
            torch.testing.assert_close(updates[key][index], own_updates[key], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_num_steps_may_be_unknown_known_or_passed(name):
    rule = in_dtype(name, torch.float64)
    params, grads = make_student()
    state = rule.init_state(params)
    for _ in range(4):
        updates, state = rule(grads, state, params, num_steps=torch.tensor(2.0))
        assert all(torch.isfinite(update).all() for update in updates.values())


@pytest.mark.parametrize("name", NAMES)
def test_zero_gradients_leave_finite_updates_and_finite_second_derivatives(name):
    rule = in_dtype(name, torch.float64)
    params, grads = make_student(shapes={"a": (3,)})
    grads = {"a": torch.zeros(3, dtype=torch.float64, requires_grad=True)}
    updates, _ = rule(grads, rule.init_state(params), params)
    (derivative,) = torch.autograd.grad(updates["a"].sum(), grads["a"], allow_unused=True)
    assert torch.isfinite(updates["a"]).all()
    assert derivative is None or torch.isfinite(derivative).all()


@pytest.mark.parametrize("name", NAMES)
def test_empty_tensors_pass(name):
    rule = in_dtype(name, torch.float64)
    params = {"empty": torch.zeros(0, 3, dtype=torch.float64), "full": torch.ones(2, 2, dtype=torch.float64)}
    updates, state = rule(params, rule.init_state(params), params)
    assert updates["empty"].shape == (0, 3)
    assert float(state["empty"]["step"]) == 1
    assert rule({}, {}, {}) == ({}, {})


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 3e-5)])
@pytest.mark.parametrize("name", NAMES)
def test_the_drop_in_takes_the_rules_steps(name, dtype, tolerance):
    """Given the same gradients, at every rank from 0 to 5."""
    rule = in_dtype(name, dtype)
    params, _ = make_student(dtype)
    tensors = {key: torch.nn.Parameter(value.clone()) for key, value in params.items()}
    optimizer = LearnedOptimizer(tensors.items(), rule, num_steps=10)
    phi = dict(rule.named_parameters())
    batched = {key: value.unsqueeze(0) for key, value in params.items()}
    state = {k: {f: v.unsqueeze(0) for f, v in s.items()} for k, s in rule.init_state(params).items()}
    run = vmap(lambda g, s, p, n: functional_call(rule, phi, (g, s, p), {"num_steps": n}))
    for step in range(4):
        _, grads = make_student(dtype, seed=step)
        for key, tensor in tensors.items():
            tensor.grad = grads[key].clone()
        before = {key: tensor.detach().clone() for key, tensor in tensors.items()}
        optimizer.step()
        with torch.no_grad():
            updates, state = run({k: g.unsqueeze(0) for k, g in grads.items()}, state, batched, torch.tensor([10.0]))
        for key, tensor in tensors.items():
            scale = float(updates[key].abs().max())
            exact = before[key] + updates[key][0]
            assert (tensor.detach() - exact).abs().max() <= tolerance * max(scale, float(exact.abs().max())), key
        batched = {key: tensor.detach().unsqueeze(0).clone() for key, tensor in tensors.items()}


@pytest.mark.parametrize("name", NAMES)
def test_double_students_may_use_single_precision_weights(name):
    rule = small_rule(name).to(torch.float32)
    params, grads = make_student(torch.float64)
    updates, _ = rule(grads, rule.init_state(params), params)
    assert all(update.dtype == torch.float64 for update in updates.values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_cuda_equals_cpu(name):
    rule = in_dtype(name, torch.float64)
    params, grads = make_student()
    on_cpu, _ = rule(grads, rule.init_state(params), params)
    rule.cuda()
    on_cuda = ({k: v.cuda() for k, v in tree.items()} for tree in (grads, params))
    cuda_grads, cuda_params = on_cuda
    updates, _ = rule(cuda_grads, rule.init_state(cuda_params), cuda_params)
    for key, update in updates.items():
        torch.testing.assert_close(update.cpu(), on_cpu[key], rtol=1e-10, atol=1e-10)


class FromNumbers(TorchFunctionMode):
    """Calls that make a tensor of numbers of Python's, which are copied to its device."""

    making = (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor)

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in self.making:
            self.made.append(args)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", NAMES)
def test_a_step_copies_no_numbers_to_the_device(name):
    """On a GPU each copy would wait; another device stands for one."""
    rule = in_dtype(name, torch.float32).to("meta")
    params, grads = ({key: value.to("meta") for key, value in own.items()} for own in make_student(torch.float32))
    state = rule.init_state(params)
    planned = torch.tensor(100.0, device="meta")
    with FromNumbers() as numbers, torch.no_grad():
        rule(grads, state, params, num_steps=planned)
    assert numbers.made == []
