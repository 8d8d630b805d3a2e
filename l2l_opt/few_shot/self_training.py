"""Self-training: confident predictions become labels, which are accepted or rejected on held-back ones.

1. the top-level learner learns from the labelled examples;
2. of unlabelled ones it labels a batch: those likeliest of the rare class, and others that are unlikely;
3. a second learner, meta-learned on labelled and self-labelled examples of other tasks, learns from both;
   what it ends at is averaged with what the labelled ones alone gave;
4. the batch is accepted if the PR-AUC of held-back labels does not fall, those that neither learner has learned from;
   if accepted, the next batch follows.

Source: self-training: Yarowsky, ACL 1995, section 4; that held-back labels decide is this package's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from l2l_opt.few_shot.adapt import draw_episodes
from l2l_opt.few_shot.classifier.cross_validation import folds_of
from l2l_opt.few_shot.stacking import Predictions, StackingEpisodes, TopLevel, as_weights, meta_learn
from l2l_opt.few_shot.task import EpisodeTask
from l2l_opt.randomness import Stream
from l2l_opt.types import Params, TaskData


@dataclass(frozen=True)
class Batching:
    """How self-labelled examples are chosen.

    Attributes:
        rare: of a batch, those labelled as the rare class.
        common: of a batch, the others.
        batches: proposed at most.
    """

    rare: int = 20
    common: int = 80
    batches: int = 2


USUAL = Batching()


def propose(logits: Tensor, batching: Batching, *, taken: int = 0) -> tuple[Tensor, Tensor]:
    """Return indices of a batch and the labels made for it.

    Args:
        logits: ``[S, unlabelled]``, of the rare class.
        batching: how many of either class.
        taken: batches before this one; the next likeliest are taken.

    Returns:
        ``[S, rare + common]`` each.

    Raises:
        ValueError: too few unlabelled examples.
    """
    count = logits.shape[-1]
    if (taken + 1) * batching.rare + batching.common > count // 2:
        raise ValueError(
            f"there must be at least {2 * ((taken + 1) * batching.rare + batching.common)} unlabelled examples; got "
            f"{count}, use more, or smaller batches"
        )
    order = logits.argsort(dim=-1, descending=True)
    rare = order[..., taken * batching.rare : (taken + 1) * batching.rare]
    # Spread over the lower half, so that they are confident but not all of one kind.
    places = torch.linspace(count // 2, count - 1 - batching.batches, batching.common).round().long() + taken
    rows = torch.cat([rare, order[..., places]], dim=-1)
    labels = torch.cat([torch.ones(batching.rare), torch.zeros(batching.common)]).long()
    return rows, labels.expand_as(rows)


def together(labelled: tuple[Tensor, Tensor], self_labelled: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Labelled and self-labelled examples as one set, in which either kind weighs as much as the other.

    Args:
        labelled: inputs ``[S, examples, columns]`` and weights ``[S, examples, 2]``.
        self_labelled: likewise.
    """
    counts = [inputs.shape[1] for inputs, _ in (labelled, self_labelled)]
    weights = [
        own * sum(counts) / (2 * count) for (_, own), count in zip((labelled, self_labelled), counts, strict=True)
    ]
    return torch.cat([labelled[0], self_labelled[0]], dim=1), torch.cat(weights, dim=1)


class EpisodeBank:
    """Episodes made beforehand, drawn at random.

    Args:
        episodes: each leaf ``[episodes, ...]``, as of ``StackingEpisodes``.
    """

    of_classes = True
    num_outputs = 2

    def __init__(self, episodes: TaskData):
        self.episodes = episodes
        self.input_shape = tuple(episodes["support_inputs"].shape[2:])
        self.num_support = int(episodes["support_inputs"].shape[1])

    def sample(self, generator: torch.Generator) -> TaskData:
        place = int(torch.randint(len(self.episodes["support_inputs"]), (), generator=generator))
        return {name: value[place] for name, value in self.episodes.items()}


def with_self_labelled(top: TopLevel, episodes: TaskData, batching: Batching) -> TaskData:
    """Episodes whose support sets hold a batch that the learner made of their unlabelled examples."""
    labelled = (episodes["support_inputs"], episodes["support_targets"])
    params = top.learn(*labelled)
    pool = episodes["pool_inputs"]
    rows, labels = propose(top.logits(params, pool), batching)
    chosen = pool.gather(1, rows.unsqueeze(-1).expand(*rows.shape, pool.shape[-1]))
    inputs, weights = together(labelled, (chosen, as_weights(labels)))
    return {
        "support_inputs": inputs,
        "support_targets": weights,
        "query_inputs": episodes["query_inputs"],
        "query_targets": episodes["query_targets"],
    }


@dataclass(frozen=True)
class SelfTraining:
    """Two learners: one for labelled examples alone, one for labelled and self-labelled ones together.

    Attributes:
        first: meta-learned on labelled examples.
        second: meta-learned on labelled examples and batches that ``first`` made.
        batching: how batches are chosen.
    """

    first: TopLevel
    second: TopLevel
    batching: Batching

    def learn(self, inputs: Tensor, targets: Tensor, pool: Tensor, *, may_reject: bool = True) -> "SelfTrained":
        """Learn from labelled examples and from what is made of the unlabelled ones.

        Args:
            inputs: ``[examples, columns]``, labelled.
            targets: ``[examples]`` of 0 and 1.
            pool: ``[unlabelled, columns]``.
            may_reject: whether held-back labels may reject a batch; all are accepted otherwise.
        """
        everything = torch.arange(len(targets))
        whole = _Learning(self, inputs, targets, pool, everything, everything[:0])
        smallest = int(torch.bincount(targets, minlength=2).min())
        folds = folds_of(targets, most=3) if may_reject and smallest > 1 else []
        parts = [_Learning(self, inputs, targets, pool, known, held_back) for known, held_back in folds]
        if may_reject and not parts:
            return SelfTrained(whole.params, 0, [])
        scores = [_mean_pr_auc(parts)] if may_reject else []
        accepted = 0
        while accepted < self.batching.batches:
            if may_reject:
                proposed = [part.next() for part in parts]
                scores.append(_mean_pr_auc(proposed))
                if scores[-1] < scores[-2]:
                    break
                parts = proposed
            whole = whole.next()
            accepted += 1
        return SelfTrained(whole.params, accepted, scores)


@dataclass(frozen=True)
class SelfTrained:
    """What self-training ended at.

    Attributes:
        params: stacking weights and bias, ``[1, ...]``.
        accepted: batches of self-labelled examples.
        scores: PR-AUC of held-back labels, before and after each batch that was proposed; a fall rejected it.
    """

    params: Params
    accepted: int
    scores: list[float]


class _Learning:
    """One learner on its way: what it knows, what it made of the pool, and what is held back from it."""

    def __init__(
        self,
        learners: SelfTraining,
        inputs: Tensor,
        targets: Tensor,
        pool: Tensor,
        known: Tensor,
        held_back: Tensor,
        made: Sequence[tuple[Tensor, Tensor]] = (),
    ):
        self.arguments = (learners, inputs, targets, pool, known, held_back)
        self.learners, self.pool, self.made = learners, pool, list(made)
        self.held_back = (inputs[held_back], targets[held_back])
        labelled = (inputs[known].unsqueeze(0), as_weights(targets[known]).unsqueeze(0))
        self.params = learners.first.learn(*labelled)
        if self.made:
            rows, labels = (torch.cat(parts, dim=1) for parts in zip(*self.made, strict=True))
            chosen = (pool[rows[0]].unsqueeze(0), as_weights(labels))
            second = learners.second.learn(*together(labelled, chosen))
            self.params = {name: (p + second[name]) / 2 for name, p in self.params.items()}

    def next(self) -> "_Learning":
        """With one more batch, labelled by what it has learned so far."""
        logits = self.learners.first.logits(self.params, self.pool.unsqueeze(0))
        batch = propose(logits, self.learners.batching, taken=len(self.made))
        return _Learning(*self.arguments, made=[*self.made, batch])

    def pr_auc(self) -> float:
        """Of the held-back labels."""
        from sklearn.metrics import average_precision_score

        inputs, targets = self.held_back
        logits = self.learners.first.logits(self.params, inputs.unsqueeze(0))[0]
        return float(average_precision_score(targets.numpy(), logits.numpy()))


def _mean_pr_auc(parts: Sequence[_Learning]) -> float:
    return sum(part.pr_auc() for part in parts) / len(parts)


def meta_learn_self_training(
    tasks: Sequence[Predictions],
    validation: Sequence[Predictions],
    *,
    num_models: int,
    support: int,
    unlabelled: int = 1000,
    batching: Batching = USUAL,
    episodes: int = 200,
    seed: int = 0,
    first: TopLevel | None = None,
    outer_steps: int = 100,
) -> SelfTraining:
    """Both learners, on other tasks.

    Args:
        tasks: that are learned from.
        validation: that the best is chosen on.
        num_models: the first inputs, which are predictions.
        support: labelled examples.
        unlabelled: of an episode.
        batching: how batches are chosen.
        episodes: whose self-labelled examples the second learner learns from.
        seed: of everything random.
        first: the first learner; meta-learned here where None.
        outer_steps: of either meta-learning.
    """
    if first is None:
        sources = (StackingEpisodes(own, support=support) for own in (tasks, validation))
        first = meta_learn(*sources, num_models=num_models, outer_steps=outer_steps, seed=seed)
    banks = []
    for own, stream, count in ((tasks, Stream.TUNING, episodes), (validation, Stream.REPORTING, episodes // 2)):
        source = StackingEpisodes(own, support=support, unlabelled=unlabelled)
        family = EpisodeTask(first.family.model, source)
        drawn = draw_episodes(family, range(count), seed=seed, stream=stream, num_steps=1)
        banks.append(EpisodeBank(with_self_labelled(first, drawn.data, batching)))
    second = meta_learn(
        *banks,
        num_models=num_models,
        start=first.theta,
        outer_steps=outer_steps,
        inner_steps=first.inner_steps,
        seed=seed,
    )
    return SelfTraining(first, second, batching)
