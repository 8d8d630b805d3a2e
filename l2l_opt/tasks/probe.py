"""Whether a module can be a student, found out by one real inner step before anything is trained."""

import traceback
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from l2l_opt.tasks.student_module import StudentModule
from l2l_opt.types import Batch, Params, TaskData

Loss = Callable[[Params, TaskData, Batch], Tensor]

ATTENTION = {"scaled_dot_product_attention", "multi_head_attention_forward"}

REASONS = {
    ".item()": "must not read the values of tensors in Python; got {layer}, use torch.where",
    "control flow": "must not branch on the values of tensors; got {layer}, use torch.where",
    "random": "must draw no random numbers but by nn.Dropout; got {layer}, use nn.Dropout, or noise as an input",
    "rrelu": "must draw no random numbers but by nn.Dropout; got {layer}, use nn.LeakyReLU or .eval()",
    "inplace": "must not write into a tensor in place; got {layer}, use torch.stack, torch.cat or torch.where",
    "dynamic shape": "must not have shapes that depend on values; got {layer}, use masks",
    "sparse": "must have dense gradients; got {layer}, use sparse=False",
    "does not require grad": "must depend on its weights; got a loss that does not, in {layer}: do not detach",
    "derivative for": "must have second derivatives where they are asked for; got {layer}, use plain operations in it",
}
OTHERWISE = "must be of operations that run for many students at once; got {layer}, use other ones"
"""PyTorch's message where a module cannot run for many students at once -> the rule that it breaks, and the fix."""


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
        ValueError: a loss that is not a scalar or is random; a forward that changes buffers or weights; a layer that
            cannot run for many students at once, by name.
    """
    before = {name: tensor.clone() for name, tensor in (student.constants | params).items()}
    with torch.no_grad(), _Seen() as seen:
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
        try:
            losses = vmap(loss)(points, datas, batches)
            _differentiate(losses.sum(), points, second_derivatives)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = next((REASONS[known] for known in REASONS if known in str(error)), OTHERWISE)
            if module is not None:
                own = {key: p.detach().requires_grad_() for key, p in params.items()}
                name = _layer(module, error, lambda: loss(own, data, batch), own, second_derivatives)
            raise ValueError(f"a student's forward {reason.format(layer=name)}") from error


def _layer(
    module: nn.Module, error: BaseException, forward: Callable[[], Any], points: Params, second_derivatives: bool
) -> str:
    """The submodule that an error is of, by name and class."""
    part = _raised_in(module, error)
    if part is module:
        part = _without_gradient(module, forward, points, second_derivatives) or module
    name = next(name for name, own in module.named_modules() if own is part)
    return f"{name!r} ({type(part).__name__})" if name else type(part).__name__


def _differentiate(value: Tensor, points: Params, second_derivatives: bool) -> None:
    leaves = list(points.values())
    gradients = torch.autograd.grad(value, leaves, create_graph=second_derivatives, materialize_grads=True)
    if second_derivatives:
        total = torch.stack([gradient.sum() for gradient in gradients if gradient.requires_grad]).sum()
        torch.autograd.grad(total, leaves, materialize_grads=True)


def _raised_in(module: nn.Module, error: BaseException) -> nn.Module:
    """The innermost submodule whose forward raised an error; the module where none did."""
    parts = {id(part) for part in module.modules()}
    owners = (frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__))
    return ([module] + [owner for owner in owners if id(owner) in parts and isinstance(owner, nn.Module)])[-1]


def _without_gradient(
    module: nn.Module, forward: Callable[[], Any], points: Params, second_derivatives: bool
) -> nn.Module | None:
    """The first layer, in the order in which they run, that cannot be differentiated; None where each can alone."""
    outputs: list[tuple[nn.Module, Any]] = []
    layers = [part for part in module.modules() if next(part.children(), None) is None]
    hooks = [part.register_forward_hook(lambda part, _, output: outputs.append((part, output))) for part in layers]
    try:
        forward()
    finally:
        for hook in hooks:
            hook.remove()
    for part, output in outputs:
        if isinstance(output, Tensor) and output.requires_grad:
            try:
                _differentiate(output.square().sum(), points, second_derivatives)
            except RuntimeError:
                return part
    return None


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())
