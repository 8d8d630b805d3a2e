"""The contract of a meta-gradient estimator: how phi's gradient is got from students' losses."""

import abc
from dataclasses import dataclass

from torch import Tensor

from l2l_opt.estimators.meta_loss import MetaLoss
from l2l_opt.registry import Registry
from l2l_opt.rules.base import UpdateRule
from l2l_opt.schedules import Horizon
from l2l_opt.students import Students
from l2l_opt.tasks.base import TaskFamily
from l2l_opt.types import Params


@dataclass(frozen=True)
class MetaGradient:
    """What one outer step has learned of phi.

    Attributes:
        gradients: weight name -> d meta-loss / d phi.
        meta_loss: 0-dim, the objective on the students of this outer step.
        losses: ``[K + 1, S]``, the students' training losses.
    """

    gradients: Params
    meta_loss: Tensor
    losses: Tensor


class MetaGradientEstimator(abc.ABC):
    """Estimates d meta-loss / d phi from students that go on from one outer step to the next.

    Attributes:
        horizon: of the students' episodes.
        meta_loss: the objective, by whose normalisation phi is also validated.
    """

    horizon: Horizon
    meta_loss: MetaLoss

    @abc.abstractmethod
    def init(self, rule: UpdateRule, family: TaskFamily, *, num_students: int, seed: int) -> Students:
        """Start the students of a meta-training run."""

    @abc.abstractmethod
    def estimate(self, rule: UpdateRule, students: Students) -> tuple[MetaGradient, Students]:
        """Let the students go one outer step further, and say what it teaches.

        Returns:
            The meta-gradient, and the students after it (moved on in place).
        """


ESTIMATORS: Registry[MetaGradientEstimator] = Registry("estimator")
