"""LearnedOptimizer against torch's own table of what an optimizer must do, and its ``TestOptimRenewed`` checks.

Every check is named as torch names it. Not applicable, with the reason:
    foreach, fused, differentiable, capturable and their peak memory: flags that LearnedOptimizer does not have;
    sparse gradients (rosenbrock_sparse): made dense, which is tested;
    step_is_noop_for_zero_grads: a learned rule may move under zero gradients, so it is run for a hand-designed one;
    complex equals its real view, for ``composed``: the view has one axis more, and parts are chosen by that;
    multi-gpu, CUDA graphs, CUDA and MPS state dicts, mixed devices: no such device here; one CUDA test skips;
    can_load_older_state_dict: no earlier release of LearnedOptimizer exists.
"""

import copy
import io
import warnings

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler, swa_utils
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.testing._internal.common_optimizers import (
    ErrorOptimizerInput,
    OptimizerErrorEnum,
    OptimizerInfo,
    OptimizerInput,
    _get_optim_inputs_including_global_cliquey_kwargs,
    get_error_inputs_for_all_optims,
)

from l2l_opt import LearnedOptimizer, load_rule
from tests.conftest import small_rule

pytestmark = [
    pytest.mark.filterwarnings("ignore:lr multiplies the learned update"),
    pytest.mark.filterwarnings("ignore:momentum in a group has no effect"),
]

RULES = {
    "default-1": lambda: load_rule("default-1"),
    "lstm-digits-1": lambda: load_rule("lstm-digits-1"),
    "compact": lambda: small_rule("compact"),
    "adam": lambda: small_rule("adam", lr=0.01),
    "composed": lambda: small_rule("composed", parts=[{"rule": "adam:lr=0.01", "min_dim": 2}, {"rule": "sgd:lr=0.01"}]),
}


def inputs(device, dtype=None):
    return [
        OptimizerInput(params=None, kwargs={}, desc="default"),
        OptimizerInput(params=None, kwargs={"lr": 0.5}, desc="non-default lr"),
        OptimizerInput(params=None, kwargs={"lr": torch.tensor(0.5)}, desc="Tensor lr"),
        OptimizerInput(params=None, kwargs={"weight_decay": 0.01}, desc="nonzero weight_decay"),
        OptimizerInput(params=None, kwargs={"weight_decay": 0.01, "maximize": True}, desc="maximize"),
        OptimizerInput(params=None, kwargs={"num_steps": 60}, desc="planned"),
        OptimizerInput(params=None, kwargs={"guard": None}, desc="no guard"),
        OptimizerInput(params=None, kwargs={"guard": "fallback"}, desc="fallback"),
        OptimizerInput(params=None, kwargs={"state_dtype": torch.bfloat16}, desc="state in bfloat16"),
        OptimizerInput(params=None, kwargs={"whitening_dtype": torch.bfloat16}, desc="whitening in bfloat16"),
    ]


def error_inputs(device, dtype):
    def error(desc, regex, **kwargs):
        return ErrorOptimizerInput(
            OptimizerInput(params=None, kwargs=kwargs, desc=desc), error_type=ValueError, error_regex=regex
        )

    return [
        *get_error_inputs_for_all_optims(device, dtype),
        error("lr", "lr must be finite and not negative", lr=-1.0),
        error("weight_decay", "weight_decay must be finite and not negative", weight_decay=-1),
        error("num_steps", "num_steps must be positive or None", num_steps=-3),
        error("guard", "guard must be 'skip', 'fallback' or None", guard="no"),
        error("state_dtype", "state_dtype must be a floating dtype or None", state_dtype=torch.int32),
        error("whitening_dtype", "whitening_dtype must be torch.float32 or", whitening_dtype=torch.float16),
    ]


INFO = OptimizerInfo(
    LearnedOptimizer,
    optim_inputs_func=inputs,
    optim_error_inputs_func=error_inputs,
    supported_impls=(),
    not_og_supported_flags=(),
    supports_complex=True,
    supports_sparse=True,
)
CONFIGS = _get_optim_inputs_including_global_cliquey_kwargs("cpu", torch.float32, INFO)
every_rule = pytest.mark.parametrize("rule", RULES)
every_config = pytest.mark.parametrize("config", CONFIGS, ids=[config.desc.replace(" ", "-") for config in CONFIGS])


def make(params, rule="default-1", **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return INFO.optim_cls(params, RULES[rule](), **copy.deepcopy(kwargs))


def linear_fit(optimizer_of, steps, *, maximize=False, schedulers=()):
    """torch's: a 10 x 5 map of one vector; losses of the run."""
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn((10, 5), generator=generator))
    bias = nn.Parameter(torch.randn(10, generator=generator))
    sample = torch.randn(5, generator=generator)
    optimizer = optimizer_of([weight, bias])
    schedulers = [scheduler(optimizer) for scheduler in schedulers]
    losses = []

    def closure():
        optimizer.zero_grad()
        loss = (weight.mv(sample) + bias).pow(2).sum()
        loss.backward()
        losses.append(loss.item() * (-1 if maximize else 1))
        return loss

    for _ in range(steps):
        optimizer.step(closure)
        for scheduler in schedulers:
            if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
                scheduler.step(losses[-1])
            else:
                scheduler.step()
    return losses, [weight.detach(), bias.detach()], optimizer


def test_infos_do_not_specify_global_cliquey_kwargs():
    for config in INFO.optim_inputs_func("cpu"):
        assert not {"foreach", "fused", "differentiable"} & set(config.kwargs)


@pytest.mark.parametrize(
    "error", error_inputs("cpu", torch.float32), ids=lambda error: error.optimizer_error_input.desc
)
def test_errors(error):
    assert error.error_on == OptimizerErrorEnum.CONSTRUCTION_ERROR
    given = error.optimizer_error_input
    params = [nn.Parameter(torch.randn(1))] if given.params is None else given.params
    if issubclass(error.error_type, Warning):
        with pytest.warns(error.error_type, match=error.error_regex):
            make(params, **given.kwargs)
    else:
        with pytest.raises(error.error_type, match=error.error_regex):
            make(params, **given.kwargs)


@every_config
@every_rule
@pytest.mark.parametrize("with_scheduler", [False, True])
def test_forloop_goes_right_direction(rule, config, with_scheduler):
    schedulers = INFO.scheduler_inputs[0] if with_scheduler else ()
    maximize = bool(config.kwargs.get("maximize"))
    losses, _, _ = linear_fit(
        lambda params: make(params, rule, **config.kwargs), 20, maximize=maximize, schedulers=schedulers
    )
    assert losses[-1] < losses[0]


@every_rule
def test_param_group_with_lrscheduler_goes_right_direction(rule):
    losses, _, _ = linear_fit(
        lambda params: make([{"params": params[0]}, {"params": params[1], "lr": 0.5}], rule),
        20,
        schedulers=[lambda optimizer: lr_scheduler.StepLR(optimizer, gamma=0.9, step_size=10)],
    )
    assert losses[-1] < losses[0]


SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.95**epoch),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda epoch: 0.95),
    "StepLR": lambda o: lr_scheduler.StepLR(o, step_size=3),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, milestones=[2, 4]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, factor=0.5, total_iters=3),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, start_factor=0.1, total_iters=4),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, gamma=0.9),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, total_iters=8, power=0.9),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=10),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=4),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, base_lr=0.1, max_lr=1.0, step_size_up=3),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, max_lr=1.0, total_steps=20),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=1e9, cooldown=0),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, factor=0.5, total_iters=2), lr_scheduler.ExponentialLR(o, 0.9)], milestones=[3]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, factor=0.5, total_iters=2), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "SWALR": lambda o: swa_utils.SWALR(o, swa_lr=0.2, anneal_epochs=4),
}


def test_every_scheduler_of_torch_is_in_the_table():
    names = set(lr_scheduler.__all__) - {"LRScheduler"}
    assert names <= set(SCHEDULERS)


@pytest.mark.parametrize("lr", [1.0, torch.tensor(1.0)], ids=["float", "Tensor"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers(name, lr):
    """The same rates as with Adam, which scale the update."""
    rates = []
    for make_optimizer in (lambda params: make(params, lr=lr), lambda params: torch.optim.SGD(params, lr=1.0)):
        param = nn.Parameter(torch.ones(3))
        optimizer, seen = make_optimizer([param]), []
        scheduler = SCHEDULERS[name](optimizer)
        for _ in range(6):
            param.grad = torch.ones(3)
            optimizer.step()
            scheduler.step(1.0) if name == "ReduceLROnPlateau" else scheduler.step()
            seen.append(float(optimizer.param_groups[0]["lr"]))
        rates.append(seen)
    assert rates[0] == pytest.approx(rates[1], rel=1e-6)
    assert len(set(rates[0])) > 1


@every_rule
def test_the_rate_of_a_scheduler_scales_the_update(rule):
    moved = []
    for lr in (1.0, 0.25):
        param = nn.Parameter(torch.linspace(1, 2, 6).reshape(2, 3).double())
        optimizer = make([param], rule)
        optimizer.param_groups[0]["lr"] = lr
        param.grad = torch.linspace(-1, 2, 6).reshape(2, 3).double()
        before = param.detach().clone()
        optimizer.step()
        moved.append(param.detach() - before)
    assert moved[0].abs().max() > 0
    torch.testing.assert_close(moved[1], moved[0] / 4, rtol=1e-9, atol=1e-12)


@every_config
@every_rule
def test_complex(rule, config):
    """A complex parameter goes the way of its real view."""
    torch.manual_seed(1)
    value = torch.randn(3, 4, dtype=torch.complex64)
    complex_param = nn.Parameter(value.clone())
    real_param = nn.Parameter(torch.view_as_real(value).clone())
    optimizers = [make([param], rule, **config.kwargs) for param in (complex_param, real_param)]
    for _ in range(3):
        gradient = torch.randn(3, 4, dtype=torch.complex64)
        complex_param.grad, real_param.grad = gradient, torch.view_as_real(gradient).clone()
        for optimizer in optimizers:
            optimizer.step()
    assert complex_param.is_complex()
    assert not torch.equal(complex_param, value)
    if rule != "composed":
        assert torch.equal(torch.view_as_real(complex_param.detach()), real_param.detach())


@every_rule
def test_param_groups_lr_and_weight_decay(rule):
    params = [nn.Parameter(torch.full((2, 2), 3.0, dtype=torch.float64)) for _ in range(3)]
    optimizer = make(
        [{"params": params[0]}, {"params": params[1], "weight_decay": 100.0}, {"params": params[2], "lr": 0.5}], rule
    )
    for param in params:
        param.grad = torch.ones(2, 2, dtype=torch.float64)
    optimizer.step()
    update = params[0].detach() - 3
    torch.testing.assert_close(params[1].detach(), 3 + update - 0.1 * 3, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(params[2].detach(), 3 + update / 2, rtol=1e-12, atol=1e-12)


@every_rule
def test_step_is_noop_when_params_have_no_grad(rule):
    params = [nn.Parameter(torch.randn(2, 3)), nn.Parameter(torch.randn(2), requires_grad=False)]
    before = [param.detach().clone() for param in params]
    optimizer = make(params, rule)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(params, before, strict=True))
    assert not any(optimizer.state.get(param) for param in params)


def test_step_is_noop_for_zero_grads():
    param = nn.Parameter(torch.randn(2, 3))
    before = param.detach().clone()
    optimizer = make([param], "adam")
    param.grad = torch.zeros(2, 3)
    optimizer.step()
    assert torch.equal(param, before)


@every_config
def test_optimizer_can_be_printed(config):
    optimizer = make([nn.Parameter(torch.randn(2))], **config.kwargs)
    assert str(optimizer).startswith("LearnedOptimizer")
    assert "rnnprop" in repr(optimizer)


@every_config
@every_rule
def test_state_dict_deterministic(rule, config):
    """Two optimizers, one loaded from the other in mid-training, go the same way and do not share memory."""
    _, (weight, bias), optimizer = linear_fit(lambda params: make(params, rule, **config.kwargs), 5)
    copies = [nn.Parameter(weight.clone()), nn.Parameter(bias.clone())]
    again = make(copies, rule, **config.kwargs)
    again.load_state_dict(optimizer.state_dict())
    originals = optimizer.param_groups[0]["params"]
    for step in range(3):
        for params, stepped in ((originals, optimizer), (copies, again)):
            generator = torch.Generator().manual_seed(step)
            for param in params:
                param.grad = torch.randn(param.shape, generator=generator)
            stepped.step()
    assert all(torch.equal(a, b) for a, b in zip(originals, copies, strict=True))
    assert_states_equal(optimizer.state_dict(), again.state_dict())
    addresses = [
        {v.data_ptr() for v in o.state[p].values()} for o, p in ((optimizer, originals[0]), (again, copies[0]))
    ]
    assert not addresses[0] & addresses[1]


def assert_states_equal(ours, theirs):
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys()
    for key, own in ours["state"].items():
        assert own.keys() == theirs["state"][key].keys()
        for name, value in own.items():
            other = theirs["state"][key][name]
            assert value.dtype == other.dtype
            assert torch.equal(value, other), name


@every_config
@every_rule
def test_save_load_equality_with_weights_only(rule, config):
    _, _, optimizer = linear_fit(lambda params: make(params, rule, **config.kwargs), 3)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert_states_equal(optimizer.state_dict(), loaded)


@every_rule
def test_can_load_from_to_named_state_dict(rule):
    def run(named, state=None):
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = make(model.named_parameters() if named else model.parameters(), rule)
        if state is not None:
            optimizer.load_state_dict(state)
        model(torch.ones(4, 3)).sum().backward()
        optimizer.step()
        return optimizer

    for saved, loaded in ((True, False), (False, True), (True, True)):
        again = run(loaded, run(saved).state_dict())
        assert ("param_names" in again.param_groups[0]) == (saved or loaded)
        assert all(float(own["step"]) == 2 for own in again.state.values())


def test_load_nontensor_step():
    param = nn.Parameter(torch.ones(2))
    optimizer = make([param])
    param.grad = torch.ones(2)
    optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    state["state"][0]["step"] = state["state"][0]["step"].item()
    optimizer.load_state_dict(state)
    optimizer.step()
    assert float(optimizer.state[param]["step"]) == 2


def test_step_hooks():
    param, calls = nn.Parameter(torch.ones(2)), []
    optimizer = make([param])
    param.grad = torch.ones(2)
    handles = [
        register_optimizer_step_pre_hook(lambda *_: calls.append("global before")),
        register_optimizer_step_post_hook(lambda *_: calls.append("global after")),
        optimizer.register_step_pre_hook(lambda *_: calls.append("before")),
        optimizer.register_step_post_hook(lambda *_: calls.append("after")),
    ]
    optimizer.step()
    for handle in handles:
        handle.remove()
    optimizer.step()
    assert calls == ["global before", "before", "after", "global after"]


def test_state_dict_hooks():
    param = nn.Parameter(torch.ones(2))
    optimizer = make([param])
    param.grad = torch.ones(2)
    optimizer.step()
    calls = []
    optimizer.register_state_dict_pre_hook(lambda _: calls.append("save"))
    optimizer.register_state_dict_post_hook(lambda _, state: state | {"more": 1})
    state = optimizer.state_dict()
    assert state["more"] == 1

    def half(_, found):
        found = copy.deepcopy(found)
        found["param_groups"][0]["lr"] = 0.5
        found["state"][0]["hidden"] += 1
        return found

    other = make([param])
    other.register_load_state_dict_pre_hook(half)
    other.register_load_state_dict_post_hook(lambda o: calls.append(float(o.state[param]["hidden"].min())))
    other.load_state_dict(state)
    assert other.param_groups[0]["lr"] == 0.5
    assert calls[0] == "save"
    assert calls[1] == pytest.approx(1 + float(optimizer.state[param]["hidden"].min()))
    other.load_state_dict(state)
    assert len(calls) == 3


@every_config
def test_deepcopy_copies_all_public_attrs(config):
    _, _, optimizer = linear_fit(lambda params: make(params, **config.kwargs), 2)
    optimizer.zero_grad()
    copied = copy.deepcopy(optimizer)

    def public(o):
        return {key for key in o.__dict__ if not key.startswith("_")}

    assert public(copied) == public(optimizer)
    assert_states_equal(optimizer.state_dict(), copied.state_dict())


@every_config
@every_rule
def test_grads_are_never_inplaced_into(rule, config):
    param = nn.Parameter(torch.randn(2, 3))
    optimizer = make([param], rule, **config.kwargs)
    param.grad = torch.rand(2, 3)
    versions = param.grad._version
    kept = param.grad.clone()
    optimizer.step()
    assert param.grad._version == versions
    assert torch.equal(param.grad, kept)


def test_a_step_between_forward_and_backward_is_noticed():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        param = nn.Parameter(torch.randn(3, dtype=dtype))
        loss = (param**2).sum()
        param.grad = torch.ones(3, dtype=dtype)
        make([param]).step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_no_warnings_in_plain_use():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        linear_fit(lambda params: make(params), 3)
