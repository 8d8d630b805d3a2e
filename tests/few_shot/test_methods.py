"""Every method's meta-gradient against finite differences, and what each learns and changes."""

import pytest
import torch

from l2l_opt.few_shot.adapt import adapt, draw_episodes
from l2l_opt.few_shot.meta_learner import MetaLearner
from l2l_opt.few_shot.methods import METHODS, make_method
from l2l_opt.randomness import Stream
from l2l_opt.rules import make_rule
from l2l_opt.storage.rule_file import save_rule
from tests.conftest import small_rule
from tests.few_shot.conftest import small_task

EXACT = {
    "maml": {"lr": 0.3, "learns_rate": True},
    "anil": {"lr": 0.3, "learns_rate": True},
    "meta-sgd": {"lr": 0.3},
    "meta-lstm": {"lr": 0.3, "decay": 0.1, "hidden_size": 3, "second_derivatives": True},
}


def double(method):
    method.rule.double()
    return method


def meta_loss(method, task, theta, episodes, phi=None):
    return adapt(method, task, theta, episodes, phi=phi).query_losses.mean()


def directional(function, point, direction):
    """Central differences, Richardson's combination of two steps."""

    def slope(step):
        ahead, behind = ({k: p + sign * step * direction[k] for k, p in point.items()} for sign in (1, -1))
        return (function(ahead) - function(behind)) / (2 * step)

    return (4 * slope(1e-5) - slope(2e-5)) / 3


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", [*EXACT, "learned-rule"])
def test_the_meta_gradient_is_the_derivative(name, steps, task, params):
    options = EXACT.get(name, {})
    rule = small_rule("rnnprop") if name == "learned-rule" else None
    method = double(make_method(name, params, rule=rule, **options))
    episodes = draw_episodes(task, range(4), seed=0, stream=Stream.META_TRAINING, num_steps=steps)
    theta = {key: p.clone().requires_grad_() for key, p in params.items()}
    phi = {key: weight.detach().clone().requires_grad_() for key, weight in method.rule.named_parameters()}
    loss = meta_loss(method, task, theta, episodes, phi)
    leaves = theta | {f"rule.{key}": weight for key, weight in phi.items()}
    gradients = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    # Weights that read what a rule remembers have nothing to read in the first step.
    silent = [key for key, gradient in gradients.items() if not gradient.abs().sum() > 0]
    assert all(steps == 1 and ("hidden" in key or "own_" in key) for key in silent), silent
    generator = torch.Generator().manual_seed(1)
    direction = {key: torch.randn(leaf.shape, generator=generator, dtype=torch.float64) for key, leaf in leaves.items()}
    along = sum(float((gradients[key] * direction[key]).sum()) for key in leaves)

    def value(point):
        own = {key: leaf.detach() for key, leaf in point.items()}
        of_rule = {key.removeprefix("rule."): leaf for key, leaf in own.items() if key.startswith("rule.")}
        of_student = {key: leaf for key, leaf in own.items() if not key.startswith("rule.")}
        with torch.no_grad():
            return float(meta_loss(method, task, of_student, episodes, of_rule))

    assert along == pytest.approx(directional(value, leaves, direction), rel=1e-6)


def test_first_order_maml_leaves_out_second_derivatives(task, params):
    episodes = draw_episodes(task, range(4), seed=0, stream=Stream.META_TRAINING, num_steps=2)
    found = {}
    for name in ("maml", "fomaml"):
        theta = {key: p.clone().requires_grad_() for key, p in params.items()}
        adapted = adapt(double(make_method(name, params, lr=0.3)), task, theta, episodes)
        found[name] = torch.autograd.grad(adapted.query_losses.mean(), list(theta.values()))
        if name == "fomaml":
            # The gradient at theta' is passed on to theta as it is.
            own = {key: p.detach().requires_grad_() for key, p in adapted.params.items()}
            losses = torch.func.vmap(task.loss)(own, episodes.data, episodes.query)
            expected = [g.sum(0) for g in torch.autograd.grad(losses.mean(), list(own.values()))]
            for ours, theirs in zip(found[name], expected, strict=True):
                torch.testing.assert_close(ours, theirs)
    assert not torch.allclose(found["maml"][0], found["fomaml"][0], rtol=1e-3)


def test_one_step_of_maml_is_one_step_of_sgd(task, params):
    episodes = draw_episodes(task, [3], seed=0, stream=Stream.TEST, num_steps=1)
    adapted = adapt(double(make_method("maml", params, lr=0.5)), task, params, episodes)
    own = {key: p.clone().requires_grad_() for key, p in params.items()}
    data = {key: value[0] for key, value in episodes.data.items()}
    support = {"inputs": data["support_inputs"], "targets": data["support_targets"]}
    gradients = torch.autograd.grad(task.loss(own, data, support), list(own.values()))
    for (key, p), gradient in zip(own.items(), gradients, strict=True):
        torch.testing.assert_close(adapted.params[key][0], (p - 0.5 * gradient).detach())


def test_anil_changes_the_last_layer_alone_and_learns_all(task, params):
    method = double(make_method("anil", params, lr=0.5))
    episodes = draw_episodes(task, range(3), seed=0, stream=Stream.TEST, num_steps=2)
    theta = {key: p.clone().requires_grad_() for key, p in params.items()}
    adapted = adapt(method, task, theta, episodes)
    for key, p in params.items():
        same = torch.equal(adapted.params[key][1], p)
        assert same == key.startswith("0"), key
    adapted.query_losses.sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in theta.values())


def test_reptile_moves_towards_what_students_end_at(task, params):
    method = double(make_method("reptile", params, lr=0.5))
    learner = MetaLearner(method, params, task, validation_family=task, outer_steps=3, inner_steps=3, meta_batch=4)
    episodes = draw_episodes(task, range(4), seed=0, stream=Stream.META_TRAINING, num_steps=3)
    learner._meta_gradient(episodes)
    ends = adapt(method, task, params, episodes).params
    for key, p in learner.theta.items():
        torch.testing.assert_close(p.grad, p.detach() - ends[key].mean(0))
        assert p.grad.abs().sum() > 0


def test_any_registered_rule_can_teach(task, params):
    for name in ("adam", "momentum", "lstm", "compact", "scale-free", "meta-lstm"):
        rule = small_rule(name)
        method = double(make_method("learned-rule", params, rule=rule))
        learner = MetaLearner(method, params, task, validation_family=task, outer_steps=2, inner_steps=2, meta_batch=3)
        before = {key: weight.detach().clone() for key, weight in learner.learned.items()}
        assert not learner.outer_step().skipped
        moved = [key for key, weight in learner.learned.items() if not torch.equal(weight, before[key])]
        assert any(key.startswith("rule.") for key in moved), name
        assert any(not key.startswith("rule.") for key in moved), name


def test_a_rule_alone_can_be_learned_from_fresh_weights(task, params):
    method = double(make_method("learned-rule", params, rule=make_rule("sgd", lr=0.1), learns_initialisation=False))
    learner = MetaLearner(method, params, task, validation_family=task, outer_steps=2, meta_batch=3)
    assert list(learner.learned) == ["rule.log_lr"]
    before = learner.learned["rule.log_lr"].item()
    learner.outer_step()
    assert learner.learned["rule.log_lr"].item() != before


def test_a_method_must_learn_something(task, params):
    rule = make_rule("sgd")
    method = make_method("learned-rule", params, rule=rule, learns_initialisation=False, learns_rule=False)
    with pytest.raises(ValueError, match="must learn the initialisation, the rule or both; got neither"):
        MetaLearner(method, params, task, validation_family=task, outer_steps=1)


def test_meta_sgd_has_a_rate_for_every_weight_and_cannot_be_shipped(params, tmp_path):
    method = make_method("meta-sgd", params, lr=0.2)
    assert [w.shape for w in method.rule.parameters()] == [p.shape for p in params.values()]
    with pytest.raises(ValueError, match="a rule must be a registered name"):
        save_rule(method.rule, tmp_path / "rule.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mamls", {}, "did you mean 'maml'"),
        ("maml", {"rate": 0.1}, "got 'rate', use one of lr, learns_rate, second_derivatives"),
        ("maml", {"lr": -1}, "lr must be a positive number; got -1"),
        ("meta-sgd", {"lr": 0}, "lr must be a positive number; got 0"),
        ("learned-rule", {}, "got 'learned-rule' without one"),
    ],
)
def test_bad_methods_are_named(name, options, message, params):
    with pytest.raises(ValueError, match=message):
        make_method(name, params, **options)


def test_a_rule_is_for_learned_rule_alone(params):
    with pytest.raises(ValueError, match="got 'maml' with 'sgd'"):
        make_method("maml", params, rule=make_rule("sgd"))


def test_every_method_describes_itself():
    assert all(len(METHODS.summary(name)) > 20 for name in METHODS.names())


@pytest.mark.parametrize("batch_norm", ["transductive", "support"])
def test_batch_norm_takes_the_statistics_it_should(batch_norm):
    task = small_task(norm=True, batch_norm=batch_norm)
    params = task.init_params({}, torch.Generator().manual_seed(0))
    method = double(make_method("maml", params, lr=0.3))
    episodes = draw_episodes(task, range(2), seed=0, stream=Stream.TEST, num_steps=1)
    data = {key: value[0] for key, value in episodes.data.items()}
    changed = dict(data)
    changed["query_inputs"] = data["query_inputs"].clone()
    changed["query_inputs"][0] += 5
    outputs = [task.outputs(params, task.sample_batch(own, torch.Generator(), "test")) for own in (data, changed)]
    # Whether one query example is seen in the outputs of the others.
    assert torch.allclose(outputs[0][1:], outputs[1][1:]) == (batch_norm == "support")
    assert outputs[0].shape == (6, 2)
    assert torch.isfinite(adapt(method, task, params, episodes).query_losses).all()
