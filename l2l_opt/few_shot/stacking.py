"""The top-level learner: stacking weights of several models, learned from a few labelled examples of a new task.

z_i(x): the output of base model i for x, of mean 0 and deviation 1 over the task's unlabelled examples
logit(x) = bias + sum_i w_i z_i(x)
(w, bias)' = g_phi((w, bias), labelled examples)

A step of gradient descent on cross-entropy adds ``rate_i (y - p(x)) z_i(x)`` to w_i for each labelled example: a
model that was right is rewarded, one that was wrong is penalised. Where the weights start
and the rates are meta-learned over other tasks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from l2l_opt.few_shot.adapt import Drawn, adapt
from l2l_opt.few_shot.episodes import EpisodeSource
from l2l_opt.few_shot.meta_learner import MetaLearner
from l2l_opt.few_shot.methods import Method, make_method
from l2l_opt.few_shot.saved_learner import load_weights
from l2l_opt.few_shot.task import EpisodeTask
from l2l_opt.randomness import Stream, make_generator
from l2l_opt.types import Params, TaskData

LEAST_RARE = 3
"""Labelled examples of the rare class, whatever its share."""


class StackingModel(nn.Module):
    """``logit = bias + weights . inputs``, as the two outputs ``(0, logit)``.

    Args:
        num_models: the first inputs, which are predictions of models; their weights are equal at first.
        num_columns: further inputs, such as the example's own columns; their weights are 0 at first.
    """

    def __init__(self, num_models: int, num_columns: int = 0):
        super().__init__()
        self.num_models = num_models
        self.weights = nn.Parameter(torch.empty(num_models + num_columns))
        self.bias = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.weights.zero_()
            self.weights[: self.num_models] = 1 / self.num_models
            self.bias.fill_(-2.0)

    def forward(self, inputs: Tensor) -> Tensor:
        logits = inputs @ self.weights + self.bias
        return torch.stack([torch.zeros_like(logits), logits], dim=-1)


@dataclass(frozen=True)
class Predictions:
    """Examples of one task, as the top-level learner sees them.

    Attributes:
        inputs: ``[examples, num_models + num_columns]``.
        targets: ``[examples]`` of 0 and 1; 1 is the rare class.
        known: ``[examples]``, whether an example may be among the labelled ones; all where None.
    """

    inputs: Tensor
    targets: Tensor
    known: Tensor | None = None


def draw_labelled(task: Predictions, size: int, generator: torch.Generator) -> Tensor:
    """Draw indices of labelled examples, ``max(3, round(size * share))`` of the rare class among them.

    Raises:
        ValueError: the task has too few examples.
    """
    may_be_known = torch.ones(len(task.targets), dtype=torch.bool) if task.known is None else task.known
    rare = max(LEAST_RARE, round(size * float(task.targets.double().mean())))
    chosen = []
    for value, count in ((0, size - rare), (1, rare)):
        members = (may_be_known & (task.targets == value)).nonzero().squeeze(-1)
        if not 0 < count <= len(members):
            raise ValueError(
                f"a task must have {max(count, 1)} examples of class {value} to be labelled; got {len(members)}, "
                "use another number of labelled examples"
            )
        chosen.append(members[torch.randperm(len(members), generator=generator)[:count]])
    rows = torch.cat(chosen)
    return rows[torch.randperm(size, generator=generator)]


def as_weights(targets: Tensor) -> Tensor:
    """Classes as ``[examples, 2]``: the weight of an example for either, one in all."""
    return nn.functional.one_hot(targets, 2).float()


class StackingEpisodes:
    """Episodes of several tasks: some labelled examples to learn from, others for the query loss, and unlabelled ones.

    Args:
        tasks: of which each episode takes one.
        support: labelled examples.
        queries: examples of the query set, drawn regardless of class.
        unlabelled: further examples, ``pool_inputs`` of an episode.
        flipped: share of labels that are wrong.

    Raises:
        ValueError: no tasks, or a task with too few examples.
    """

    of_classes = True
    num_outputs = 2

    def __init__(
        self,
        tasks: Sequence[Predictions],
        *,
        support: int,
        queries: int = 200,
        unlabelled: int = 0,
        flipped: float = 0.0,
    ):
        if not tasks:
            raise ValueError("episodes need at least one task; got none, give some")
        fewest, needed = min(len(task.targets) for task in tasks), support + queries + unlabelled
        if fewest < needed:
            raise ValueError(
                f"a task must have at least support + queries + unlabelled = {needed} examples; got {fewest}, "
                "use smaller sets"
            )
        self.tasks, self.num_support, self.queries = list(tasks), support, queries
        self.unlabelled, self.flipped = unlabelled, flipped
        self.input_shape = tuple(tasks[0].inputs.shape[1:])

    def sample(self, generator: torch.Generator) -> TaskData:
        task = self.tasks[int(torch.randint(len(self.tasks), (), generator=generator))]
        labelled = draw_labelled(task, self.num_support, generator)
        order = torch.randperm(len(task.targets), generator=generator)
        others = order[~torch.isin(order, labelled)][: self.queries + self.unlabelled]
        query, pool = others[: self.queries], others[self.queries :]
        targets = flip(task.targets[labelled], self.flipped, generator)
        return {
            "support_inputs": task.inputs[labelled],
            "support_targets": as_weights(targets),
            "query_inputs": task.inputs[query],
            "query_targets": as_weights(task.targets[query]),
            "pool_inputs": task.inputs[pool],
        }


def flip(targets: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Labels of which ``round(share * examples)`` are wrong."""
    wrong = torch.randperm(len(targets), generator=generator)[: round(share * len(targets))]
    changed = targets.clone()
    changed[wrong] = 1 - changed[wrong]
    return changed


@dataclass(frozen=True)
class TopLevel:
    """A meta-learned top-level learner.

    Attributes:
        family: of its episodes.
        method: how it adapts.
        theta: where the stacking weights start.
        inner_steps: updates by all labelled examples.
    """

    family: EpisodeTask
    method: Method
    theta: Params
    inner_steps: int

    def learn(self, inputs: Tensor, weights: Tensor) -> Params:
        """Stacking weights and bias after some labelled examples: ``[S, ...]`` for S tasks at once.

        Args:
            inputs: ``[S, examples, num_models + num_columns]``.
            weights: ``[S, examples, 2]``, the weight of each example for either class.
        """
        batch = {"inputs": inputs, "targets": weights}
        with torch.no_grad():
            return adapt(
                self.method, self.family, self.theta, Drawn({}, [batch] * self.inner_steps, batch, None)
            ).params

    def logits(self, params: Params, inputs: Tensor) -> Tensor:
        """Of the rare class: ``[S, examples]``."""
        return (inputs @ params["weights"].unsqueeze(-1)).squeeze(-1) + params["bias"].unsqueeze(-1)


def meta_learn(
    episodes: EpisodeSource,
    validation: EpisodeSource,
    *,
    num_models: int,
    start: Params | None = None,
    inner_steps: int = 6,
    outer_steps: int = 100,
    meta_batch: int = 16,
    meta_lr: float = 0.04,
    lr: float = 0.1,
    seed: int = 0,
) -> TopLevel:
    """Meta-SGD over episodes of other tasks; what validates best is kept.

    Args:
        episodes: of the tasks that are learned from.
        validation: of tasks that the best is chosen on.
        num_models: the first inputs, which are predictions.
        start: weights and bias at first; equal weights of all models where None.
        inner_steps: updates by a support set.
        outer_steps: of Adam on where the weights start and on the rates.
        meta_batch: episodes of an outer step.
        meta_lr: of Adam, which falls to 0 along a cosine.
        lr: every rate at first.
        seed: of everything random.

    Source: Meta-SGD: arXiv 1707.09835, section 2.2.
    """
    model = StackingModel(num_models, episodes.input_shape[0] - num_models)
    family, other = EpisodeTask(model, episodes), EpisodeTask(model, validation)
    params = family.init_params({}, make_generator(seed, Stream.RULE)) if start is None else start
    method = make_method("meta-sgd", params, lr=lr)
    learner = MetaLearner(
        method,
        params,
        family,
        validation_family=other,
        outer_steps=outer_steps,
        inner_steps=inner_steps,
        meta_batch=meta_batch,
        meta_lr=meta_lr,
        meta_lr_schedule="cosine",
        validate_every=max(outer_steps // 4, 1),
        validation_episodes=100,
        seed=seed,
    )
    learner.run()
    load_weights(method.rule, learner.best_phi)
    method.rule.requires_grad_(False)
    return TopLevel(family, method, learner.best_theta, inner_steps)


def standardised(scores: Tensor, unlabelled: Tensor) -> Tensor:
    """Scores less the mean over unlabelled ones, over their deviation, at most 4 either way.

    Args:
        scores: ``[examples, columns]``.
        unlabelled: ``[others, columns]``.
    """
    spread, mean = torch.std_mean(unlabelled, dim=0, correction=0)
    return ((scores - mean) / spread.clamp_min(1e-6)).clamp(-4, 4)
