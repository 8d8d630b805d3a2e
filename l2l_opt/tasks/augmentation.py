"""Random changes of scale that leave a task what it is, so that a rule learns not to depend on them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from l2l_opt.tasks.base import Split, TaskFamily, check_second_derivatives, updated_data
from l2l_opt.tasks.mixture import TaskMixture, Tasks
from l2l_opt.types import Batch, Params, TaskData

SCALE = "augmentation_scale/"
LOSS_SCALE = "augmentation_loss_scale"


@dataclass(frozen=True)
class Scales:
    """Log-uniform between two positive bounds.

    Raises:
        ValueError: bounds that are not positive or not in order.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high < math.inf:
            raise ValueError(
                f"scales must be positive and in order; got {self.low} and {self.high}, use e.g. 1e-3..1e3"
            )

    @classmethod
    def parse(cls, text: str) -> "Scales":
        """Read ``1e-3..1e3``."""
        low, _, high = text.partition("..")
        try:
            return cls(float(low), float(high))
        except ValueError:
            raise ValueError(f"scales must read LOW..HIGH, both positive; got {text!r}, use e.g. 1e-3..1e3") from None

    def draw(self, generator: torch.Generator) -> float:
        uniform = float(torch.rand((), generator=generator, dtype=torch.float64))
        return self.low * (self.high / self.low) ** uniform


class AugmentedFamily:
    """``f'(theta') = c f(s theta')`` with a scale s for each tensor and c for the loss, drawn for each student.

    Fresh params are ``theta / s``, so the student computes what it did before.

    Args:
        family: the task.
        reparametrise: of s; None for 1.
        loss_scale: of c; None for 1.

    Source: random scaling: arXiv 1703.03633, section 4.2; of whole tensors: arXiv 2602.19142.
    """

    def __init__(self, family: TaskFamily, *, reparametrise: Scales | None = None, loss_scale: Scales | None = None):
        self.family, self.reparametrise, self.loss_scale = family, reparametrise, loss_scale
        if hasattr(family, "update_data"):
            self.update_data = self._update_data

    def sample(self, generator: torch.Generator) -> TaskData:
        data = self.family.sample(generator)
        params = self.family.init_params(data, torch.Generator().manual_seed(0))
        like = next(iter(params.values()))
        added: TaskData = {}
        if self.reparametrise is not None:
            for name, param in params.items():
                added[SCALE + name] = param.new_tensor(self.reparametrise.draw(generator))
        if self.loss_scale is not None:
            added[LOSS_SCALE] = like.new_tensor(self.loss_scale.draw(generator))
        return data | added

    def init_params(self, data: TaskData, generator: torch.Generator) -> Params:
        params = self.family.init_params(_without(data), generator)
        return {name: param / data[SCALE + name] if SCALE + name in data else param for name, param in params.items()}

    def sample_batch(self, data: TaskData, generator: torch.Generator, split: Split = "train") -> Batch:
        return self.family.sample_batch(_without(data), generator, split)

    def check_second_derivatives(self) -> None:
        check_second_derivatives(self.family)

    def _update_data(self, params: Params, data: TaskData, batch: Batch) -> TaskData:
        return data | updated_data(self.family, _scaled(params, data), _without(data), batch)

    def loss(self, params: Params, data: TaskData, batch: Batch) -> Tensor:
        loss = self.family.loss(_scaled(params, data), _without(data), batch)
        return loss * data[LOSS_SCALE] if LOSS_SCALE in data else loss


def augment(tasks: Tasks, *, reparametrise: Scales | None = None, loss_scale: Scales | None = None) -> Tasks:
    """The same tasks with every family augmented; unchanged where there is nothing to do."""
    if reparametrise is None and loss_scale is None:
        return tasks

    def transform(family: TaskFamily) -> TaskFamily:
        return AugmentedFamily(family, reparametrise=reparametrise, loss_scale=loss_scale)

    return tasks.transformed(transform) if isinstance(tasks, TaskMixture) else transform(tasks)


def _scaled(params: Params, data: TaskData) -> Params:
    return {name: param * data[SCALE + name] if SCALE + name in data else param for name, param in params.items()}


def _without(data: TaskData) -> TaskData:
    return {key: value for key, value in data.items() if not key.startswith((SCALE, LOSS_SCALE))}
