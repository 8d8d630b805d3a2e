"""A model adapts to support sets: one unroll of as many students as there are episodes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_leaves, tree_map

from l2l_opt.few_shot.methods import Method
from l2l_opt.few_shot.task import PartlyAdapted, score_of
from l2l_opt.inner_loop.unroll import InnerState, unroll
from l2l_opt.randomness import Stream, make_generator
from l2l_opt.tasks.base import Split, TaskFamily
from l2l_opt.types import Batch, Params, TaskData

SPLITS: tuple[Split, Split] = ("train", "test")


@dataclass(frozen=True)
class Drawn:
    """Episodes, each leaf with a leading axis S.

    Attributes:
        data: of the family.
        supports: the batch of each inner step.
        query: what students are evaluated on.
        fresh: weights drawn anew for each episode.
    """

    data: TaskData
    supports: list[Batch]
    query: Batch
    fresh: Params | None


def draw_episodes(
    family: TaskFamily, numbers: Iterable[int], *, seed: int, stream: Stream, num_steps: int, fresh: bool = False
) -> Drawn:
    """Episodes by their numbers: each depends on (seed, stream, number) alone.

    Args:
        family: where they come from.
        numbers: of the episodes.
        seed: of the run.
        stream: what they are for.
        num_steps: inner steps, each of which has a support batch.
        fresh: whether each episode starts from weights of its own.
    """
    whole = getattr(family, "batches_are_data", False)
    datas, drawn, params = [], [], []
    for number in numbers:
        generator = make_generator(seed, stream, number)
        data = family.sample(generator)
        datas.append(data)
        if not whole:
            supports = [family.sample_batch(data, generator) for _ in range(num_steps)]
            drawn.append((supports, family.sample_batch(data, generator, "test")))
        if fresh:
            params.append(family.init_params(data, generator))
    data = {key: torch.stack([each[key] for each in datas]) for key in datas[0]}
    if whole:
        support, query = (vmap(partial(_batch_of, family, split))(data) for split in SPLITS)
        supports = [support] * num_steps
    else:
        supports, query = tree_map(lambda *leaves: torch.stack(leaves), *drawn)
    return Drawn(
        data, supports, query, {k: torch.stack([each[k] for each in params]) for k in params[0]} if fresh else None
    )


def _batch_of(family: TaskFamily, split: Split, data: TaskData) -> Batch:
    return family.sample_batch(data, _NOTHING, split)


_NOTHING = torch.Generator()
"""For families that draw nothing for a batch."""


@dataclass(frozen=True)
class Adapted:
    """Students after their inner steps.

    Attributes:
        params: theta', each ``[S, *param.shape]``, those that no step changes included.
        losses: ``[K, S]`` on the query set, after each of the K steps, or after the last alone.
    """

    params: Params
    losses: Tensor
    family: TaskFamily
    own: Params
    data: TaskData
    query: Batch

    @property
    def query_losses(self) -> Tensor:
        """``[S]``, of theta' on the query set."""
        return self.losses[-1]

    def scores(self) -> Tensor:
        """``[S]``, the family's score, on the query set."""
        return vmap(score_of(self.family))(self.own, self.data, self.query)


def adapt(
    method: Method,
    family: TaskFamily,
    theta: Params,
    episodes: Drawn,
    *,
    phi: Mapping[str, Tensor] | None = None,
    after_every_step: bool = False,
) -> Adapted:
    """``theta' = g_phi(theta, S)`` for every episode, differentiable in theta and phi wherever gradients are enabled.

    Args:
        method: the rule, and what it may change.
        family: of the episodes.
        theta: where every student starts, each ``param.shape``; each ``[S, *param.shape]`` is taken as it is where
            episodes have weights of their own.
        episodes: whose support sets are learned from.
        phi: the rule's weights; its own where None.
        after_every_step: whether losses on the query set are kept of every step, at one more forward pass each.
    """
    partly = PartlyAdapted(family, method.adapts)
    count = next(iter(episodes.data.values())).shape[0] if episodes.data else _length(episodes.query)
    starts = theta if episodes.fresh is not None else {k: p.expand(count, *p.shape) for k, p in theta.items()}
    own, held = partly.divide(starts)
    one = {name: p[0].detach() for name, p in own.items()}
    state = tree_map(lambda value: value.expand(count, *value.shape), method.rule.init_state(one))
    like = next(iter(own.values()))
    num_steps = torch.full((count,), float(len(episodes.supports)), device=like.device)
    data = episodes.data | held
    inner, losses = unroll(
        method.rule,
        partly,
        data,
        InnerState(own, state, num_steps),
        [*episodes.supports, episodes.query],
        phi=phi,
        loss_batches=[episodes.query] * (len(episodes.supports) + 1) if after_every_step else None,
        second_derivatives=method.second_derivatives and torch.is_grad_enabled(),
    )
    data = inner.data or data
    changed = partly.join(inner.params, held)
    params = {name: changed[name] for name in theta}
    return Adapted(
        params, losses[1 if after_every_step else -1 :], partly, inner.params, inner.data or data, episodes.query
    )


def _length(batch: Batch) -> int:
    return tree_leaves(batch)[0].shape[0]
