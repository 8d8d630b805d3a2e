"""Whether a module can be a student, found out by one real inner step before anything is trained."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from l2l_opt.tasks.faults import Calls, faults_named, reason_for_many
from l2l_opt.tasks.student_module import StudentModule
from l2l_opt.types import Batch, Params, TaskData

Loss = Callable[[Params, TaskData, Batch], Tensor]

ATTENTION = {"scaled_dot_product_attention", "multi_head_attention_forward"}


class _Seen(TorchFunctionMode):
    """Names of the functions that are called directly."""

    def __init__(self):
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {}))


def check_student(student: StudentModule, loss: Loss, params: Params, data: TaskData, batch: Batch) -> None:
    """Refuse a module that the unroll cannot run, by a forward pass of one student and a step of two.

    Raises:
        ValueError: a layer or a loss that cannot run, by name; a loss that is not a real scalar or is random; a forward
            that changes buffers or weights; a layer that cannot run for many students at once, by name.
    """
    before = {name: tensor.clone() for name, tensor in (student.constants | params).items()}
    with torch.no_grad(), faults_named(student.module) as calls, _Seen() as seen:
        first, second = loss(params, data, batch), loss(params, data, batch)
    student.attends = bool(seen.names & ATTENTION)
    changed = [name for name, tensor in (student.constants | params).items() if not _same(before[name], tensor)]
    if changed:
        for name in set(changed) & set(student.constants):
            student.constants[name].copy_(before[name])
        raise ValueError(
            f"a student's forward must leave its buffers and weights unchanged; got {changed[0]!r}, which it writes: "
            "use module.eval()"
        )
    if not isinstance(first, Tensor) or first.dim() != 0:
        got = f"shape {tuple(first.shape)}" if isinstance(first, Tensor) else type(first).__name__
        raise ValueError(f"loss_fn must return a scalar; got {got}, use its mean")
    if first.is_complex():
        layers = (part for part, output in calls.outputs if isinstance(output, Tensor) and output.is_complex())
        layer = next(map(calls.named, layers), "loss_fn itself")
        raise ValueError(f"loss_fn must return a real number; got a complex one from {layer}, use its .abs() or .real")
    if not torch.equal(first, second) and torch.isfinite(first):
        raise ValueError(
            f"a student's loss must be deterministic; got {first.item():.6g} and {second.item():.6g} "
            "for one batch: use nn.Dropout, or module.eval()"
        )
    take_step(loss, params, data, batch, module=student.module)


def check_second_derivatives(student: StudentModule, loss: Loss, params: Params, data: TaskData, batch: Batch) -> None:
    """Refuse a module whose gradients cannot be differentiated, where that is asked for.

    Raises:
        ValueError: there is such a layer.
    """
    if not student.has_second_derivatives:
        take_step(loss, params, data, batch, module=student.module, second_derivatives=True)
        student.has_second_derivatives = True


def take_step(
    loss: Loss,
    params: Params,
    data: TaskData,
    batch: Batch,
    *,
    module: nn.Module | None = None,
    name: str = "",
    second_derivatives: bool = False,
) -> None:
    """Take one inner step of two students, as the unroll does.

    Args:
        loss: of one student.
        params: its weights.
        data: what is particular to it.
        batch: of the step.
        module: in which the layer is looked for that cannot run.
        name: of what cannot run, where there is no module.
        second_derivatives: whether gradients are differentiated too.

    Raises:
        ValueError: it cannot be taken, by name of the layer.
    """
    points, datas, batches = tree_map(lambda leaf: torch.stack([leaf, leaf]), (params, data, batch))
    points = {name: p.requires_grad_() for name, p in points.items()}
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        calls = Calls(module or nn.Identity())
        try:
            with calls.recorded():
                losses = vmap(loss)(points, datas, batches)
            _differentiate(losses.sum(), points, second_derivatives)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if module is not None:
                gradients = partial(_gradients_up_to, calls, loss, (points, datas, batches), second_derivatives)
                name = calls.named(calls.innermost if calls.running else _first_that_fails(calls, gradients))
            raise ValueError(f"a student's forward {reason_for_many(error).format(layer=name)}") from error


def _first_that_fails(calls: Calls, gradients: Callable[[int], Any]) -> nn.Module:
    """The first layer, in the order in which they end, whose output has no gradients; the module where each has."""
    parts = [part for part, _ in calls.outputs]
    for place, part in enumerate(parts):
        try:
            gradients(place)
        except RuntimeError:
            return part
    return calls.module


def _gradients_up_to(
    calls: Calls, loss: Loss, students: tuple[Params, TaskData, Batch], second_derivatives: bool, place: int
) -> None:
    """Differentiate what the layer at a place among all calls gives, instead of the loss."""

    def squares(*one: Any) -> Tensor:
        loss(*one)
        leaves = (leaf for leaf in tree_leaves(calls.outputs[place][1]) if isinstance(leaf, Tensor))
        return torch.stack([leaf.abs().square().sum() for leaf in leaves if leaf.is_floating_point()] or [zero]).sum()

    zero = next(iter(students[0].values())).new_zeros(())
    with calls.recorded():
        value = vmap(squares)(*students).sum()
    if value.requires_grad:
        _differentiate(value, students[0], second_derivatives)


def _differentiate(value: Tensor, points: Params, second_derivatives: bool) -> None:
    leaves = list(points.values())
    gradients = torch.autograd.grad(value, leaves, create_graph=second_derivatives, materialize_grads=True)
    if second_derivatives:
        total = torch.stack([gradient.sum() for gradient in gradients if gradient.requires_grad]).sum()
        torch.autograd.grad(total, leaves, materialize_grads=True)


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())
