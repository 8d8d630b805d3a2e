"""How much a run by evolution strategies will learn: what of its meta-gradient is signal, before the run is paid for.

Each antithetic pair shows how much better phi + eps is than phi - eps, which is next to nothing of what it takes to
know the meta-gradient: only many pairs together do. If the meta-gradients of two random halves of the pairs are alike,
they are signal; if they are orthogonal, they are noise. The best that halves of P pairs can do, with noise on d weights
and losses that differ by nothing but the meta-gradient, is a cosine of ``P / (P + d + 1)``.
"""

import math
from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor

from l2l_opt.inner_loop.students import Students
from l2l_opt.meta_training.estimators.evolution_strategies import EvolutionStrategy, FullES
from l2l_opt.meta_training.trainer import MetaTrainer
from l2l_opt.tasks.mixture import TaskMixture

SPLITS = 200
"""Random halves that the cosine is a mean over."""
CHANGE = 0.1
"""Of each weight, root mean square, for which the gain is predicted."""


@dataclass(frozen=True)
class Signal:
    """What the pairs of some outer steps say of the meta-gradient.

    Attributes:
        pairs: inner runs of pairs that were looked at.
        weights: that noise is on.
        cosine: between the meta-gradients of two halves of the pairs, the mean over random halves.
        noise_free: what it would be if losses differed by nothing but the meta-gradient.
        effective_pairs: ``(sum s^2)^2 / sum s^4`` of the pairs' slopes s: how many decide.
        gain: by how much the meta-loss would fall, to first order, if every weight changed by ``CHANGE`` (root mean
            square) along the meta-gradient, whose noise is taken out; 0 where there is no signal.
        shares: task -> its share of the sum of s^2, largest first.
    """

    pairs: int
    weights: int
    cosine: float
    noise_free: float
    effective_pairs: float
    gain: float | None
    shares: dict[str, float] = field(default_factory=dict)


@torch.no_grad()
def measure_signal(trainer: MetaTrainer) -> Signal:
    """Take the outer steps of a mean horizon without changing phi, and measure what their meta-gradients share.

    Args:
        trainer: of an evolution strategy; it is not changed.

    Raises:
        ValueError: an estimator that is no evolution strategy; fewer than four pairs that differ.
    """
    estimator = trainer.estimator
    if not isinstance(estimator, EvolutionStrategy):
        raise ValueError(
            f"signal is measured from antithetic pairs; got the estimator {type(estimator).__name__}, use nres, pes or "
            "full-es"
        )
    students = trainer.start_students(estimator)
    windows = int(estimator.horizons.mean) // estimator.truncation_length
    steps = 1 if isinstance(estimator, FullES) else windows
    vectors, tasks = _vectors(trainer, estimator, students, steps)
    sizes = vectors.norm(dim=1)
    vectors, sizes, tasks = vectors[sizes > 0], sizes[sizes > 0], [t for t, s in zip(tasks, sizes, strict=True) if s]
    if len(vectors) < 4:
        raise ValueError(f"pairs that differ must be 4 or more; got {len(vectors)}, use more --students")
    weights = int((vectors != 0).any(0).sum())
    cosine, product = _halves(vectors)
    half = len(vectors) // 2
    # Of an outer step, whose meta-loss is a mean over students; a vector is the sum over an inner run's outer steps.
    norm = math.sqrt(max(product, 0.0)) * len(vectors) / len(students) / steps
    squares = sizes.square()
    shares = Counter[str]()
    for task, square in zip(tasks, (squares / squares.sum()).tolist(), strict=True):
        shares[task] += square
    return Signal(
        pairs=len(vectors),
        weights=weights,
        cosine=cosine,
        noise_free=half / (half + weights + 1),
        effective_pairs=float(squares.sum() ** 2 / squares.square().sum()),
        gain=CHANGE * math.sqrt(weights) * norm if estimator.balance == "none" else None,
        shares=dict(shares.most_common()),
    )


def _vectors(
    trainer: MetaTrainer, estimator: EvolutionStrategy, students: Students, steps: int
) -> tuple[Tensor, list[str]]:
    """Return of each inner run of a pair its own meta-gradient ``[runs, weights]``, and the task that it is of."""
    sums: dict[tuple[int, int], Tensor] = {}
    tasks: dict[tuple[int, int], str] = {}
    family = trainer.family
    for _ in range(steps):
        pairs = estimator.pairs(trainer.rule, students)
        slopes = estimator.slopes(pairs)
        for place, student in enumerate(pairs.students):
            own = torch.cat([value.reshape(-1).double().cpu() for value in pairs.directions[place].values()])
            key = student.number, student.inner_run
            sums[key] = sums.get(key, 0.0) + float(slopes[place].nan_to_num()) * own
            tasks[key] = family.name_of(student.family) if isinstance(family, TaskMixture) else "the task"
    return torch.stack(list(sums.values())), list(tasks.values())


def _halves(vectors: Tensor) -> tuple[float, float]:
    """Return the mean cosine between the means of two random halves, and the mean of their products."""
    generator = torch.Generator().manual_seed(0)
    half = len(vectors) // 2
    cosines, products = [], []
    for _ in range(SPLITS):
        order = torch.randperm(len(vectors), generator=generator)
        first, second = vectors[order[:half]].mean(0), vectors[order[half : 2 * half]].mean(0)
        cosines.append(float(torch.nn.functional.cosine_similarity(first, second, dim=0)))
        products.append(float(first @ second))
    return sum(cosines) / SPLITS, sum(products) / SPLITS
