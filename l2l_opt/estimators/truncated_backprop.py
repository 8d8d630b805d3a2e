"""Truncated back-propagation through the unroll.

A student's life is cut into windows of K inner steps. With phi held fixed over a window, its states are

    s_0 -> s_1 -> ... -> s_K | s_K -> s_{K+1} -> ... -> s_2K | ...        s = (theta, rule state)

and the meta-loss of each window is differentiated through its own arrows only: at a bar the state is carried over
by value, so memory does not grow with the horizon, and what a step does to losses beyond its window is not seen.
"""

import torch

from l2l_opt.estimators.base import ESTIMATORS, MetaGradient, MetaGradientEstimator
from l2l_opt.estimators.meta_loss import MetaLoss
from l2l_opt.randomness import Stream
from l2l_opt.rules.base import UpdateRule
from l2l_opt.schedules import Horizon
from l2l_opt.students import Students
from l2l_opt.tasks.base import TaskFamily
from l2l_opt.unroll import unroll


class TruncatedBackprop(MetaGradientEstimator):
    """Truncated back-propagation through time: one window of every student an outer step.

    Args:
        horizon: inner steps from fresh params to reset: a number, ``"100..2000"`` for log-uniform, or a ``Horizon``.
        truncation_length: K, inner steps differentiated together; it divides the horizon.
        meta_loss: the objective over a window.
        second_derivatives: keep d grad / d params in the meta-gradient.

    Raises:
        ValueError: a truncation length that is longer than the horizon or does not divide it.

    Source: arXiv 1606.04474, section 2 and 3 (horizon 100, truncation length 20, no second derivatives).
    """

    def __init__(
        self,
        *,
        horizon: int | str | Horizon = 100,
        truncation_length: int = 20,
        meta_loss: MetaLoss | None = None,
        second_derivatives: bool = False,
    ):
        self.horizon = Horizon.parse(str(horizon), truncation_length=truncation_length)
        self.truncation_length, self.second_derivatives = truncation_length, second_derivatives
        self.meta_loss = MetaLoss() if meta_loss is None else meta_loss

    def init(self, rule: UpdateRule, family: TaskFamily, *, num_students: int, seed: int) -> Students:
        return Students(
            rule, family, numbers=range(num_students), horizon=self.horizon, seed=seed, stream=Stream.META_TRAINING
        )

    def estimate(self, rule: UpdateRule, students: Students) -> tuple[MetaGradient, Students]:
        phi = dict(rule.named_parameters())
        batches = students.window(self.truncation_length)
        with torch.enable_grad():
            inner, losses = unroll(
                rule,
                students.family,
                students.data,
                students.inner,
                batches,
                phi=phi,
                second_derivatives=self.second_derivatives,
            )
            meta_loss = self.meta_loss(losses, students.initial_losses_given(losses))
            gradients = torch.autograd.grad(meta_loss, list(phi.values()), materialize_grads=True)
        students.advance(inner, losses)
        return MetaGradient(dict(zip(phi, gradients, strict=True)), meta_loss.detach(), losses.detach()), students


ESTIMATORS.register("tbptt", TruncatedBackprop)
