"""Compiled losses and gradients: those of torch's operators one by one, and one sentence where they cannot be."""

import pytest
import torch

from l2l_opt.inner_loop.compiled import CompiledSteps
from l2l_opt.inner_loop.losses import losses_and_gradients
from l2l_opt.meta_training.estimators import ESTIMATORS
from l2l_opt.rules import UpdateRule, make_rule
from l2l_opt.rules.base import initial_step
from tests.conftest import small_family


class ReadsLoss(UpdateRule):
    """Momentum times what is left of the run and the loss."""

    def __init__(self):
        super().__init__()
        self.log_rate = torch.nn.Parameter(torch.tensor(-2.0))

    def init_state(self, params):
        return {name: {"step": initial_step(p), "average": p.new_zeros(1, *p.shape)} for name, p in params.items()}

    def forward(self, grads, state, params, *, num_steps=None, loss=None):
        left = 1 - next(iter(state.values()))["step"] / num_steps
        averages = {name: 0.9 * state[name]["average"] + gradient for name, gradient in grads.items()}
        updates = {name: -self.log_rate.exp() * left * loss * average[0] for name, average in averages.items()}
        return updates, {name: {"step": state[name]["step"] + 1, "average": own} for name, own in averages.items()}


class Straight(torch.autograd.Function):
    """Signs, with the derivative of what they are of."""

    @staticmethod
    def forward(ctx, value):
        return value.sign()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


@pytest.mark.parametrize("kind", ["no_grad", "detach", "function of its own", "passed through", "unused"])
def test_derivatives_are_those_of_autograd_whatever_a_function_does_with_them(kind):
    def function(own):
        w, x = own["w"], own["x"]
        if kind == "no_grad":
            with torch.no_grad():
                factor = 2 * w
            return [w * factor * x, own["count"] + 1]
        if kind == "detach":
            return [w * w.detach() * x, own["count"] + 1]
        if kind == "function of its own":
            return [Straight.apply(w) * x, own["count"] + 1]
        return [w * x if kind == "passed through" else 3 * x, w, own["count"]]

    def gradients(run):
        own = {"w": torch.tensor([3.0, -2.0], requires_grad=True), "x": torch.tensor([1.0, 5.0], requires_grad=True)}
        results = run(own | {"count": torch.tensor([1, 2])})
        total = sum(result.sum() for result in results if result.requires_grad)
        found = torch.autograd.grad(total, list(own.values()), allow_unused=True, materialize_grads=True)
        return [result.detach() for result in results], found

    compiled = CompiledSteps()
    ours, theirs = gradients(lambda own: compiled.call(compiled, "a function", function, own)), gradients(function)
    for a, b in zip([*ours[0], *ours[1]], [*theirs[0], *theirs[1]], strict=True):
        torch.testing.assert_close(a, b)


def gradients_of(name, *, students, compile, rule=None, **options):
    family = small_family()
    rule = (ReadsLoss() if rule == "reads loss" else make_rule("rnnprop", hidden_size=3)).double()
    estimator = ESTIMATORS.make(name, horizon=6, truncation_length=3, compile=compile, **options)
    drawn_students = estimator.init(rule, family, num_students=students, seed=0)
    found = []
    for _ in range(3):
        found_now, drawn_students = estimator.estimate(rule, drawn_students)
        found += [*found_now.gradients.values(), found_now.losses.double()]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tbptt", {"students": 6}),
        ("nres", {"sigma": 0.1, "students": 3}),
        ("tbptt", {"students": 6, "rule": "reads loss"}),
        ("nres", {"sigma": 0.1, "students": 3, "rule": "reads loss"}),
    ],
)
def test_meta_gradients_are_those_of_steps_that_are_not_compiled(name, options):
    """Of rules too; those of six particles alike, so that torch finds what it has compiled before."""
    torch.manual_seed(4)
    plain = gradients_of(name, compile=False, **options)
    torch.manual_seed(4)
    compiled = gradients_of(name, compile=True, **options)
    assert any(value.any() for value in plain)
    for ours, theirs in zip(compiled, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-10, equal_nan=True)


def drawn(family, students):
    generator = torch.Generator().manual_seed(1)
    params = [family.init_params({}, generator) for _ in range(students)]
    batches = [family.sample_batch({}, generator) for _ in range(students)]
    return {key: torch.stack([own[key] for own in params]) for key in params[0]}, {
        key: torch.stack([own[key] for own in batches]) for key in batches[0]
    }


def test_other_numbers_of_students_and_families_have_functions_of_their_own():
    compiled = CompiledSteps()
    smooth, cornered = small_family(), small_family(activation=torch.nn.ReLU)
    for family, students in ((smooth, 6), (smooth, 1), (cornered, 6), (smooth, 6)):
        params, batch = drawn(family, students)
        losses, grads = losses_and_gradients(family, params, {}, batch, second_derivatives=False, compiled=compiled)
        expected = losses_and_gradients(family, params, {}, batch, second_derivatives=False)
        torch.testing.assert_close(losses, expected[0])
        torch.testing.assert_close(grads, expected[1])


def test_a_loss_that_torch_cannot_compile_is_refused_in_a_sentence():
    class Odd:
        def loss(self, params, data, batch):
            return params["p"].sum() * float(params["p"][0])

    with pytest.raises(ValueError, match="a task's loss must be of operators that torch.compile takes; got"):
        CompiledSteps().losses_and_gradients(Odd(), {"p": torch.ones(3, 2)}, {}, {})


def test_without_a_compiler_there_is_one_sentence(monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("No working C++ compiler found\nand more")

    monkeypatch.setattr(torch, "compile", lambda *arguments, **options: fail)
    with pytest.raises(ValueError, match=r"compiling needs a C\+\+ compiler; got 'No working C\+\+ compiler found', "):
        ESTIMATORS.make("tbptt", compile=True)
