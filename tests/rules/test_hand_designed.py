"""Hand-designed rules against torch.optim, step for step."""

import math

import pytest
import torch

from l2l_opt.rules import make_rule
from l2l_opt.rules.hand_designed import schedule_factor

CASES = [
    ("sgd", {"lr": 0.1}, torch.optim.SGD, {"lr": 0.1}),
    ("momentum", {"lr": 0.03, "momentum": 0.8}, torch.optim.SGD, {"lr": 0.03, "momentum": 0.8}),
    (
        "momentum",
        {"lr": 0.03, "momentum": 0.9, "nesterov": True},
        torch.optim.SGD,
        {"lr": 0.03, "momentum": 0.9, "nesterov": True},
    ),
    ("rmsprop", {"lr": 0.01, "alpha": 0.95}, torch.optim.RMSprop, {"lr": 0.01, "alpha": 0.95}),
    ("adam", {"lr": 0.003}, torch.optim.Adam, {"lr": 0.003}),
    ("adam", {"lr": 0.3, "beta1": 0.5, "beta2": 0.9}, torch.optim.Adam, {"lr": 0.3, "betas": (0.5, 0.9)}),
    ("adamw", {"lr": 0.01}, torch.optim.AdamW, {"lr": 0.01}),
    ("adamw", {"lr": 0.03, "weight_decay": 0.5}, torch.optim.AdamW, {"lr": 0.03, "weight_decay": 0.5}),
    ("adamw", {"lr": 0.03, "weight_decay": 0.0}, torch.optim.Adam, {"lr": 0.03}),
]


def loss_of(p):
    scales = torch.logspace(-3, 0, p.numel(), dtype=p.dtype).reshape(p.shape)
    return (scales * (p - 1) ** 2).sum() + (p**4).sum() * 0.01


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize(("name", "options", "torch_class", "torch_options"), CASES)
def test_equals_torch_step_for_step_in_float64(name, options, torch_class, torch_options, schedule):
    torch.manual_seed(0)
    start = torch.randn(4, 3, dtype=torch.float64)
    rule = make_rule(name, **options, schedule=schedule).double()
    theirs = torch.nn.Parameter(start.clone())
    optimizer = torch_class([theirs], **torch_options)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
    ours = {"p": start.clone()}
    state = rule.init_state(ours)
    for _ in range(50):
        optimizer.zero_grad()
        loss_of(theirs).backward()
        optimizer.step()
        if schedule == "cosine":
            scheduler.step()
        point = ours["p"].detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss_of(point), point)
        with torch.no_grad():
            updates, state = rule({"p": gradient}, state, ours, num_steps=torch.tensor(50.0))
        ours = {"p": ours["p"] + updates["p"]}
        torch.testing.assert_close(ours["p"], theirs.detach(), rtol=1e-11, atol=1e-12)
    assert (ours["p"] - start).abs().max() > 1e-3


def test_first_adam_step_is_exact_in_float32():
    """The plain 1 - beta^t would be four digits off here."""
    rule = make_rule("adam", lr=0.001)
    gradient = {"p": torch.tensor([1e-3, 5.0])}
    updates, _ = rule(gradient, rule.init_state(gradient), gradient)
    torch.testing.assert_close(updates["p"], torch.tensor([-0.001, -0.001]), rtol=2e-5, atol=0)


def test_a_cosine_without_num_steps_is_constant():
    rule = make_rule("sgd", lr=0.5, schedule="cosine")
    params = {"p": torch.ones(2)}
    state = rule.init_state(params)
    for _ in range(3):
        updates, state = rule(params, state, params)
        torch.testing.assert_close(updates["p"], torch.full((2,), -0.5))


def test_a_cosine_ends_at_zero_and_stays_there():
    rule = make_rule("sgd", lr=0.5, schedule="cosine")
    params = {"p": torch.ones(2)}
    state = {"p": {"step": torch.tensor(7.0)}}
    updates, _ = rule(params, state, params, num_steps=torch.tensor(5.0))
    assert updates["p"].abs().max() < 1e-7


def test_the_learning_rate_is_the_one_weight():
    rule = make_rule("adam", lr=0.02)
    assert [key for key, _ in rule.named_parameters()] == ["log_lr"]
    assert math.isclose(float(rule.log_lr.detach().exp()), 0.02, rel_tol=1e-15)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sgd", {"lr": 0}, "lr must be a positive number; got 0"),
        ("sgd", {"lr": "fast"}, "lr of rule .sgd. must be a number; got .fast."),
        ("adam", {"lr": 0.1, "beta1": 1.0}, r"beta1 must lie in \[0, 1\); got 1.0"),
        ("adam", {"schedule": "linear"}, "schedule must be one of constant, cosine, warmup-cosine"),
        ("momentum", {"momentum": -1}, "momentum must lie in"),
        ("adamw", {"weight_decay": 1.5}, "weight_decay must lie in"),
    ],
)
def test_bad_values_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_rule(name, **options)


def test_a_rate_that_warms_up_rises_over_a_tenth_and_then_falls_as_a_cosine():
    num_steps = torch.tensor(100.0, dtype=torch.float64)
    factors = [
        float(schedule_factor("warmup-cosine", torch.tensor(float(step)), num_steps, dtype=torch.float64))
        for step in range(100)
    ]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[55] == pytest.approx(0.5)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0 < factors[99] < 1e-3
    rule = make_rule("adamw", lr=0.1, schedule="warmup-cosine")
    assert [rule.decay_schedule(share) for share in (0.05, 0.55)] == pytest.approx([0.5, 0.5])
    assert schedule_factor("warmup-cosine", torch.tensor(3.0), None, dtype=torch.float64) is None
