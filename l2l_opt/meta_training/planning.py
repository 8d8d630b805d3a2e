"""What a meta-training run will need, before it starts: memory, time and disk, from probes of a few inner steps.

Peak memory and seconds are affine in the inner steps whose graph is kept together (all of a window, or with gradient
checkpointing one segment), so two short windows predict the planned one. One student is probed before all of
them are, so that a probe never needs the memory that it is to warn of. Of a mixture the largest architecture of each
family decides memory, and random draws decide time.
"""

import copy
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch.utils._pytree import tree_leaves

from l2l_opt.inner_loop.training import training_losses
from l2l_opt.memory import available_bytes, gibibytes, peak_bytes, resident_bytes
from l2l_opt.meta_training.estimators.base import MetaGradientEstimator
from l2l_opt.meta_training.estimators.evolution_strategies import FullES
from l2l_opt.meta_training.trainer import MetaTrainer
from l2l_opt.randomness import Stream, make_generator
from l2l_opt.rules.base import UpdateRule
from l2l_opt.tasks.base import TaskFamily
from l2l_opt.tasks.mixture import TaskMixture, Tasks
from l2l_opt.types import Params

PROBES = (2, 6)
PROBES_OF_SEGMENTS = (4, 16)
"""Inner steps of the two probes of memory, without gradient checkpointing and with it: segments of 2 and 4."""
TIMED = (3, 12)
"""Inner steps of the two probes of time."""
REPEATS = 3
DRAWS = 12
"""Architectures of a mixture, at least, that time is averaged over."""
SHARE_FOR_PROBES = 0.5
"""Of the memory available, what a probe of all students may be expected to take."""


@dataclass(frozen=True)
class Plan:
    """What one process of a run needs.

    Attributes:
        student_parameters: least and greatest number of weights a student may have.
        peak_bytes: resident memory at the worst moment.
        available_bytes: of the device for this process, None where unknown.
        seconds_per_outer_step: mean; None where it was not asked for, or where the run cannot fit.
        checkpoint_bytes: one checkpoint on disk; two are kept.
    """

    student_parameters: tuple[int, int]
    peak_bytes: int
    available_bytes: int | None
    seconds_per_outer_step: float | None
    checkpoint_bytes: int

    def fits(self, num_processes: int = 1) -> bool:
        """Whether this machine has the memory for that many such processes."""
        return self.available_bytes is None or self.peak_bytes * num_processes <= self.available_bytes

    def refuse_what_cannot_fit(self, num_processes: int = 1) -> None:
        """Raise where this machine has not the memory.

        Raises:
            ValueError: predicted peak memory beyond what is available.
        """
        if not self.fits(num_processes):
            raise ValueError(
                f"a run must fit into memory; got a predicted peak of {gibibytes(self.peak_bytes * num_processes)} "
                f"with {gibibytes(self.available_bytes or 0)} available, use fewer --students, a shorter "
                "--truncation-length, --gradient-checkpointing or a smaller --task"
            )


def plan_of_students(trainer: MetaTrainer) -> Plan:
    """Return what the students' weights and states alone need, known from their shapes without making them.

    A lower bound of the peak: gradients that the unroll keeps, the students' own states, and the next.
    """
    rule, estimator, device = trainer.rule, trainer.estimator, _device(trainer)
    families = _largest(trainer.family)
    bytes_of_student = max(_bytes_of_student(rule, family) for family in families)
    bytes_of_gradients = max(_num_bytes(_fresh_params(family)) for family in families)
    particles = len(trainer.numbers) * estimator.num_particles
    return Plan(
        student_parameters=_student_parameters(trainer.family),
        peak_bytes=resident_bytes(device)
        + particles * (bytes_of_gradients * estimator.steps_in_graph + 2 * bytes_of_student),
        available_bytes=available_bytes(device),
        seconds_per_outer_step=None,
        checkpoint_bytes=4 * _num_bytes(trainer.weights) + particles * bytes_of_student,
    )


def plan(trainer: MetaTrainer, *, with_time: bool = True) -> Plan:
    """Predict what a run of this trainer needs; the trainer is not changed.

    Args:
        trainer: freshly built. Its students are started only where they have room, else the plan is that of the
            students alone.
        with_time: also probe seconds, which takes a few outer steps' worth.
    """
    bound, size = plan_of_students(trainer), trainer.ranks.size
    if not bound.fits(size):
        return bound
    available, families = bound.available_bytes, _largest(trainer.family)
    checkpoint_bytes = _checkpoint_bytes(trainer)
    peak = max(_peak_of_outer_step(trainer, family, available) for family in families)
    if peak <= (available or math.inf):
        peak = max(peak, *(_peak_of_validation(trainer, family) for family in families))
    found = replace(bound, peak_bytes=int(max(peak, bound.peak_bytes)), checkpoint_bytes=checkpoint_bytes)
    if not (with_time and found.fits(size)):
        return found
    return replace(found, seconds_per_outer_step=seconds_of_outer_step(trainer))


def _peak_of_outer_step(trainer: MetaTrainer, family: TaskFamily, available: int | None) -> float:
    device = _device(trainer)

    def peak_of(numbers: Sequence[int]) -> Callable[[int], float]:
        return lambda steps: peak_bytes(device, _outer_step(trainer, family, steps, numbers=numbers))

    def kept(steps: int) -> float:
        # Where nothing is differentiated, what still grows with the window are its batches.
        return _shorter(trainer.estimator, steps).steps_in_graph or steps

    length, together = trainer.estimator.truncation_length, _students_in_one_batch(trainer)
    probes = PROBES if kept(PROBES_OF_SEGMENTS[1]) == PROBES_OF_SEGMENTS[1] else PROBES_OF_SEGMENTS
    base = resident_bytes(device)
    # The first call loads operators, which is no memory of the unroll.
    _outer_step(trainer, family, 1, numbers=together[:1])()
    of_one = max(_through_probes(peak_of(together[:1]), (1, 2), min(probes[1], length), kept) - base, 0)
    if available is not None and base + of_one * len(together) > SHARE_FOR_PROBES * available:
        whole = _through_probes(peak_of(together[:1]), (1, 2), length, kept) - base
        return base + whole * len(together)
    return _through_probes(peak_of(together), probes, length, kept)


def _students_in_one_batch(trainer: MetaTrainer) -> Sequence[int]:
    """Those that may share an architecture: one group where options vary within ranges, all otherwise."""
    tasks = trainer.family
    varies = isinstance(tasks, TaskMixture) and any(component.has_range for component in tasks.components)
    return trainer.numbers[: trainer.students.group_size] if varies else trainer.numbers


def _peak_of_validation(trainer: MetaTrainer, family: TaskFamily) -> float:
    device = _device(trainer)

    def measure(steps: int) -> float:
        return peak_bytes(
            device,
            lambda: training_losses(
                trainer.rule,
                family,
                numbers=trainer.ranks.share(range(trainer.options.validation_students)),
                horizon=steps,
                seed=0,
                stream=Stream.VALIDATION,
                group_size=trainer.validation_group_size,
            ),
        )

    return _through_probes(measure, PROBES, min(50, trainer.validation_horizon), float)


def _shorter(estimator: MetaGradientEstimator, steps: int) -> MetaGradientEstimator:
    shorter = copy.copy(estimator)
    shorter.truncation_length = steps
    # Each number of students would be compiled for anew, for a few steps.
    shorter.compiled = None
    return shorter


def _outer_step(
    trainer: MetaTrainer, tasks: Tasks, steps: int, *, numbers: Sequence[int], seed: int = 0
) -> Callable[[], object]:
    """One outer step of fewer inner steps, on students of its own."""
    whole_runs = isinstance(trainer.estimator, FullES)
    length = min(steps, trainer.estimator.truncation_length) if whole_runs else steps
    estimator = _shorter(trainer.estimator, length)
    students = estimator.init(
        trainer.rule, tasks, num_students=trainer.options.num_students, seed=seed, numbers=numbers
    )
    for student in students.members:
        student.run_length = steps if whole_runs else max(student.horizon, steps + 1)
    return lambda: estimator.estimate(trainer.rule, students)


def _through_probes(
    measure: Callable[[int], float], probes: tuple[int, int], length: float, of: Callable[[int], float]
) -> float:
    """Extrapolate ``of(steps)`` to ``length`` by two measurements and a line; never less than the longer one."""
    short, long = measure(probes[0]), measure(probes[1])
    slope = max((long - short) / (of(probes[1]) - of(probes[0])), 0.0)
    return max(long + slope * (of(int(length)) - of(probes[1])), long if length >= probes[1] else 0.0)


def seconds_of_outer_step(trainer: MetaTrainer, clock: Callable[[], float] = time.perf_counter) -> float:
    """Mean seconds of an outer step: over architectures, over horizons, and with its share of fresh students.

    Args:
        trainer: unchanged.
        clock: what seconds are read from; ``time.process_time`` for those of the processor.
    """
    estimator, horizon = trainer.estimator, trainer.estimator.horizons.mean
    seeds = [0]
    if isinstance(trainer.family, TaskMixture):
        groups = len({number // trainer.students.group_size for number in trainer.numbers})
        seeds = list(range(-(-DRAWS // groups)))
    length, probes = float(estimator.truncation_length), TIMED
    if isinstance(estimator, FullES):
        # Its edges between windows take time too.
        length, probes = horizon, (estimator.truncation_length, 2 * estimator.truncation_length)

    def measure(steps: int) -> float:
        return statistics.mean(_median_seconds(trainer, steps, seed, clock) for seed in seeds)

    start = clock()
    for seed in seeds:
        # Seeds of their own, since families that were drawn before are ready made.
        _outer_step(trainer, trainer.family, 1, numbers=trainer.numbers, seed=len(seeds) + seed)
    of_fresh_students = (clock() - start) / len(seeds)
    return _through_probes(measure, probes, length, float) + of_fresh_students * min(length / horizon, 1.0)


def _median_seconds(trainer: MetaTrainer, steps: int, seed: int, clock: Callable[[], float]) -> float:
    taken = []
    for _ in range(REPEATS):
        outer_step = _outer_step(trainer, trainer.family, steps, numbers=trainer.numbers, seed=seed)
        start = clock()
        outer_step()
        taken.append(clock() - start)
    return statistics.median(taken)


def _device(trainer: MetaTrainer) -> torch.device:
    return next(trainer.rule.parameters()).device


def _largest(tasks: Tasks) -> list[TaskFamily]:
    return tasks.largest() if isinstance(tasks, TaskMixture) else [tasks]


def _fresh_params(family: TaskFamily) -> Params:
    generator = make_generator(0, Stream.VALIDATION, 0)
    return family.init_params(family.sample(generator), generator)


def _student_parameters(tasks: Tasks) -> tuple[int, int]:
    families = _largest(tasks) + (tasks.smallest() if isinstance(tasks, TaskMixture) else [])
    counts = [sum(param.numel() for param in _fresh_params(family).values()) for family in families]
    return min(counts), max(counts)


def _num_bytes(tree: object) -> int:
    leaves = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
    return sum(leaf.numel() * leaf.element_size() for leaf in leaves)


def _bytes_of_student(rule: UpdateRule, family: TaskFamily) -> int:
    params = {name: param.to("meta") for name, param in _fresh_params(family).items()}
    return _num_bytes((params, rule.init_state(params)))


def _checkpoint_bytes(trainer: MetaTrainer) -> int:
    """Of the tensors that a checkpoint holds: phi four times (itself, the best, two moments), and all students."""
    students = _num_bytes(trainer.students.state_dict()) * trainer.options.num_students // len(trainer.numbers)
    return 4 * _num_bytes(trainer.weights) + students
