"""The response at a state is what the rule would do there."""

import pytest
import torch

from l2l_opt.inspection.measures.adam_reference import AdamReference
from l2l_opt.inspection.measures.response_at import FED, adam_response_at, response_at
from l2l_opt.rules import RULES
from tests.conftest import small_rule

AXIS = torch.tensor([-0.5, 0.0, 0.3])


@pytest.fixture(params=RULES.names())
def rule(request):
    torch.manual_seed(0)
    return small_rule(request.param)


def walked(rule, shape, steps=4):
    """A state some steps into a run."""
    generator = torch.Generator().manual_seed(1)
    params = {"w": torch.randn(shape, generator=generator)}
    state = rule.init_state(params)
    for _ in range(steps):
        with torch.no_grad():
            gradient = torch.randn(shape, generator=generator)
            _, state = rule({"w": gradient}, state, params, num_steps=torch.tensor(50.0))
    return gradient, state["w"], params["w"]


@pytest.mark.parametrize("place", [0, 7])
def test_a_response_is_the_rule_fed_by_hand(rule, place):
    gradient, state, param = walked(rule, (3, 4))
    kept = {key: value.clone() for key, value in state.items()}
    arguments = {"place": place, "momenta": AXIS, "gradients": AXIS[:2], "num_steps": torch.tensor(50.0)}
    surface = response_at(rule, "w", gradient, state, param, **arguments)
    assert surface.shape == (3, 2)
    for row, momentum in enumerate(AXIS):
        for column, last in enumerate(AXIS[:2]):
            own = {key: value.clone() for key, value in kept.items()}
            for fed in [momentum] * FED + [last]:
                changed = gradient.clone()
                changed.view(-1)[place] = fed
                with torch.no_grad():
                    updates, after = rule({"w": changed}, {"w": own}, {"w": param}, num_steps=torch.tensor(50.0))
                shared = {key: kept[key] for key in kept if kept[key].shape[1:] != (3, 4) and key != "step"}
                own = after["w"] | shared
            torch.testing.assert_close(surface[row, column], updates["w"].view(-1)[place], rtol=1e-4, atol=1e-7)
    for key, value in state.items():
        torch.testing.assert_close(value, kept[key], rtol=0, atol=0)
    assert surface.unique().numel() > 1


def test_of_a_large_tensor_a_coordinatewise_rule_gives_what_it_gives_of_the_whole():
    rule = small_rule("rnnprop")
    gradient, state, param = walked(rule, (40, 9, 5))
    arguments = {"place": 1234, "momenta": AXIS, "gradients": AXIS, "num_steps": None}
    surface = response_at(rule, "w", gradient, state, param, **arguments)
    alone = {key: value.flatten(1)[:, 1234:1235] if value.dim() else value for key, value in state.items()}
    one = response_at(
        rule, "w", gradient.view(-1)[1234:1235], alone, param.view(-1)[1234:1235], **arguments | {"place": 0}
    )
    torch.testing.assert_close(surface, one)


def test_a_scalar_has_a_response(rule):
    gradient, state, param = walked(rule, ())
    surface = response_at(rule, "w", gradient, state, param, place=0, momenta=AXIS, gradients=AXIS, num_steps=None)
    assert surface.shape == (3, 3)
    assert bool(torch.isfinite(surface).all())


def test_adams_response_is_adam_fed_by_hand():
    gradients = torch.randn(4, 1, generator=torch.Generator().manual_seed(2))
    followed = AdamReference({"w": gradients[0]}, coordinates=1)
    for gradient in gradients:
        followed.observe({"w": gradient})
    (m, v), steps = followed.moments["w"][:, 0].clone(), followed.steps["w"]
    surface = adam_response_at(m, v, steps=steps, steps_of_mean=steps, momenta=AXIS, gradients=AXIS)
    for row, momentum in enumerate(AXIS):
        for column, last in enumerate(AXIS):
            p = torch.zeros(1, requires_grad=True)
            adam = torch.optim.Adam([p], lr=1.0)
            for fed in [*gradients, *[momentum] * FED, last]:
                before, p.grad = p.detach().clone(), fed.reshape(1)
                adam.step()
            torch.testing.assert_close(surface[row, column], (p.detach() - before)[0], rtol=1e-4, atol=1e-6)
