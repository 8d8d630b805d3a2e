"""The outer loop: AdamW on phi, validation on fixed students, the best rule kept."""

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from l2l_opt.inner_loop.students import Students
from l2l_opt.inner_loop.training import final_losses, training_losses
from l2l_opt.meta_training.estimators.base import MetaGradientEstimator
from l2l_opt.meta_training.estimators.imitation import Imitation
from l2l_opt.meta_training.outer_loop import OuterLoop, OuterStep, Validation, meta_learning_rate
from l2l_opt.meta_training.ranks import ALONE, Ranks
from l2l_opt.randomness import Stream
from l2l_opt.rules.base import UpdateRule
from l2l_opt.tasks.mixture import TaskMixture, Tasks
from l2l_opt.types import Params

VALIDATION_ARCHITECTURES = 8
"""Architectures that the validation students of a mixture are spread over."""


class MetaTrainer(OuterLoop):
    """Meta-trains a rule: one AdamW step on phi for each meta-gradient.

    Args:
        rule: the teacher; its weights are changed in place.
        family: the meta-training tasks, one family or a mixture.
        estimator: where meta-gradients come from.
        outer_steps: planned outer steps, to which schedules refer.
        num_students: students trained side by side, over all ranks.
        meta_lr: AdamW's learning rate on phi.
        meta_lr_schedule: ``"constant"`` or ``"cosine"`` over the planned outer steps.
        meta_weight_decay: AdamW's weight decay on phi.
        clip_norm: bound on the meta-gradient's Euclidean norm.
        average_phi: decay, in [0, 1), of a moving average of phi over outer steps. Validation judges the average and it
            is what is kept as the best, while meta-training goes on from phi itself; 0 for no averaging.
        validate_every: outer steps between validations, 0 for only one at the end.
        validation_students: students a validation trains.
        validation_horizon: inner steps of each; the longest horizon of meta-training where None.
        validation_family: where validation students come from; the meta-training tasks where None.
        imitation: a hand-designed rule to be imitated in the first outer steps.
        imitation_steps: how many these are.
        seed: of everything random.
        ranks: the processes that share this work; each has its own students, and all end with the same phi.

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
        outer_steps: int,
        num_students: int = 8,
        meta_lr: float = 1e-3,
        meta_lr_schedule: str = "constant",
        meta_weight_decay: float = 0.0,
        clip_norm: float = 1.0,
        average_phi: float = 0.0,
        validate_every: int = 20,
        validation_students: int = 8,
        validation_horizon: int | None = None,
        validation_family: Tasks | None = None,
        imitation: Imitation | None = None,
        imitation_steps: int = 0,
        seed: int = 0,
        ranks: Ranks = ALONE,
    ):
        for key, value in {
            "outer_steps": outer_steps,
            "num_students": num_students,
            "validation_students": validation_students,
        }.items():
            if value < 1:
                raise ValueError(f"{key} must be positive; got {value}, use e.g. 100")
        for key, value in {"meta_lr": meta_lr, "clip_norm": clip_norm}.items():
            if not 0 < value < math.inf:
                raise ValueError(f"{key} must be a positive number; got {value}, use e.g. 0.001")
        for key, value in {"meta_weight_decay": meta_weight_decay, "imitation_steps": imitation_steps}.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{key} must be a number and not negative; got {value}, use 0 for none")
        if not 0 <= average_phi < 1:
            raise ValueError(f"average_phi must lie in [0, 1); got {average_phi}, use e.g. 0.99, or 0 for none")
        if (imitation is None) != (imitation_steps == 0):
            raise ValueError(
                f"a rule to imitate and the outer steps to do so belong together; got {imitation_steps} outer steps "
                f"and {'no rule' if imitation is None else 'a rule'}, use both or neither"
            )
        if validate_every < 0:
            raise ValueError(f"validate_every must not be negative; got {validate_every}, use 0 for only at the end")
        meta_learning_rate(meta_lr, 0, outer_steps, schedule=meta_lr_schedule)
        self.rule, self.family, self.estimator = rule, family, estimator
        self.outer_steps, self.seed = outer_steps, seed
        self.meta_lr, self.meta_lr_schedule, self.clip_norm = meta_lr, meta_lr_schedule, clip_norm
        self.average_phi = average_phi
        self.validate_every, self.validation_students = validate_every, validation_students
        self.validation_horizon = validation_horizon or estimator.horizon.longest
        self.validation_family = family if validation_family is None else validation_family
        mixed = isinstance(self.validation_family, TaskMixture)
        self.validation_group_size = -(-validation_students // VALIDATION_ARCHITECTURES) if mixed else None
        self.imitation, self.imitation_steps, self.ranks = imitation, imitation_steps, ranks
        self.num_students, self.numbers = num_students, ranks.share(range(num_students))
        self.students = self._start_students(estimator)
        self.imitating = None if imitation is None else self._start_students(imitation)
        self.optimizer = torch.optim.AdamW(rule.parameters(), lr=meta_lr, weight_decay=meta_weight_decay)
        self.outer_steps_done = 0
        self.num_skipped = 0
        self.best: Validation | None = None
        self.best_phi: Params = self._phi()
        self.averaged_phi: Params = self._phi()
        self.last_validated = -1
        self.seconds = 0.0

    def outer_step(self) -> OuterStep:
        """Take one outer step. A meta-gradient that is not finite is counted, and changes neither phi nor AdamW."""
        start = time.perf_counter()
        gradients, meta_loss, coordinate_steps = self._meta_gradient()
        for weight, gradient in zip(self.rule.parameters(), gradients, strict=True):
            weight.grad = gradient
        norm, meta_lr, skipped, norms = self.descend(dict(self.rule.named_parameters()))
        self._average()
        self.outer_steps_done += 1
        seconds = time.perf_counter() - start
        self.seconds += seconds
        return OuterStep(self.outer_steps_done, meta_loss, norm, meta_lr, skipped, seconds, coordinate_steps, norms)

    def _average(self) -> None:
        # A short memory at first, so that the average does not dwell on where phi began.
        decay = min(self.average_phi, (1 + self.outer_steps_done) / (10 + self.outer_steps_done))
        for name, weight in self.rule.named_parameters():
            self.averaged_phi[name] = weight.detach() + decay * (self.averaged_phi[name] - weight.detach())

    def _start_students(self, estimator: MetaGradientEstimator) -> Students:
        return estimator.init(
            self.rule, self.family, num_students=self.num_students, seed=self.seed, numbers=self.numbers
        )

    def _meta_gradient(self) -> tuple[list[Tensor], float, int]:
        """The meta-gradient and the meta-loss, means over the students of all ranks; and coordinate steps here."""
        if self.outer_steps_done >= self.imitation_steps:
            self.imitating = None
        estimator = self.estimator if self.imitating is None else self.imitation
        students = self.students if self.imitating is None else self.imitating
        assert estimator is not None
        students.progress = self.outer_steps_done / self.outer_steps
        done = students.coordinate_steps
        estimate, _ = estimator.estimate(self.rule, students)
        coordinate_steps = students.coordinate_steps - done
        gradients = [estimate.gradients[name] for name, _ in self.rule.named_parameters()]
        if self.ranks.size == 1:
            return gradients, float(estimate.meta_loss), coordinate_steps
        share = len(self.numbers) / self.num_students
        device = gradients[0].device
        *gradients, meta_loss = self.ranks.sum([share * each.to(device) for each in (*gradients, estimate.meta_loss)])
        return gradients, float(meta_loss), coordinate_steps

    def validate(self) -> Validation:
        """Train the validation students with phi as it is, or with its average; does not change the trainer."""
        own = training_losses(
            self.rule,
            self.validation_family,
            numbers=self.ranks.share(range(self.validation_students)),
            horizon=self.validation_horizon,
            seed=self.seed,
            stream=Stream.VALIDATION,
            phi=self.averaged_phi if self.average_phi else None,
            group_size=self.validation_group_size,
        )
        curves = torch.cat(self.ranks.gather(own), dim=1)
        figure = float(self.estimator.meta_loss.normalise(final_losses(curves), curves[0]).mean())
        figure = figure if math.isfinite(figure) else math.inf
        return Validation(self.outer_steps_done, figure, curves.mean(dim=1))

    def consider(self, validation: Validation) -> None:
        """Keep phi as the best if this validation of it beats the best so far."""
        if self.best is None or validation.figure < self.best.figure:
            self.best = validation
            self.best_phi = dict(self.averaged_phi) if self.average_phi else self._phi()

    def best_rule(self) -> UpdateRule:
        """The rule with its best weights; shares none with the one in training."""
        rule = copy.deepcopy(self.rule)
        for name, weight in rule.named_parameters():
            weight.data = self.best_phi[name].clone()
        return rule

    def _phi(self) -> Params:
        return {name: weight.detach().clone() for name, weight in self.rule.named_parameters()}

    def state_dict(self) -> dict[str, Any]:
        """All that a killed run needs to go on bit for bit, of all ranks: tensors and plain values."""
        best = None if self.best is None else asdict(self.best)
        return {
            "outer_steps_done": self.outer_steps_done,
            "num_skipped": self.num_skipped,
            "last_validated": self.last_validated,
            "seconds": self.seconds,
            "phi": self._phi(),
            "best": best,
            "best_phi": self.best_phi,
            "averaged_phi": self.averaged_phi,
            "optimizer": self.optimizer.state_dict(),
            "students": self._students_of_all_ranks(self.students),
            "imitating": None if self.imitating is None else self._students_of_all_ranks(self.imitating),
        }

    def load_state_dict(self, state: Mapping[str, Any], *, with_students: bool = True) -> None:
        """Go on from a saved state.

        Args:
            state: as ``state_dict`` returned it, under any number of ranks.
            with_students: whether students go on too, or start anew.
        """
        self.outer_steps_done, self.num_skipped = state["outer_steps_done"], state["num_skipped"]
        self.last_validated, self.seconds = state["last_validated"], state["seconds"]
        with torch.no_grad():
            for name, weight in self.rule.named_parameters():
                weight.copy_(state["phi"][name])
        device = next(self.rule.parameters()).device
        self.best = None if state["best"] is None else Validation(**state["best"])
        self.best_phi = {name: weight.to(device) for name, weight in state["best_phi"].items()}
        self.averaged_phi = {
            name: weight.to(device) for name, weight in state.get("averaged_phi", state["phi"]).items()
        }
        self.optimizer.load_state_dict(state["optimizer"])
        if not with_students:
            return
        self.students.load_state_dict(state["students"])
        if state["imitating"] is None:
            self.imitating = None
        elif self.imitating is not None:
            self.imitating.load_state_dict(state["imitating"])

    def _students_of_all_ranks(self, students: Students) -> list[dict[str, Any]]:
        return [student for of_rank in self.ranks.gather(students.state_dict()) for student in of_rank]
