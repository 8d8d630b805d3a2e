"""The outer loop: it learns, keeps the best, and goes on bit for bit."""

import pytest
import torch

from l2l_opt.few_shot.evaluation import differences, evaluate_learner
from l2l_opt.few_shot.meta_learner import MetaLearner
from l2l_opt.few_shot.methods import make_method
from l2l_opt.few_shot.saved_learner import LearnerConfig, load_learner, save_learner
from l2l_opt.few_shot.sources import make_episodes
from l2l_opt.meta_training.outer_loop import copy_weights
from l2l_opt.randomness import Stream
from l2l_opt.storage.safetensors_file import FileFormatError
from tests.few_shot.conftest import small_task

pytestmark = pytest.mark.slow


def make_learner(name="maml", outer_steps=30, **options):
    task = small_task()
    params = task.init_params({}, torch.Generator().manual_seed(0))
    method = make_method(name, params, lr=0.3)
    method.rule.double()
    numbers = {"meta_batch": 5, "validate_every": 5, "validation_episodes": 20, "meta_lr": 0.01} | options
    return MetaLearner(
        method, params, task, validation_family=small_task(phase="validation"), outer_steps=outer_steps, **numbers
    )


@pytest.mark.parametrize("name", ["maml", "fomaml", "anil", "meta-sgd", "reptile", "meta-lstm"])
def test_it_learns(name):
    # A single step of Reptile is training on all episodes at once, whose labels have no meaning together.
    learner = make_learner(name, outer_steps=60, inner_steps=5 if name == "reptile" else 1)
    first = learner.validate().metric
    assert learner.run()
    assert learner.best is not None
    assert learner.best.metric < 0.97 * first


def test_it_goes_on_bit_for_bit():
    whole, parts = make_learner("meta-sgd"), make_learner("meta-sgd")
    whole.run()
    steps = iter(range(12))
    assert not parts.run(should_stop=lambda: next(steps, None) is None)
    again = make_learner("meta-sgd")
    again.load_state_dict(parts.state_dict())
    assert again.run()
    for own, other in (
        *((whole.weights[name], again.weights[name]) for name in ("theta", "phi")),
        (whole.best_theta, again.best_theta),
    ):
        assert all(torch.equal(own[name], other[name]) for name in own)
    assert whole.best.metric == again.best.metric


def test_a_meta_gradient_that_is_not_finite_changes_nothing(monkeypatch):
    learner = make_learner()
    before = copy_weights(learner.weights)["theta"]

    def broken(episodes):
        for p in learner.theta.values():
            p.grad = torch.full_like(p, torch.nan)
        return float("nan")

    monkeypatch.setattr(learner, "_meta_gradient", broken)
    assert learner.outer_step().skipped
    assert learner.num_skipped == 1
    assert all(torch.equal(before[name], p) for name, p in learner.theta.items())


def meta_gradient(**options):
    learner = make_learner(**options)
    learner._meta_gradient(learner._draw(learner.family, range(5), Stream.META_TRAINING, learner.options.inner_steps))
    return {name: p.grad for name, p in learner.theta.items()}


def test_a_mean_over_inner_steps_is_the_mean_of_their_last_losses():
    found = meta_gradient(inner_steps=3, meta_loss="mean")
    singly = [meta_gradient(inner_steps=steps) for steps in (1, 2, 3)]
    for name, grad in found.items():
        torch.testing.assert_close(grad, torch.stack([each[name] for each in singly]).mean(0))
        assert not torch.allclose(grad, singly[-1][name])


@pytest.mark.parametrize(
    ("name", "meta_loss", "sentence"),
    [("maml", "sum", "must be one of last, mean; got 'sum'"), ("reptile", "mean", "must be 'last' for a method")],
)
def test_meta_losses_that_cannot_be(name, meta_loss, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_learner(name, meta_loss=meta_loss)


@pytest.mark.parametrize(
    "options",
    [{"outer_steps": 0}, {"meta_batch": 0}, {"inner_steps": 0}, {"meta_lr": -1.0}, {"validate_every": -1}],
)
def test_numbers_out_of_range_are_named(options):
    (name, value), *_ = options.items()
    with pytest.raises(ValueError, match=f"{name} must .*; got {value}"):
        make_learner(**options)


def test_a_learner_is_saved_and_evaluated_the_same(tmp_path):
    config = LearnerConfig("mlp:hidden=4", "meta-sgd:lr=0.3", None, "transductive", 1)
    family = config.family(make_episodes("clusters:ways=2", phase="test"), dtype=torch.float32)
    theta, method = config.fresh(family, seed=3)
    save_learner(
        tmp_path / "learner.safetensors",
        config,
        theta=theta,
        phi={name: weight.detach() + 0.01 for name, weight in method.rule.named_parameters()},
        card={"episodes": "clusters:ways=2"},
    )
    with torch.no_grad():
        for weight in method.rule.parameters():
            weight += 0.01
    loaded = load_learner(tmp_path)
    ours = evaluate_learner("a", method, theta, family, inner_steps=2, episodes=20)
    theirs = evaluate_learner("b", loaded.method, loaded.theta, family, inner_steps=2, episodes=20)
    assert torch.equal(ours.losses, theirs.losses)
    (found,) = differences([ours, theirs])
    assert found["mean"] == 0
    assert loaded.card["episodes"] == "clusters:ways=2"


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="a learner must exist"):
        load_learner(tmp_path)
    (tmp_path / "learner.safetensors").write_bytes(b"nonsense")
    with pytest.raises(FileFormatError):
        load_learner(tmp_path)


def test_a_model_must_fit_its_episodes():
    from l2l_opt.few_shot.models import make_model
    from l2l_opt.few_shot.task import EpisodeTask

    episodes = make_episodes("clusters:ways=3", phase="test")
    with pytest.raises(ValueError, match="must give 3 outputs for each example; got shape \\(2, 2\\)"):
        EpisodeTask(make_model("mlp", input_shape=(16,), num_outputs=2), episodes)
    with pytest.raises(ValueError, match="convolutions need images; got examples of shape \\(16,\\)"):
        make_model("conv", input_shape=(16,), num_outputs=2)
    with pytest.raises(ValueError, match="widths of layers must be positive integers joined by x; got '4y5'"):
        make_model("mlp:hidden=4y5", input_shape=(16,), num_outputs=2)
