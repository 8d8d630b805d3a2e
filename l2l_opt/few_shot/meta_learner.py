"""The outer loop of few-shot learning: Adam on the initialisation and on the rule."""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from l2l_opt.few_shot.adapt import Drawn, adapt, draw_episodes
from l2l_opt.few_shot.methods import Method
from l2l_opt.meta_training.outer_loop import OuterLoop, OuterStep, Validation, meta_learning_rate
from l2l_opt.meta_training.ranks import ALONE
from l2l_opt.randomness import Stream
from l2l_opt.tasks.base import TaskFamily
from l2l_opt.types import Params

META_LOSSES = ("last", "mean")


class MetaLearner(OuterLoop):
    """Learns where students start (theta) and how they are taught (phi), over episodes.

        minimise over theta and phi  E_episode f(theta'; query set),    theta' = g_phi(theta, support set)

    or, with ``meta_loss="mean"``, the mean of f over theta after each of the inner steps.

    Args:
        method: the rule and what is learned; its rule's weights are changed in place.
        params: theta at first.
        family: the meta-training episodes.
        validation_family: episodes of other classes, on which the best is chosen.
        outer_steps: planned outer steps.
        inner_steps: updates by a support set, in meta-training.
        meta_loss: ``"last"``, the query loss after the last inner step, or ``"mean"``, its mean over those after each
            (arXiv 1810.09502, section 4, with equal weights), for a learner that is to be used after few and many.
        validation_inner_steps: in validation; as in meta-training where None.
        meta_batch: episodes of an outer step.
        meta_lr: Adam's learning rate.
        meta_lr_schedule: ``"constant"`` or ``"cosine"`` over the planned outer steps.
        clip_norm: bound on the meta-gradient's Euclidean norm.
        validate_every: outer steps between validations, 0 for only one at the end.
        validation_episodes: episodes a validation adapts to, the same each time.
        seed: of everything random.

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
        self,
        method: Method,
        params: Params,
        family: TaskFamily,
        *,
        validation_family: TaskFamily,
        outer_steps: int,
        inner_steps: int = 1,
        meta_loss: str = "last",
        validation_inner_steps: int | None = None,
        meta_batch: int = 32,
        meta_lr: float = 1e-3,
        meta_lr_schedule: str = "constant",
        clip_norm: float = 10.0,
        validate_every: int = 500,
        validation_episodes: int = 200,
        seed: int = 0,
    ):
        for key, value in {
            "outer_steps": outer_steps,
            "inner_steps": inner_steps,
            "meta_batch": meta_batch,
            "validation_episodes": validation_episodes,
        }.items():
            if value < 1:
                raise ValueError(f"{key} must be positive; got {value}, use e.g. 10")
        for key, value in {"meta_lr": meta_lr, "clip_norm": clip_norm}.items():
            if not 0 < value < math.inf:
                raise ValueError(f"{key} must be a positive number; got {value}, use e.g. 0.001")
        if meta_loss not in META_LOSSES:
            raise ValueError(f"meta_loss must be one of {', '.join(META_LOSSES)}; got {meta_loss!r}")
        if meta_loss != "last" and method.towards_adapted:
            raise ValueError(
                f"meta_loss must be 'last' for a method that moves towards adapted weights; got {meta_loss!r}"
            )
        if validate_every < 0:
            raise ValueError(f"validate_every must not be negative; got {validate_every}, use 0 for only at the end")
        meta_learning_rate(meta_lr, 0, outer_steps, schedule=meta_lr_schedule)
        self.method, self.rule = method, method.rule
        self.family, self.validation_family = family, validation_family
        self.theta: Params = {
            name: p.detach().clone().requires_grad_(method.learns_initialisation) for name, p in params.items()
        }
        self.outer_steps, self.inner_steps, self.meta_batch = outer_steps, inner_steps, meta_batch
        self.meta_loss = meta_loss
        self.validation_inner_steps = validation_inner_steps or inner_steps
        self.meta_lr, self.meta_lr_schedule, self.clip_norm = meta_lr, meta_lr_schedule, clip_norm
        self.validate_every, self.validation_episodes, self.seed = validate_every, validation_episodes, seed
        for weight in self.rule.parameters():
            weight.requires_grad_(method.learns_rule)
        if not self.learned:
            raise ValueError(
                "a method must learn the initialisation, the rule or both; got neither, use e.g. learns_rule=True"
            )
        self.optimizer = torch.optim.Adam(self.learned.values(), lr=meta_lr)
        self.outer_steps_done = self.num_skipped = 0
        self.best: Validation | None = None
        self.best_theta, self.best_phi = self._theta(), self._phi()
        self.last_validated, self.seconds = -1, 0.0
        self.ranks = ALONE

    @property
    def learned(self) -> Params:
        """What the meta-gradient is of: theta's tensors, then phi's as ``rule.NAME``."""
        theta = self.theta if self.method.learns_initialisation else {}
        phi = dict(self.rule.named_parameters()) if self.method.learns_rule else {}
        return theta | {f"rule.{name}": weight for name, weight in phi.items()}

    def outer_step(self) -> OuterStep:
        """Take one outer step. A meta-gradient that is not finite is counted, and changes nothing."""
        start = time.perf_counter()
        first = self.outer_steps_done * self.meta_batch
        episodes = self._draw(
            self.family, range(first, first + self.meta_batch), Stream.META_TRAINING, self.inner_steps
        )
        meta_loss = self._meta_gradient(episodes)
        norm, meta_lr, skipped, norms = self.descend(self.learned)
        self.outer_steps_done += 1
        seconds = time.perf_counter() - start
        self.seconds += seconds
        coordinates = self.meta_batch * self.inner_steps * sum(p.numel() for p in self.theta.values())
        return OuterStep(self.outer_steps_done, meta_loss, norm, meta_lr, skipped, seconds, coordinates, norms)

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
            return float(adapted.query_losses.mean())
        every = self.meta_loss == "mean"
        loss = adapt(self.method, self.family, theta, episodes, after_every_step=every).losses.mean()
        loss.backward()
        return float(loss.detach())

    def validate(self) -> Validation:
        """Adapt to the validation episodes with theta and phi as they are; does not change the learner."""
        losses = []
        with torch.no_grad():
            for first in range(0, self.validation_episodes, self.meta_batch):
                numbers = range(first, min(first + self.meta_batch, self.validation_episodes))
                episodes = self._draw(self.validation_family, numbers, Stream.VALIDATION, self.validation_inner_steps)
                theta = self.theta if episodes.fresh is None else episodes.fresh
                losses.append(adapt(self.method, self.validation_family, theta, episodes).query_losses)
        figure = float(torch.cat(losses).mean())
        figure = figure if math.isfinite(figure) else math.inf
        return Validation(self.outer_steps_done, figure, torch.tensor([figure]))

    def consider(self, validation: Validation) -> None:
        """Keep theta and phi as the best if this validation of them beats the best so far."""
        if self.best is None or validation.figure < self.best.figure:
            self.best, self.best_theta, self.best_phi = validation, self._theta(), self._phi()

    def _theta(self) -> Params:
        return {name: p.detach().clone() for name, p in self.theta.items()}

    def _phi(self) -> Params:
        return {name: weight.detach().clone() for name, weight in self.rule.named_parameters()}

    def state_dict(self) -> dict[str, Any]:
        """All that a killed run needs to go on bit for bit: tensors and plain values. Episodes are numbered."""
        return {
            "outer_steps_done": self.outer_steps_done,
            "num_skipped": self.num_skipped,
            "last_validated": self.last_validated,
            "seconds": self.seconds,
            "theta": self._theta(),
            "phi": self._phi(),
            "best": None if self.best is None else asdict(self.best),
            "best_theta": self.best_theta,
            "best_phi": self.best_phi,
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any], *, with_students: bool = True) -> None:
        """Go on from what ``state_dict`` returned; there are no students that outlive an outer step."""
        self.outer_steps_done, self.num_skipped = state["outer_steps_done"], state["num_skipped"]
        self.last_validated, self.seconds = state["last_validated"], state["seconds"]
        with torch.no_grad():
            for own, saved in ((self.theta, state["theta"]), (dict(self.rule.named_parameters()), state["phi"])):
                for name, weight in own.items():
                    weight.copy_(saved[name])
        device = next(iter(self.theta.values())).device
        self.best = None if state["best"] is None else Validation(**state["best"])
        self.best_theta = _on(device, state["best_theta"])
        self.best_phi = _on(device, state["best_phi"])
        self.optimizer.load_state_dict(state["optimizer"])


def _on(device: torch.device, tensors: Mapping[str, Tensor]) -> Params:
    return {name: tensor.to(device) for name, tensor in tensors.items()}
