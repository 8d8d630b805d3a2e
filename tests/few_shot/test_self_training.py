"""Self-training: what is proposed, and that what harms held-back labels is rejected."""

import pytest
import torch

from l2l_opt.few_shot.self_training import Batching, SelfTraining, meta_learn_self_training, propose, together
from l2l_opt.few_shot.stacking import Predictions, as_weights, draw_labelled

SMALL = Batching(rare=5, common=15, batches=2)


def world(seed, count=800):
    """One model that is right more often than not, and a column that shows the class in a direction of its own."""
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(count, generator=generator) < 0.15).long()
    inputs = torch.randn(count, 3, generator=generator)
    sign = 1 if seed % 2 else -1
    inputs += torch.tensor([2.0, 0.0, sign * 2.0]) * targets.unsqueeze(1)
    return Predictions(inputs, targets)


@pytest.fixture(scope="module")
def learners():
    options = {"support": 20, "unlabelled": 200, "batching": SMALL, "episodes": 40, "outer_steps": 30}
    parts = ([world(seed) for seed in range(6)], [world(seed) for seed in range(6, 8)])
    return meta_learn_self_training(*parts, num_models=2, **options)


def drawn(seed=100):
    task = world(seed)
    known = draw_labelled(task, 20, torch.Generator().manual_seed(0))
    pool = torch.tensor([row for row in range(400) if row not in set(known.tolist())])
    return task.inputs[known], task.targets[known], task.inputs[pool]


def test_a_batch_is_the_likeliest_and_the_unlikely():
    logits = torch.arange(100.0).flip(0).expand(2, 100)
    rows, labels = propose(logits, SMALL)
    assert rows[0, :5].tolist() == [0, 1, 2, 3, 4]
    assert labels[0].tolist() == [1] * 5 + [0] * 15
    assert rows[0, 5:].min() >= 50
    more, _ = propose(logits, SMALL, taken=1)
    assert more[0, :5].tolist() == [5, 6, 7, 8, 9]
    assert not set(more[0].tolist()) & set(rows[0].tolist())


def test_labelled_and_self_made_examples_say_as_much():
    labelled = (torch.zeros(1, 4, 3), as_weights(torch.zeros(1, 4, dtype=torch.long)))
    made = (torch.ones(1, 12, 3), as_weights(torch.ones(1, 12, dtype=torch.long)))
    inputs, weights = together(labelled, made)
    assert inputs.shape == (1, 16, 3)
    assert weights.sum((0, 1)).tolist() == [8, 8]


@pytest.mark.slow
def test_learning_uses_the_pool(learners):
    inputs, targets, pool = drawn()
    trained = learners.learn(inputs, targets, pool, may_reject=False)
    assert trained.accepted == 2
    alone = learners.first.learn(inputs.unsqueeze(0), as_weights(targets).unsqueeze(0))
    assert (trained.params["weights"] - alone["weights"]).abs().max() > 1e-3


@pytest.mark.slow
def test_a_learner_that_harms_is_rejected(learners):
    """Where self-labelled examples turn the weights round, held-back labels show it, and nothing changes."""

    class Harmful:
        def learn(self, inputs, weights):
            return {name: -10 * p for name, p in learners.first.learn(inputs, weights).items()}

    inputs, targets, pool = drawn()
    harmful = SelfTraining(learners.first, Harmful(), SMALL)
    trained = harmful.learn(inputs, targets, pool)
    assert trained.accepted == 0
    assert trained.scores[1] < trained.scores[0]
    alone = learners.first.learn(inputs.unsqueeze(0), as_weights(targets).unsqueeze(0))
    assert torch.equal(trained.params["weights"], alone["weights"])
    assert harmful.learn(inputs, targets, pool, may_reject=False).accepted == 2


@pytest.mark.slow
def test_nothing_is_accepted_where_nothing_can_be_held_back(learners):
    inputs, targets, pool = drawn()
    one = torch.zeros_like(targets)
    one[0] = 1
    assert learners.learn(inputs, one, pool).accepted == 0


def test_a_small_pool_is_refused():
    with pytest.raises(ValueError, match="at least 40 unlabelled examples; got 30"):
        propose(torch.zeros(1, 30), SMALL)
