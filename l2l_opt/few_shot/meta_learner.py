"""The outer loop of few-shot learning: AdamW on the initialisation and on the rule."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from l2l_opt.checks import check_choices
from l2l_opt.few_shot.adapt import Drawn, adapt, draw_episodes
from l2l_opt.few_shot.methods import Method
from l2l_opt.meta_training.options import OuterOptions
from l2l_opt.meta_training.outer_loop import OuterLoop
from l2l_opt.randomness import Stream
from l2l_opt.tasks.base import TaskFamily
from l2l_opt.types import Params

META_LOSSES = ("last", "mean")


@dataclass(frozen=True, kw_only=True)
class MetaLearnerOptions(OuterOptions):
    """Options of ``MetaLearner``, beside those of every outer loop.

    Attributes:
        inner_steps: updates by a support set, in meta-training.
        meta_loss: ``"last"``, the query loss after the last inner step, or ``"mean"``, its mean over those after each
            (arXiv 1810.09502, section 4, with equal weights), for a learner that is to be used after few and many.
        validation_inner_steps: in validation; as in meta-training where None.
        meta_batch: episodes of an outer step.
        validation_episodes: episodes a validation adapts to, the same each time.
    """

    POSITIVE: ClassVar[tuple[str, ...]] = ("outer_steps", "inner_steps", "meta_batch", "validation_episodes")

    clip_norm: float = 10.0
    validate_every: int = 500
    inner_steps: int = 1
    meta_loss: str = "last"
    validation_inner_steps: int | None = None
    meta_batch: int = 32
    validation_episodes: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(META_LOSSES, meta_loss=self.meta_loss)


class MetaLearner(OuterLoop[MetaLearnerOptions]):
    """Learn where students start (theta) and how they adapt (phi), over episodes.

        minimise over theta and phi  E_episode f(theta'; query set),    theta' = g_phi(theta, support set)

    or, with ``meta_loss="mean"``, the mean of f over theta after each of the inner steps.

    Args:
        method: the rule and what is learned; its rule's weights are changed in place.
        params: theta at first.
        family: the meta-training episodes.
        validation_family: episodes of other classes, on which the best is chosen.
        **options: those of ``MetaLearnerOptions``: ``outer_steps``, ``inner_steps``, ``meta_loss``, ``meta_batch``,
            ``meta_lr``, ``meta_lr_schedule``, ``meta_weight_decay``, ``clip_norm``, ``average_phi``,
            ``validate_every``, ``validation_episodes``, ``validation_inner_steps``, ``seed``.

    Attributes:
        theta: where students start, a leaf each.
        outer_steps_done: outer steps taken so far.
        num_skipped: those among them whose meta-gradient was not finite.
        best: the best validation so far, by its query loss; None before the first.

    Raises:
        ValueError: a number out of range; a method that learns nothing.

    Example:
        >>> learner = MetaLearner(make_method("maml", params), params, family, validation_family=other, outer_steps=100)
        >>> learner.run()
    """

    def __init__(
        self, method: Method, params: Params, family: TaskFamily, *, validation_family: TaskFamily, **options: Any
    ):
        own = MetaLearnerOptions(**options)
        if own.meta_loss != "last" and method.towards_adapted:
            raise ValueError(
                f"meta_loss must be 'last' for a method that moves towards adapted weights; got {own.meta_loss!r}"
            )
        self.method, self.family, self.validation_family = method, family, validation_family
        self.theta: Params = {
            name: p.detach().clone().requires_grad_(method.learns_initialisation) for name, p in params.items()
        }
        phi: Params = dict(method.rule.named_parameters())
        for weight in phi.values():
            weight.requires_grad_(method.learns_rule)
        learned = self.theta if method.learns_initialisation else {}
        learned = learned | ({f"rule.{name}": weight for name, weight in phi.items()} if method.learns_rule else {})
        if not learned:
            raise ValueError(
                "a method must learn the initialisation, the rule or both; got neither, use e.g. learns_rule=True"
            )
        super().__init__(method.rule, own, weights={"theta": self.theta, "phi": phi}, learned=learned)

    @property
    def best_theta(self) -> Params:
        """Where students start, at the best validation."""
        return self.best_weights["theta"]

    def differentiate(self) -> tuple[float, int]:
        """Return the meta-gradient of a batch of fresh episodes."""
        batch, steps = self.options.meta_batch, self.options.inner_steps
        first = self.outer_steps_done * batch
        episodes = self._draw(self.family, range(first, first + batch), Stream.META_TRAINING, steps)
        return self._meta_gradient(episodes), batch * steps * sum(p.numel() for p in self.theta.values())

    def _draw(self, family: TaskFamily, numbers: range, stream: Stream, num_steps: int) -> Drawn:
        return draw_episodes(
            family,
            numbers,
            seed=self.seed,
            stream=stream,
            num_steps=num_steps,
            fresh=not self.method.learns_initialisation,
        )

    def _meta_gradient(self, episodes: Drawn) -> float:
        """Write the meta-gradient of the episodes' mean into ``learned``; returns the meta-loss."""
        theta = self.theta if episodes.fresh is None else episodes.fresh
        if self.method.towards_adapted:
            with torch.no_grad():
                adapted = adapt(self.method, self.family, theta, episodes)
                for name, p in self.theta.items():
                    p.grad = p - adapted.params[name].mean(0)
        else:
            every = self.options.meta_loss == "mean"
            adapted = adapt(self.method, self.family, theta, episodes, after_every_step=every)
            adapted.losses.mean().backward()
        if not torch.isfinite(adapted.losses).any():
            self._disregard_gradients()
        return float(adapted.losses.detach().mean())

    def evaluate(self) -> tuple[Tensor, Tensor]:
        """Adapt to the validation episodes; there is no curve but the metric itself."""
        own, losses = self.options, []
        with torch.no_grad():
            for first in range(0, own.validation_episodes, own.meta_batch):
                numbers = range(first, min(first + own.meta_batch, own.validation_episodes))
                steps = own.validation_inner_steps or own.inner_steps
                episodes = self._draw(self.validation_family, numbers, Stream.VALIDATION, steps)
                theta = self.theta if episodes.fresh is None else episodes.fresh
                losses.append(adapt(self.method, self.validation_family, theta, episodes).query_losses)
        metrics = torch.cat(losses)
        return metrics, metrics.mean().reshape(1)
