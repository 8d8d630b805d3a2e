"""How a specialisation spends its minutes: decided once, from a measurement of this machine, before the first step."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from l2l_opt.evaluation.statistics import fall_below_zero
from l2l_opt.inner_loop.training import training_losses
from l2l_opt.meta_training.estimators import ESTIMATORS, MetaGradientEstimator, MetaLoss
from l2l_opt.meta_training.planning import plan as plan_run
from l2l_opt.meta_training.planning import plan_of_students, seconds_of_outer_step
from l2l_opt.meta_training.trainer import MetaTrainer
from l2l_opt.randomness import Stream
from l2l_opt.registry import parse_spec
from l2l_opt.rules.base import UpdateRule
from l2l_opt.specialising.stages import Stage, stages_of
from l2l_opt.tasks.base import Split
from l2l_opt.tasks.mixture import Tasks

FEWEST_OUTER_STEPS = 100
"""Fewer learn little, so that students are halved first."""
FEWEST_STUDENTS, MOST_STUDENTS = 4, 128
MOST_VALIDATIONS, FEWEST_VALIDATIONS = 8, 2
"""Of each stage, beside the one before its first step."""
VALIDATION_STUDENTS, FEWEST_VALIDATION_STUDENTS = 32, 8
VALIDATED = 0.25
"""Of a stage's time, what validations may take; where they take more there are fewer, and then of fewer students."""
PROBED = 4
"""Students that show whether losses fall below zero."""
KEPT_BACK = 0.1
"""Of the time: for choosing in the end, and since no measurement is exact."""


@dataclass(frozen=True)
class Objective:
    """What a rule is specialised on.

    Attributes:
        horizon: inner steps of a training.
        loss_on: the split whose losses count.
        seed: of everything random.
        normalisation: of losses in the meta-loss: ``"log"``, or ``"none"`` for a task whose losses fall below zero.
    """

    horizon: int
    loss_on: Split
    seed: int
    normalisation: str = "log"

    def __post_init__(self) -> None:
        if self.horizon < 2:
            raise ValueError(f"horizon must be 2 steps or more; got {self.horizon}, use e.g. 250")

    def estimator(self, stage: "PlannedStage") -> MetaGradientEstimator:
        """Make the estimator of a stage."""
        name, options = parse_spec(stage.estimator)
        return ESTIMATORS.make(
            name,
            horizon=self.horizon,
            truncation_length=stage.truncation_length,
            staggered=True,
            meta_loss=MetaLoss(
                "progress", self.normalisation, 1.0 if self.normalisation == "log" else None, self.loss_on
            ),
            **options,
        )

    def trainer(self, rule: UpdateRule, tasks: Tasks, stage: "PlannedStage") -> MetaTrainer:
        """Make a fresh trainer of a stage.

        Args:
            rule: whose weights it changes in place.
            tasks: where students come from.
            stage: as planned.
        """
        return MetaTrainer(
            rule,
            tasks,
            self.estimator(stage),
            outer_steps=stage.outer_steps,
            num_students=stage.students,
            meta_lr=stage.meta_lr,
            meta_lr_schedule="cosine",
            average_phi=stage.average_phi,
            validate_every=max(stage.outer_steps // stage.validations, 1),
            validation_students=stage.validation_students,
            seed=self.seed,
        )

    def suited_to(self, rule: UpdateRule, tasks: Tasks) -> "Objective":
        """Choose the normalisation of losses that a few trainings with the rule ask for.

        Args:
            rule: to train with.
            tasks: where students come from.

        Raises:
            ValueError: not a single loss is finite.
        """
        curves = training_losses(
            rule,
            tasks,
            numbers=range(PROBED),
            horizon=self.horizon,
            seed=self.seed,
            stream=Stream.VALIDATION,
            loss_on=self.loss_on,
        ).double()
        if not curves.isfinite().any():
            raise ValueError(
                f"some loss must be finite; got infinity or NaN in all of {PROBED} trainings with the rule, use a task "
                "whose loss and gradients are finite"
            )
        below = fall_below_zero(curves.numpy(), float(curves[0].mean()))
        return replace(self, normalisation="none" if below else "log")


@dataclass(frozen=True)
class PlannedStage:
    """A stage with its numbers, as ``run.json`` has it.

    Attributes:
        estimator, share, meta_lr, average_phi: as the stage has them.
        students: side by side.
        truncation_length: inner steps of a window.
        outer_steps: of the meta-optimizer.
        validations: on the way, beside the one before the first step.
        validation_students: of each.
        seconds_per_outer_step: as measured.
        minutes: expected.
    """

    estimator: str
    share: float
    meta_lr: float
    average_phi: float
    students: int
    truncation_length: int
    outer_steps: int = 1
    validations: int = MOST_VALIDATIONS
    validation_students: int = VALIDATION_STUDENTS
    seconds_per_outer_step: float = math.nan
    minutes: float = math.nan

    def record(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def make_plan(
    rule: UpdateRule,
    tasks: Tasks,
    objective: Objective,
    *,
    minutes: float,
    stages: Sequence[Stage] | None = None,
    say: Callable[[str], Any] = lambda message: None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[PlannedStage]:
    """Measure the machine on this task, and decide students, windows and outer steps.

    Args:
        rule: that is specialised; unchanged.
        tasks: where students come from.
        objective: what counts.
        minutes: for all stages.
        stages: what is meta-trained; that of its kind of rule where None.
        say: given what was found.
        clock: what minutes are of; ``time.process_time`` for those of the processor, which no other program shares.

    Raises:
        ValueError: minutes that are not positive; students that do not fit into memory.
    """
    if not 0 < minutes < math.inf:
        raise ValueError(f"minutes must be a positive number; got {minutes}, use e.g. 10")
    found, speeds = [], dict[tuple[str, int], Speed]()
    for stage in stages or stages_of(rule.registry_name):
        length = longest_window(objective.horizon, stage.truncation_length)
        planned = PlannedStage(stage.estimator, stage.share, stage.meta_lr, stage.average_phi, stage.students, length)
        # Which weights are learned does not change what a window costs.
        key = (parse_spec(stage.estimator)[0], length)
        if key not in speeds:
            speeds[key] = Speed.on(rule, tasks, objective, planned, clock)
        planned = _fitted(
            planned, objective, speeds[key], 60 * minutes * stage.share * (1 - KEPT_BACK), stage.most_outer_steps
        )
        say(
            f"planned: {planned.outer_steps} outer steps of {planned.students} students by {planned.estimator}, "
            f"windows of {planned.truncation_length} of {objective.horizon} steps, {planned.minutes:.1f} minutes"
        )
        found.append(planned)
    plan_run(
        objective.trainer(rule, tasks, max(found, key=lambda own: own.students)), with_time=False
    ).refuse_what_cannot_fit()
    return found


@dataclass(frozen=True)
class Speed:
    """Seconds of an outer step as a function of students: measured for some, on a line between and beyond them.

    Attributes:
        measure: seconds of an outer step of so many students; None where they do not fit into memory.
        measured: students -> seconds.
    """

    measure: Callable[[int], float | None]
    measured: dict[int, float] = field(default_factory=lambda: {0: 0.0})

    @classmethod
    def on(
        cls,
        rule: UpdateRule,
        tasks: Tasks,
        objective: Objective,
        planned: PlannedStage,
        clock: Callable[[], float] = time.perf_counter,
    ) -> "Speed":
        """Measure few students, and as many as a stage has or a validation.

        Args:
            rule: that is specialised.
            tasks: where students come from.
            objective: what counts.
            planned: the stage.
            clock: what seconds are read from.

        Raises:
            ValueError: even few students do not fit into memory.
        """

        def trainer_of(students: int) -> MetaTrainer:
            return objective.trainer(rule, tasks, replace(planned, students=students))

        def measure(students: int) -> float | None:
            trainer = trainer_of(students)
            return seconds_of_outer_step(trainer, clock) if plan_of_students(trainer).fits() else None

        plan_of_students(trainer_of(FEWEST_STUDENTS)).refuse_what_cannot_fit()
        speed = cls(measure)
        speed.take(FEWEST_STUDENTS)
        if not speed.take(max(planned.students, VALIDATION_STUDENTS)):
            speed.take(planned.students)
        return speed

    def take(self, students: int) -> bool:
        """Measure so many students, unless they were; whether they fit into memory."""
        found = self.measured.get(students) or self.measure(students)
        if found is not None:
            self.measured[students] = found
        return found is not None

    def of(self, students: int) -> float:
        """Return the seconds of an outer step, as measured or as predicted."""
        if students in self.measured:
            return self.measured[students]
        known = sorted(self.measured)
        above = next((own for own in known if own > students), known[-1])
        below = known[known.index(above) - 1]
        slope = (self.measured[above] - self.measured[below]) / (above - below)
        return self.measured[below] + max(slope, 0.0) * (students - below)


def _fitted(planned: PlannedStage, objective: Objective, speed: Speed, seconds: float, most: int) -> PlannedStage:
    """Choose students, at most so many outer steps and validations of a stage for so many seconds."""
    particles = objective.estimator(planned).num_particles
    windows = objective.horizon / planned.truncation_length
    of_validation = windows * max(speed.of(VALIDATION_STUDENTS) / particles, 1e-6)
    validations = int(min(max(VALIDATED * seconds / of_validation - 1, FEWEST_VALIDATIONS), MOST_VALIDATIONS))
    validation_students = VALIDATION_STUDENTS
    while (validations + 1) * of_validation > VALIDATED * seconds and validation_students > FEWEST_VALIDATION_STUDENTS:
        validation_students //= 2
        of_validation /= 2
    left = seconds - (validations + 1) * of_validation

    def count(students: int) -> int:
        return int(left / max(speed.of(students), 1e-6))

    students = planned.students
    while count(students) < FEWEST_OUTER_STEPS and students // 2 >= FEWEST_STUDENTS:
        students //= 2
    # Beyond what was measured a line promises too much: students of a mixture are of more architectures then.
    while count(students) > most and 2 * students <= MOST_STUDENTS and speed.take(2 * students):
        if count(2 * students) <= most:
            break
        students *= 2
    # Time that the most steps would leave goes to more students, as far as was measured.
    measured = range(students + 1, min(2 * students, max(speed.measured)))
    students = max((own for own in measured if count(own) >= most), default=students)
    steps, per_step = min(max(count(students), 1), most), speed.of(students)
    return replace(
        planned,
        students=students,
        outer_steps=steps,
        validations=validations,
        validation_students=validation_students,
        seconds_per_outer_step=per_step,
        minutes=min(steps * per_step + (validations + 1) * of_validation, seconds) / 60,
    )


def longest_window(horizon: int, most: int) -> int:
    """Find the longest window of at most so many steps that divides the horizon."""
    return next(length for length in range(min(most, horizon), 0, -1) if horizon % length == 0)
