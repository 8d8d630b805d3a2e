"""What determines a specialisation."""

from dataclasses import asdict, dataclass
from typing import Any

from l2l_opt.checks import check_choices, check_numbers, check_positive_integers, check_positive_numbers
from l2l_opt.meta_training.estimators.meta_loss import SPLITS
from l2l_opt.pretrained import DEFAULT
from l2l_opt.tasks.base import Split
from l2l_opt.types import DTYPES


@dataclass(frozen=True)
class SpecialiseOptions:
    """What determines a specialisation, as ``run.json`` has it.

    Attributes:
        task: the notation of the task, or a name of the user's own.
        rule: a shipped name, a path, or a registered name, which begins from fresh weights.
        minutes: of meta-training.
        horizon: inner steps of a training.
        loss_on: the split whose losses count; with ``"test"`` a part of the training examples stands for it.
        seed: of everything random.
        device: of students.
        dtype: of students, ``"float32"`` or ``"float64"``.
        baselines: that the result is compared with, tuned.
        seeds: students that it is reported on.
        tuning_seeds: others, that baselines are tuned on.
        checks: other tasks of the kind and other lengths, as ``comparison.changed`` reads them.
    """

    task: str
    rule: str = DEFAULT
    minutes: float = 10.0
    horizon: int = 250
    loss_on: Split = "train"
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    baselines: tuple[str, ...] = ("adamw", "muon")
    seeds: int = 10
    tuning_seeds: int = 5
    checks: tuple[str, ...] = ()

    CHANGEABLE = ("baselines", "seeds", "tuning_seeds", "checks")
    """What may be other when a run goes on, since nothing learned depends on it."""

    def __post_init__(self) -> None:
        check_positive_numbers(10, minutes=self.minutes)
        check_positive_integers(5, horizon=self.horizon, seeds=self.seeds, tuning_seeds=self.tuning_seeds)
        check_choices(SPLITS, loss_on=self.loss_on)
        check_choices(DTYPES, dtype=self.dtype)
        check_numbers(0, seed=self.seed)

    def plain(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {key: list(getattr(self, key)) for key in ("baselines", "checks")}
