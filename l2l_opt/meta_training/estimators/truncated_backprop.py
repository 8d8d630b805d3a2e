"""Truncated back-propagation through the unroll.

A student's inner run is cut into windows of K inner steps. With phi held fixed over a window, its states are

    s_0 -> s_1 -> ... -> s_K | s_K -> s_{K+1} -> ... -> s_2K | ...        s = (theta, rule state)

and the meta-loss of each window is differentiated through its own arrows only: at a bar the state is carried over
by value, so memory does not grow with the horizon, and what a step does to losses beyond its window is not seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from l2l_opt.checks import check_positive_integers, check_positive_numbers
from l2l_opt.inner_loop.side_by_side import CoordinateSample
from l2l_opt.inner_loop.student import Student
from l2l_opt.inner_loop.students import Students
from l2l_opt.inner_loop.unroll import segment_length, unroll
from l2l_opt.meta_training.estimators.base import ESTIMATORS, MetaGradient, MetaGradientEstimator
from l2l_opt.randomness import Stream, make_generator
from l2l_opt.rules.base import UpdateRule


@dataclass(kw_only=True, eq=False)
class TruncatedBackprop(MetaGradientEstimator):
    """Truncated back-propagation through time: one window of every student an outer step.

    Attributes:
        horizon, truncation_length, meta_loss, staggered, group_size: as of every estimator.
        second_derivatives: keep d grad / d params in the meta-gradient.
        gradient_checkpointing: memory that grows with the root of K, for one more forward pass.
        coordinate_stride: n; where windows are replayed (``lstm`` and ``rnnprop`` on a CPU), differentiate through
            every n-th coordinate of large tensors only, each counted n times and the first drawn for each window. The
            meta-gradient stays unbiased and its backward pass takes an n-th of the time.
        clip_window: bound on the Euclidean norm of the meta-gradient of each window of a group of students, times their
            share of all students, so that one that explodes does not outweigh the others; one that is not finite
            counts as zero. None for no bound.

    Raises:
        ValueError: a truncation length that is longer than the horizon or does not divide it, a coordinate_stride
            that is not a positive integer, a clip_window that is not positive.

    Source: arXiv 1606.04474, section 2 and 3 (horizon 100, truncation length 20, no second derivatives).
    """

    second_derivatives: bool = False
    gradient_checkpointing: bool = False
    coordinate_stride: int = 1
    clip_window: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive_integers(8, coordinate_stride=self.coordinate_stride)
        if self.clip_window is not None:
            check_positive_numbers(10, clip_window=self.clip_window)

    @property
    def steps_in_graph(self) -> int:
        return segment_length(self.truncation_length) if self.gradient_checkpointing else self.truncation_length

    def estimate(self, rule: UpdateRule, students: Students) -> tuple[MetaGradient, Students]:
        phi = dict(rule.named_parameters())
        gradients = {name: torch.zeros_like(weight) for name, weight in phi.items()}
        values = torch.empty(len(students), dtype=torch.float64)
        all_losses = torch.empty(self.truncation_length + 1, len(students), dtype=torch.float64)
        for window in students.windows(self.truncation_length):
            with torch.enable_grad():
                inner, losses = unroll(
                    rule,
                    window.family,
                    window.data,
                    window.inner,
                    window.batches,
                    phi=phi,
                    second_derivatives=self.second_derivatives,
                    loss_batches=window.loss_batches,
                    gradient_checkpointing=self.gradient_checkpointing,
                    sample=self._draw_sample(students, students.members[window.indices[0]]),
                    compiled=self.compiled,
                )
                per_student = self.meta_loss.per_student(
                    losses, window.known_initial_losses(losses), window.best_losses, window.progress
                )
                own = torch.autograd.grad(per_student.sum() / len(students), list(phi.values()), materialize_grads=True)
            share = len(window.indices) / len(students)
            for total, gradient in zip(gradients.values(), self._bounded(own, share), strict=True):
                total += gradient
            students.advance(window, inner, losses)
            values[window.indices] = per_student.detach().double().cpu()
            all_losses[:, window.indices] = losses.detach().double().cpu()
        students.restart(all_losses)
        return MetaGradient(gradients, values.mean(), all_losses), students

    def _bounded(self, gradients: Sequence[Tensor], share: float) -> Sequence[Tensor]:
        """Return a window's meta-gradient, clipped to its students' share of ``clip_window``; zero if not finite."""
        if self.clip_window is None:
            return gradients
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(each) for each in gradients]))
        if not torch.isfinite(norm):
            return [torch.zeros_like(each) for each in gradients]
        factor = (share * self.clip_window / norm.clamp(min=1e-30)).clamp(max=1.0)
        return [factor * each for each in gradients]

    def _draw_sample(self, students: Students, first: Student) -> CoordinateSample | None:
        """Return the coordinates of a window, drawn for the first of its students."""
        if self.coordinate_stride == 1:
            return None
        generator = make_generator(
            students.seed, Stream.COORDINATES, first.number, first.inner_run, first.attempt, first.inner_step
        )
        offset = int(torch.randint(self.coordinate_stride, (), generator=generator))
        return CoordinateSample(self.coordinate_stride, offset)


ESTIMATORS.register("tbptt", TruncatedBackprop)
