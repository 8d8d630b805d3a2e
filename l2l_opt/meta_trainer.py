"""The outer loop: Adam on phi, validation on fixed students, the best rule kept."""

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from l2l_opt.estimators.base import MetaGradientEstimator
from l2l_opt.randomness import Stream
from l2l_opt.rules.base import UpdateRule
from l2l_opt.schedules import meta_learning_rate
from l2l_opt.students import final_losses, training_losses
from l2l_opt.tasks.base import TaskFamily
from l2l_opt.types import Params


@dataclass(frozen=True)
class OuterStep:
    """What one outer step did.

    Attributes:
        number: outer steps done, this one included.
        meta_loss: the objective.
        meta_gradient_norm: Euclidean norm before clipping.
        meta_lr: the meta-learning rate it took.
        skipped: whether the meta-gradient was not finite, and phi left alone.
        seconds: wall-clock seconds.
    """

    number: int
    meta_loss: float
    meta_gradient_norm: float
    meta_lr: float
    skipped: bool
    seconds: float


@dataclass(frozen=True)
class Validation:
    """How good phi was at one outer step, on students that meta-training never sees.

    Attributes:
        outer_step: outer steps done.
        figure: mean final loss over the validation students (of log(final / initial loss) where the meta-loss is
            normalised by log); infinite where one diverged.
        curve: ``[horizon]``, the mean training loss at each inner step.
    """

    outer_step: int
    figure: float
    curve: Tensor


class MetaTrainer:
    """Meta-trains a rule: one Adam step on phi for each meta-gradient.

    Args:
        rule: the teacher; its weights are changed in place.
        family: the meta-training tasks.
        estimator: where meta-gradients come from.
        outer_steps: planned outer steps, to which schedules refer.
        num_students: students trained side by side.
        meta_lr: Adam's learning rate on phi.
        meta_lr_schedule: ``"constant"`` or ``"cosine"`` over the planned outer steps.
        clip_norm: bound on the meta-gradient's Euclidean norm.
        validate_every: outer steps between validations, 0 for only one at the end.
        validation_students: students a validation trains.
        validation_horizon: inner steps of each; the longest horizon of meta-training where None.
        seed: of everything random.

    Attributes:
        outer_steps_done: outer steps taken so far.
        num_skipped: those among them whose meta-gradient was not finite.
        best: the best validation so far, None before the first.
        best_phi: phi at that point.

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
        family: TaskFamily,
        estimator: MetaGradientEstimator,
        *,
        outer_steps: int,
        num_students: int = 8,
        meta_lr: float = 1e-3,
        meta_lr_schedule: str = "constant",
        clip_norm: float = 1.0,
        validate_every: int = 20,
        validation_students: int = 8,
        validation_horizon: int | None = None,
        seed: int = 0,
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
        if validate_every < 0:
            raise ValueError(f"validate_every must not be negative; got {validate_every}, use 0 for only at the end")
        meta_learning_rate(meta_lr, 0, outer_steps, schedule=meta_lr_schedule)
        self.rule, self.family, self.estimator = rule, family, estimator
        self.outer_steps, self.seed = outer_steps, seed
        self.meta_lr, self.meta_lr_schedule, self.clip_norm = meta_lr, meta_lr_schedule, clip_norm
        self.validate_every, self.validation_students = validate_every, validation_students
        self.validation_horizon = validation_horizon or estimator.horizon.longest
        self.students = estimator.init(rule, family, num_students=num_students, seed=seed)
        self.optimizer = torch.optim.Adam(rule.parameters(), lr=meta_lr)
        self.outer_steps_done = 0
        self.num_skipped = 0
        self.best: Validation | None = None
        self.best_phi: Params = self._phi()
        self.last_validated = -1
        self.seconds = 0.0

    def outer_step(self) -> OuterStep:
        """Take one outer step. A meta-gradient that is not finite is counted, and changes neither phi nor Adam."""
        start = time.perf_counter()
        meta_gradient, self.students = self.estimator.estimate(self.rule, self.students)
        for name, weight in self.rule.named_parameters():
            weight.grad = meta_gradient.gradients[name]
        norm = float(torch.nn.utils.clip_grad_norm_(self.rule.parameters(), self.clip_norm))
        meta_lr = meta_learning_rate(
            self.meta_lr, self.outer_steps_done, self.outer_steps, schedule=self.meta_lr_schedule
        )
        skipped = not math.isfinite(norm)
        if skipped:
            self.num_skipped += 1
        else:
            self.optimizer.param_groups[0]["lr"] = meta_lr
            self.optimizer.step()
        self.optimizer.zero_grad()
        self.outer_steps_done += 1
        seconds = time.perf_counter() - start
        self.seconds += seconds
        return OuterStep(self.outer_steps_done, float(meta_gradient.meta_loss), norm, meta_lr, skipped, seconds)

    def validate(self) -> Validation:
        """Train the validation students with phi as it is; does not change the trainer."""
        curves = training_losses(
            self.rule,
            self.family,
            numbers=range(self.validation_students),
            horizon=self.validation_horizon,
            seed=self.seed,
            stream=Stream.VALIDATION,
        )
        figure = float(self.estimator.meta_loss.normalise(final_losses(curves), curves[0]).mean())
        figure = figure if math.isfinite(figure) else math.inf
        return Validation(self.outer_steps_done, figure, curves.mean(dim=1))

    def consider(self, validation: Validation) -> None:
        """Keep phi as the best if this validation of it beats the best so far."""
        if self.best is None or validation.figure < self.best.figure:
            self.best, self.best_phi = validation, self._phi()

    def run(
        self,
        *,
        should_stop: Callable[[], bool] = lambda: False,
        on_outer_step: Callable[[OuterStep], Any] = lambda step: None,
        on_validation: Callable[[Validation], Any] = lambda validation: None,
    ) -> bool:
        """Take outer steps until all are done or ``should_stop()``, validating on the way.

        Returns:
            Whether all planned outer steps are done.
        """
        while not should_stop():
            done = self.outer_steps_done
            last = done == self.outer_steps
            due = last or (self.validate_every > 0 and done % self.validate_every == 0)
            if due and self.last_validated != done:
                validation = self.validate()
                self.consider(validation)
                self.last_validated = done
                on_validation(validation)
            if last:
                return True
            on_outer_step(self.outer_step())
        return False

    def best_rule(self) -> UpdateRule:
        """The rule with its best weights; shares none with the one in training."""
        rule = copy.deepcopy(self.rule)
        for name, weight in rule.named_parameters():
            weight.data = self.best_phi[name].clone()
        return rule

    def _phi(self) -> Params:
        return {name: weight.detach().clone() for name, weight in self.rule.named_parameters()}

    def state_dict(self) -> dict[str, Any]:
        """All that a killed run needs to go on bit for bit: tensors and plain values."""
        best = None if self.best is None else asdict(self.best)
        return {
            "outer_steps_done": self.outer_steps_done,
            "num_skipped": self.num_skipped,
            "last_validated": self.last_validated,
            "seconds": self.seconds,
            "phi": self._phi(),
            "best": best,
            "best_phi": self.best_phi,
            "optimizer": self.optimizer.state_dict(),
            "students": self.students.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.outer_steps_done, self.num_skipped = state["outer_steps_done"], state["num_skipped"]
        self.last_validated, self.seconds = state["last_validated"], state["seconds"]
        with torch.no_grad():
            for name, weight in self.rule.named_parameters():
                weight.copy_(state["phi"][name])
        device = next(self.rule.parameters()).device
        self.best = None if state["best"] is None else Validation(**state["best"])
        self.best_phi = {name: weight.to(device) for name, weight in state["best_phi"].items()}
        self.optimizer.load_state_dict(state["optimizer"])
        self.students.load_state_dict(state["students"])
