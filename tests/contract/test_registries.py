"""What every registry promises of the notation of its entries."""

import functools

import pytest

from l2l_opt.few_shot.methods import METHODS
from l2l_opt.few_shot.models import MODELS, make_model
from l2l_opt.few_shot.saved_learner import LearnerConfig
from l2l_opt.few_shot.sources import EPISODES, make_episodes
from l2l_opt.tasks import TASKS
from l2l_opt.tasks.mixture import make_tasks

MAKERS = {
    "task": (TASKS, make_tasks),
    "mixture": (TASKS, lambda spec: make_tasks(f"2*quadratics + {spec}")),
    "episodes": (EPISODES, functools.partial(make_episodes, phase="test")),
    "model": (MODELS, functools.partial(make_model, input_shape=(2,), num_outputs=2)),
    "method": (METHODS, lambda spec: LearnerConfig("conv", spec, None, "support", 1).make_method({})),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_what_is_passed_beside_a_notation_is_refused_in_it(kind):
    registry, make = MAKERS[kind]
    assert registry.beside
    for name in registry.names():
        for key in registry.parameters(name).keys() & set(registry.beside):
            message = f"{name}' must be one it has; got '{key}', which is passed beside its notation, use one of"
            with pytest.raises(ValueError, match=message):
                make(f"{name}:{key}=1")
