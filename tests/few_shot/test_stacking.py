"""The top-level learner: the right model weighs most, its gradient is checked, and impossible tasks are refused."""

import pytest
import torch

from l2l_opt.few_shot.adapt import Drawn, adapt
from l2l_opt.few_shot.methods import make_method
from l2l_opt.few_shot.stacking import (
    Predictions,
    StackingEpisodes,
    StackingModel,
    as_weights,
    draw_labelled,
    flip,
    meta_learn,
    standardised,
)
from l2l_opt.few_shot.task import EpisodeTask


def world(*, good, count=400, seed=0, **options):
    """Three models of a rare class, of which one is right; two columns of noise."""
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(count, generator=generator) < 0.2).long()
    inputs = torch.randn(count, 5, generator=generator)
    inputs[:, good] += 3 * targets
    return Predictions(inputs, targets, **options)


def learn(top, task, size=20):
    known = draw_labelled(task, size, torch.Generator().manual_seed(0))
    return top.learn(task.inputs[known].unsqueeze(0), as_weights(task.targets[known]).unsqueeze(0))


@pytest.fixture(scope="module")
def top():
    sources = [
        StackingEpisodes([world(good=n % 3, seed=n) for n in part], support=20) for part in (range(6), range(6, 9))
    ]
    return meta_learn(*sources, num_models=3, outer_steps=40, meta_lr=0.05)


@pytest.mark.slow
def test_the_model_that_is_right_weighs_most(top):
    for good in range(3):
        task = world(good=good, seed=100 + good)
        params = learn(top, task)
        assert int(params["weights"][0].argmax()) == good
        logits = top.logits(params, task.inputs.unsqueeze(0))[0]
        assert logits[task.targets == 1].mean() > logits[task.targets == 0].mean() + 2


@pytest.mark.slow
def test_meta_learning_moves_the_start_and_the_rates(top):
    start = StackingModel(3, 2)
    assert (top.theta["bias"] - start.bias).abs() > 0.01
    rates = dict(zip(top.method.rule.names, top.method.rule.rates, strict=True))["weights"]
    assert (rates - 0.1).abs().max() > 0.01


def test_one_step_rewards_the_right_and_penalises_the_wrong():
    """``w_i += rate (y - p) z_i`` for one example, by hand."""
    task = world(good=0)
    family = EpisodeTask(StackingModel(3, 2), StackingEpisodes([task], support=20))
    theta = {"weights": torch.tensor([1 / 3, 1 / 3, 1 / 3, 0, 0]), "bias": torch.tensor(-2.0)}
    inputs = torch.tensor([[[2.0, -1.0, 0.5, 0.0, 0.0]]])
    batch = {"inputs": inputs, "targets": as_weights(torch.tensor([[1]]))}
    moved = adapt(make_method("meta-sgd", theta, lr=0.1), family, theta, Drawn({}, [batch], batch, None)).params
    p = torch.sigmoid(inputs[0, 0] @ theta["weights"] - 2)
    torch.testing.assert_close(moved["weights"][0], theta["weights"] + 0.1 * (1 - p) * inputs[0, 0])
    assert moved["weights"][0, 0] > 1 / 3 > moved["weights"][0, 1]


def test_labelled_examples_are_of_the_known_ones_and_stratified():
    known = torch.arange(400) < 200
    task = world(good=0, known=known)
    rows = draw_labelled(task, 30, torch.Generator().manual_seed(0))
    assert len(set(rows.tolist())) == 30
    assert bool(known[rows].all())
    assert int(task.targets[rows].sum()) == round(30 * float(task.targets.double().mean()))


def test_an_episodes_sets_are_disjoint():
    task = world(good=0)
    task = Predictions(torch.arange(400.0).unsqueeze(1).expand(-1, 5), task.targets)
    episode = StackingEpisodes([task], support=20, queries=100, unlabelled=50).sample(torch.Generator().manual_seed(0))
    rows = [set(episode[f"{part}_inputs"][:, 0].tolist()) for part in ("support", "query", "pool")]
    assert [len(part) for part in rows] == [20, 100, 50]
    assert len(set.union(*rows)) == 170


def test_labels_are_flipped_as_often_as_said():
    targets = torch.zeros(50, dtype=torch.long)
    assert int(flip(targets, 0.1, torch.Generator().manual_seed(0)).sum()) == 5
    assert int(targets.sum()) == 0


def test_scores_are_standardised_by_the_unlabelled_ones():
    scores = standardised(torch.tensor([[1.0], [100.0]]), torch.tensor([[0.0], [2.0]]))
    assert scores.flatten().tolist() == [0, 4]


def test_impossible_episodes_are_refused():
    with pytest.raises(ValueError, match="at least one task"):
        StackingEpisodes([], support=10)
    with pytest.raises(ValueError, match="support \\+ queries \\+ unlabelled = 610 examples; got 400"):
        StackingEpisodes([world(good=0)], support=10, queries=600)
    nothing = Predictions(torch.zeros(50, 5), torch.zeros(50, dtype=torch.long))
    with pytest.raises(ValueError, match="3 examples of class 1 to be labelled; got 0"):
        draw_labelled(nothing, 10, torch.Generator())
