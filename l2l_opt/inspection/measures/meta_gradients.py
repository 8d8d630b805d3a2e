"""How much each inner step of a window moves phi: where in an unroll the meta-gradient comes from."""

import torch
from torch import Tensor

from l2l_opt.inner_loop.horizon import Horizon
from l2l_opt.inner_loop.students import Students
from l2l_opt.inner_loop.unroll import unroll
from l2l_opt.meta_training.estimators.meta_loss import MetaLoss
from l2l_opt.randomness import Stream
from l2l_opt.rules.base import UpdateRule
from l2l_opt.tasks.mixture import Tasks


def meta_gradient_by_position(
    rule: UpdateRule,
    tasks: Tasks,
    *,
    length: int,
    horizon: int,
    seed: int,
    meta_loss: MetaLoss | None = None,
    num_students: int = 2,
) -> Tensor:
    """Norms of the parts of one window's meta-gradient, by the inner step whose update phi has made.

        d L / d phi = sum over k of d L / d phi_k,    u_k = g_{phi_k}(...), all phi_k equal

    By back-propagation with gradients of students as data, whatever estimator meta-training uses, so that the first
    steps show what a window's length makes of the meta-gradient.

    Args:
        rule: that updates students.
        tasks: where students come from.
        length: K, inner steps of the window.
        horizon: of the students, which the rule is given.
        seed: of the students; they are fresh.
        meta_loss: the objective; the plain sum where None.
        num_students: of one architecture.

    Returns:
        ``[K]``.
    """
    students = Students(
        rule,
        tasks,
        numbers=range(num_students),
        horizon=Horizon(horizon, horizon),
        seed=seed,
        stream=Stream.VALIDATION,
        group_size=num_students,
    )
    (window,) = students.windows(length)
    phi = {name: weight.detach() for name, weight in rule.named_parameters()}
    copies = [{name: weight.clone().requires_grad_() for name, weight in phi.items()} for _ in range(length)]
    inner, losses = window.inner, []
    for k, own in enumerate(copies):
        inner, pair = unroll(rule, window.family, window.data, inner, window.batches[k : k + 2], phi=own)
        losses += list(pair) if k == 0 else [pair[1]]
    curve = torch.stack(losses)
    objective = (meta_loss or MetaLoss())(curve, window.known_initial_losses(curve.detach()))
    flat = [weight for own in copies for weight in own.values()]
    gradients = torch.autograd.grad(objective, flat, allow_unused=True, materialize_grads=True)
    per_step = [gradients[k * len(phi) : (k + 1) * len(phi)] for k in range(length)]
    return torch.stack([torch.stack([torch.linalg.vector_norm(g) for g in own]).norm() for own in per_step]).cpu()
