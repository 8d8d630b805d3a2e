"""Meta-training of a rule: meta-gradients from students that go on from one outer step to the next."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from l2l_opt.inner_loop.students import Students
from l2l_opt.inner_loop.training import final_losses, training_losses
from l2l_opt.meta_training.estimators.base import MetaGradientEstimator
from l2l_opt.meta_training.estimators.imitation import Imitation
from l2l_opt.meta_training.options import OuterOptions
from l2l_opt.meta_training.outer_loop import OuterLoop
from l2l_opt.meta_training.ranks import ALONE, Ranks
from l2l_opt.randomness import Stream
from l2l_opt.rules.base import UpdateRule
from l2l_opt.tasks.mixture import TaskMixture, Tasks
from l2l_opt.types import Params

VALIDATION_ARCHITECTURES = 8
"""Architectures that the validation students of a mixture are spread over."""


@dataclass(frozen=True, kw_only=True)
class MetaTrainingOptions(OuterOptions):
    """Options of ``MetaTrainer``, beside those of every outer loop.

    Attributes:
        num_students: students trained side by side, over all ranks.
        validation_students: students a validation trains.
        validation_horizon: inner steps of each; the longest horizon of meta-training where None.
        imitation_steps: outer steps, the first ones, in which a hand-designed rule is imitated.
    """

    POSITIVE: ClassVar[tuple[str, ...]] = ("outer_steps", "num_students", "validation_students")

    num_students: int = 8
    validation_students: int = 8
    validation_horizon: int | None = None
    imitation_steps: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.imitation_steps < 0:
            raise ValueError(f"imitation_steps must not be negative; got {self.imitation_steps}, use 0 for none")


class MetaTrainer(OuterLoop[MetaTrainingOptions]):
    """Meta-train a rule: one AdamW step on its weights (phi) for each meta-gradient.

    Args:
        rule: the update rule; its weights are changed in place.
        family: the meta-training tasks, one family or a mixture.
        estimator: where meta-gradients come from.
        validation_family: where validation students come from; the meta-training tasks where None.
        imitation: a hand-designed rule to be imitated in the first outer steps.
        ranks: the processes that share this work; each has its own students, and all end with the same phi.
        **options: those of ``MetaTrainingOptions``: ``outer_steps``, ``num_students``, ``meta_lr``,
            ``meta_lr_schedule``, ``meta_weight_decay``, ``clip_norm``, ``average_phi``, ``validate_every``,
            ``validation_students``, ``validation_horizon``, ``imitation_steps``, ``seed``.

    Attributes:
        outer_steps_done: outer steps taken so far.
        num_skipped: those among them whose meta-gradient was not finite.
        best: the best validation so far, None before the first.
        best_phi: phi at that point, averaged.
        averaged_phi: the average so far.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> trainer = MetaTrainer(RNNProp(), family, TruncatedBackprop(horizon=100), outer_steps=200)
        >>> trainer.run()
        >>> save_rule(trainer.best_rule(), "rule.safetensors")
    """

    def __init__(
        self,
        rule: UpdateRule,
        family: Tasks,
        estimator: MetaGradientEstimator,
        *,
        validation_family: Tasks | None = None,
        imitation: Imitation | None = None,
        ranks: Ranks = ALONE,
        **options: Any,
    ):
        own = MetaTrainingOptions(**options)
        phi: Params = dict(rule.named_parameters())
        super().__init__(rule, own, weights={"phi": phi}, learned=phi, ranks=ranks)
        if (imitation is None) != (own.imitation_steps == 0):
            raise ValueError(
                f"a rule to imitate and the outer steps to do so belong together; got {own.imitation_steps} outer "
                f"steps and {'no rule' if imitation is None else 'a rule'}, use both or neither"
            )
        self.family, self.estimator, self.imitation = family, estimator, imitation
        self.validation_family = family if validation_family is None else validation_family
        self.validation_horizon = own.validation_horizon or estimator.horizons.longest
        mixed = isinstance(self.validation_family, TaskMixture)
        self.validation_group_size = -(-own.validation_students // VALIDATION_ARCHITECTURES) if mixed else None
        self.numbers = ranks.share(range(own.num_students))

    @cached_property
    def students(self) -> Students:
        """Those of this process, started when they are first asked for."""
        return self.start_students(self.estimator)

    @cached_property
    def imitating(self) -> Students | None:
        """Those of the imitation, likewise; None once it is over."""
        return None if self.imitation is None else self.start_students(self.imitation)

    def start_students(self, estimator: MetaGradientEstimator) -> Students:
        """Start this process's students from the beginning, for an estimator."""
        own = self.options
        return estimator.init(
            self.rule, self.family, num_students=own.num_students, seed=own.seed, numbers=self.numbers
        )

    def differentiate(self) -> tuple[float, int]:
        """Average the meta-gradient and the meta-loss over the students of all ranks."""
        if self.outer_steps_done >= self.options.imitation_steps:
            self.imitating = None
        estimator = self.estimator if self.imitating is None else self.imitation
        students = self.students if self.imitating is None else self.imitating
        assert estimator is not None
        students.progress = self.outer_steps_done / self.outer_steps
        done = students.coordinate_steps
        estimate, _ = estimator.estimate(self.rule, students)
        own = [estimate.gradients[name] for name in self.learned], estimate.meta_loss
        gradients, meta_loss = own if self.ranks.size == 1 else self._mean_over_ranks(*own)
        for weight, gradient in zip(self.learned.values(), gradients, strict=True):
            weight.grad = gradient
        if not self.ranks.any([bool(torch.isfinite(estimate.losses).any())])[0]:
            self._disregard_gradients()
        return float(meta_loss), students.coordinate_steps - done

    def _mean_over_ranks(self, gradients: list[Tensor], meta_loss: Tensor) -> tuple[list[Tensor], Tensor]:
        share, device = len(self.numbers) / self.options.num_students, gradients[0].device
        *gradients, meta_loss = self.ranks.sum([share * each.to(device) for each in (*gradients, meta_loss)])
        return gradients, meta_loss

    def evaluate(self) -> tuple[Tensor, Tensor]:
        """Train the validation students; their losses are on the split of the meta-loss."""
        own = training_losses(
            self.rule,
            self.validation_family,
            numbers=self.ranks.share(range(self.options.validation_students)),
            horizon=self.validation_horizon,
            seed=self.seed,
            stream=Stream.VALIDATION,
            group_size=self.validation_group_size,
            loss_on=self.estimator.meta_loss.loss_on,
        )
        curves = torch.cat(self.ranks.gather(own), dim=1)
        return self.estimator.meta_loss.normalise(final_losses(curves), curves[0]), curves.mean(dim=1)

    def best_rule(self) -> UpdateRule:
        """Return the rule with its best weights; shares none with the one in training."""
        return self.rule_with(self.best_phi)

    def rule_with(self, phi: Params) -> UpdateRule:
        """Return a copy of the rule with other weights."""
        rule = copy.deepcopy(self.rule)
        for name, weight in rule.named_parameters():
            weight.data = phi[name].detach().clone()
        return rule

    def state_dict(self) -> dict[str, Any]:
        """All that a killed run needs to go on bit for bit, of all ranks: tensors and plain values."""
        return super().state_dict() | {
            "students": self._students_of_all_ranks(self.students),
            "imitating": None if self.imitating is None else self._students_of_all_ranks(self.imitating),
        }

    def load_state_dict(self, state: Mapping[str, Any], *, with_students: bool = True) -> None:
        super().load_state_dict(state)
        if not with_students:
            return
        self.students.load_state_dict(state["students"])
        if state["imitating"] is None:
            self.imitating = None
        elif self.imitating is not None:
            self.imitating.load_state_dict(state["imitating"])

    def _students_of_all_ranks(self, students: Students) -> list[dict[str, Any]]:
        return [student for of_rank in self.ranks.gather(students.state_dict()) for student in of_rank]
