"""The contract of a meta-gradient estimator: from students' losses to the gradient of the rule's weights."""

import abc
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from l2l_opt.inner_loop.compiled import CompiledSteps
from l2l_opt.inner_loop.horizon import Horizon
from l2l_opt.inner_loop.students import Students
from l2l_opt.meta_training.estimators.meta_loss import MetaLoss
from l2l_opt.randomness import Stream
from l2l_opt.registry import Registry
from l2l_opt.rules.base import UpdateRule
from l2l_opt.tasks.mixture import Tasks
from l2l_opt.types import Params


@dataclass(frozen=True)
class MetaGradient:
    """What one outer step has found.

    Attributes:
        gradients: weight name -> d meta-loss / d phi, the mean over students.
        meta_loss: 0-dim, the objective on the students of this outer step.
        losses: ``[K + 1, S * particles]``, the students' losses; NaN beyond the end of a shorter inner run.
    """

    gradients: Params
    meta_loss: Tensor
    losses: Tensor


@dataclass(kw_only=True, eq=False)
class MetaGradientEstimator(abc.ABC):
    """Estimate d meta-loss / d phi from students that go on from one outer step to the next.

    Attributes:
        horizon: inner steps from fresh params to reset: a number, ``"100..2000"`` for log-uniform,
            ``"100..2000:growing"``, or a ``Horizon``.
        truncation_length: K, inner steps of a truncation window; it divides the horizon.
        meta_loss: the objective; the plain sum of losses by default.
        staggered: cut first inner runs at random, so that not all students end together ever after.
        group_size: students that share an architecture; 1 for a single family and all for a mixture where None.
        compile: compile students' losses and gradients, and the rule's step where no kernel computes it, for each
            architecture anew (``CompiledSteps``).
        horizons: ``horizon`` as it was read.
        num_particles: copies of each student that are trained under a phi of their own.

    Raises:
        ValueError: a truncation length that is longer than the horizon or does not divide it.
    """

    num_particles: ClassVar[int] = 1

    horizon: int | str | Horizon = 100
    truncation_length: int = 20
    meta_loss: MetaLoss = field(default_factory=MetaLoss)
    staggered: bool = False
    group_size: int | None = None
    compile: bool = False
    horizons: Horizon = field(init=False)
    compiled: CompiledSteps | None = field(init=False)

    def __post_init__(self) -> None:
        self.meta_loss = self.meta_loss or MetaLoss()
        self.compiled = CompiledSteps() if self.compile else None
        self.horizons = Horizon.parse(str(self.horizon), truncation_length=self.truncation_length)

    def init(
        self, rule: UpdateRule, family: Tasks, *, num_students: int, seed: int, numbers: Sequence[int] | None = None
    ) -> Students:
        """Start the students of a meta-training run.

        Args:
            rule: the update rule.
            family: where students come from.
            num_students: of the whole run.
            seed: of the run.
            numbers: those among them that are this process's; all where None.
        """
        group_size = self.group_size if self.group_size is not None else self.default_group_size(num_students)
        return Students(
            rule,
            family,
            numbers=range(num_students) if numbers is None else numbers,
            horizon=self.horizons,
            seed=seed,
            stream=Stream.META_TRAINING,
            num_particles=self.num_particles,
            group_size=group_size,
            staggered=self.staggered,
            loss_on=self.meta_loss.loss_on,
        )

    @property
    def steps_in_graph(self) -> int:
        """Inner steps whose graph is in memory at one time, 0 where nothing is differentiated; plans count on it."""
        return 0

    def default_group_size(self, num_students: int) -> int | None:
        """Students that share an architecture and horizon where ``group_size`` is None."""
        return None

    @abc.abstractmethod
    def estimate(self, rule: UpdateRule, students: Students) -> tuple[MetaGradient, Students]:
        """Take the students one outer step further.

        Returns:
            The meta-gradient, and the students after it (moved on in place).
        """


ESTIMATORS: Registry[MetaGradientEstimator] = Registry("estimator")
