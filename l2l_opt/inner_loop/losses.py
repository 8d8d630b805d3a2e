"""Losses of S students, and the gradients that a rule reads, found once for both."""

from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from l2l_opt.inner_loop.compiled import CompiledSteps
from l2l_opt.tasks.base import TaskFamily
from l2l_opt.types import Batch, Params, TaskData


class _LossesWithKnownGradient(torch.autograd.Function):
    """Losses ``[S]`` as a function of params, whose gradients the inner step has computed already.

    The meta-loss needs d losses / d params at the very points where the rule needed it, so the student is
    differentiated once, not twice.
    """

    @staticmethod
    def forward(ctx: Any, losses: Tensor, count: int, *params_and_grads: Tensor) -> Tensor:
        ctx.save_for_backward(*params_and_grads[count:])
        return losses.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, d_losses: Tensor
    ) -> tuple[Tensor | None, ...]:
        grads: tuple[Tensor, ...] = ctx.saved_tensors
        d_params = [d_losses.reshape(-1, *[1] * (grad.dim() - 1)) * grad for grad in grads]
        return None, None, *d_params, *[None] * len(grads)


MOST_ONE_BY_ONE = 2
"""Students up to whom a loop over them costs less than what vmap adds to every operation."""


def losses_of(family: TaskFamily, params: Params, data: TaskData, batch: Batch) -> Tensor:
    """Return losses ``[S]``, differentiable in params."""
    arguments = (params, data, batch)
    leaves, structure = tree_flatten(arguments)
    if leaves[0].shape[0] > MOST_ONE_BY_ONE:
        return vmap(family.loss)(*arguments)
    students = zip(*(leaf.unbind() for leaf in leaves), strict=True)
    return torch.stack([family.loss(*tree_unflatten(own, structure)) for own in students])


def losses_and_gradients(
    family: TaskFamily,
    params: Params,
    data: TaskData,
    batch: Batch,
    *,
    second_derivatives: bool,
    compiled: CompiledSteps | None = None,
) -> tuple[Tensor, Params]:
    """Losses ``[S]``, differentiable in params, and the gradients that the rule will read.

    The gradients depend on params only with ``second_derivatives``, which are never compiled.
    """
    if compiled is not None and not second_derivatives:
        detached = tree_map(torch.detach, (params, data, batch))
        losses, grads = compiled.losses_and_gradients(family, *detached)
        return _known(losses, params, grads), grads
    with torch.enable_grad():
        if second_derivatives:
            points = {name: p if p.requires_grad else p.detach().requires_grad_() for name, p in params.items()}
        else:
            points = {name: p.detach().requires_grad_() for name, p in params.items()}
        losses = losses_of(family, points, data, batch)
        gradients = torch.autograd.grad(
            losses.sum(), list(points.values()), create_graph=second_derivatives, materialize_grads=True
        )
    grads = dict(zip(points, gradients, strict=True))
    return (losses if second_derivatives else _known(losses.detach(), params, grads)), grads


def _known(losses: Tensor, params: Params, grads: Params) -> Tensor:
    known = _LossesWithKnownGradient.apply(losses, len(params), *params.values(), *grads.values())
    assert isinstance(known, Tensor)
    return known
