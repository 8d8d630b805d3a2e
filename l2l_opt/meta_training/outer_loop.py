"""An outer loop: steps on what is learned, validation on the way, the best kept; stopped and gone on from anywhere."""

import abc
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from l2l_opt.meta_training.ranks import Ranks
from l2l_opt.rules.base import UpdateRule
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
        coordinate_steps: updates of single coordinates of students, in this process.
        norms: weight name -> Euclidean norm of its part of the meta-gradient, before clipping.
    """

    number: int
    meta_loss: float
    meta_gradient_norm: float
    meta_lr: float
    skipped: bool
    seconds: float
    coordinate_steps: int
    norms: dict[str, float]

    @property
    def coordinates_per_second(self) -> float:
        """Throughput of this process, its share of everything that an outer step does included."""
        return self.coordinate_steps / self.seconds


@dataclass(frozen=True)
class Validation:
    """How good what is learned was at one outer step, on students that meta-training never sees.

    Attributes:
        outer_step: outer steps done.
        figure: mean final loss over the validation students (of log(final / initial loss) where the meta-loss is
            normalised by log); infinite where one diverged.
        curve: ``[horizon]``, the mean training loss at each inner step.
    """

    outer_step: int
    figure: float
    curve: Tensor


class OuterLoop(abc.ABC):
    """What ``MetaTrainer`` and ``few_shot.MetaLearner`` share.

    Attributes:
        rule: the teacher.
        outer_steps: planned outer steps.
        outer_steps_done: taken so far.
        num_skipped: those among them whose meta-gradient was not finite.
        seconds: that they took.
        seed: of everything random.
        validate_every: outer steps between validations, 0 for only one at the end.
        last_validated: outer steps done at the last validation.
        best: the best validation so far.
        ranks: the processes that share this work.
        optimizer: of what is learned.
        meta_lr: its learning rate, before the schedule.
        meta_lr_schedule: ``"constant"`` or ``"cosine"`` over the planned outer steps.
        clip_norm: bound on the meta-gradient's Euclidean norm.
    """

    rule: UpdateRule
    outer_steps: int
    outer_steps_done: int
    num_skipped: int
    seconds: float
    seed: int
    validate_every: int
    last_validated: int
    best: Validation | None
    ranks: Ranks
    optimizer: torch.optim.Optimizer
    meta_lr: float
    meta_lr_schedule: str
    clip_norm: float

    @abc.abstractmethod
    def outer_step(self) -> OuterStep:
        """Take one outer step."""

    @abc.abstractmethod
    def validate(self) -> Validation:
        """Judge what is learned as it is; does not change the loop."""

    @abc.abstractmethod
    def consider(self, validation: Validation) -> None:
        """Keep what is learned as the best if this validation of it beats the best so far."""

    @abc.abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """All that a killed run needs to go on bit for bit: tensors and plain values."""

    @abc.abstractmethod
    def load_state_dict(self, state: Mapping[str, Any], *, with_students: bool = True) -> None:
        """Go on from what ``state_dict`` returned."""

    def descend(self, weights: Params) -> tuple[float, float, bool, dict[str, float]]:
        """Step along the gradients of ``weights``, clipped, and clear them; one that is not finite is counted instead.

        Returns:
            The gradient's Euclidean norm before clipping, the meta-learning rate, whether the step was skipped, and
            the norm of each tensor's part.
        """
        norms = [
            torch.zeros((), dtype=torch.float64)
            if weight.grad is None
            else torch.linalg.vector_norm(weight.grad).double().cpu()
            for weight in weights.values()
        ]
        by_weight = dict(zip(weights, torch.stack(norms).tolist(), strict=True))
        norm = float(torch.nn.utils.clip_grad_norm_(weights.values(), self.clip_norm))
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
        return norm, meta_lr, skipped, by_weight

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


def meta_learning_rate(base: float, outer_step: int, outer_steps: int, *, schedule: str) -> float:
    """The meta-learning rate of one outer step: ``base``, or ``base (1 + cos(pi t / T)) / 2``.

    Raises:
        ValueError: an unknown schedule.
    """
    if schedule == "constant":
        return base
    if schedule == "cosine":
        return base * (1 + math.cos(math.pi * min(outer_step / outer_steps, 1.0))) / 2
    raise ValueError(f"meta_lr_schedule must be 'constant' or 'cosine'; got {schedule!r}, use one of these")
