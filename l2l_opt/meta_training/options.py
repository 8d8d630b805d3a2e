"""Options that every outer loop has, and the meta-learning rate that they make of an outer step."""

import math
from dataclasses import dataclass
from typing import ClassVar

from l2l_opt.checks import check_numbers, check_positive_integers, check_positive_numbers

SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True, kw_only=True)
class OuterOptions:
    """Options that every outer loop has.

    Attributes:
        outer_steps: planned outer steps, to which schedules refer.
        meta_lr: AdamW's learning rate on what is learned.
        meta_lr_schedule: ``"constant"`` or ``"cosine"`` over the planned outer steps.
        meta_weight_decay: AdamW's weight decay on what is learned.
        clip_norm: bound on the meta-gradient's Euclidean norm.
        average_phi: decay, in [0, 1), of a moving average of what is learned over outer steps. Validation evaluates the
            average and it is what is kept as the best, while meta-training goes on without it; 0 for no averaging.
        validate_every: outer steps between validations, 0 for only one at the end.
        seed: of everything random.

    Raises:
        ValueError: a number out of range.
    """

    POSITIVE: ClassVar[tuple[str, ...]] = ("outer_steps",)

    outer_steps: int
    meta_lr: float = 1e-3
    meta_lr_schedule: str = "constant"
    meta_weight_decay: float = 0.0
    clip_norm: float = 1.0
    average_phi: float = 0.0
    validate_every: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive_integers(100, **{key: getattr(self, key) for key in self.POSITIVE})
        check_positive_numbers(0.001, meta_lr=self.meta_lr, clip_norm=self.clip_norm)
        check_numbers(0, meta_weight_decay=self.meta_weight_decay)
        if not 0 <= self.average_phi < 1:
            raise ValueError(f"average_phi must lie in [0, 1); got {self.average_phi}, use e.g. 0.99, or 0 for none")
        if self.validate_every < 0:
            raise ValueError(
                f"validate_every must not be negative; got {self.validate_every}, use 0 for only at the end"
            )
        meta_learning_rate(self.meta_lr, 0, self.outer_steps, schedule=self.meta_lr_schedule)


def meta_learning_rate(base: float, outer_step: int, outer_steps: int, *, schedule: str) -> float:
    """Return the meta-learning rate of one outer step: ``base``, or ``base (1 + cos(pi t / T)) / 2``.

    Raises:
        ValueError: an unknown schedule.
    """
    if schedule == "constant":
        return base
    if schedule == "cosine":
        return base * (1 + math.cos(math.pi * min(outer_step / outer_steps, 1.0))) / 2
    raise ValueError(f"meta_lr_schedule must be 'constant' or 'cosine'; got {schedule!r}, use one of these")
