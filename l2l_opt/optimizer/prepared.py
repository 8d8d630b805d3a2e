"""A call that steps parameters of a group again: everything that stays in its place is looked up once.

Of small models the kernels take microseconds, and finding out what to give them takes a millisecond. So a call of a
kernel that keeps the clock is kept, and taken again for as long as params and state are the very tensors they were.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l2l_opt.kernels import triton
from l2l_opt.optimizer.local_parameters import LocalParameter
from l2l_opt.optimizer.sharding import local, placed_like
from l2l_opt.optimizer.stepping import Options, StepCall
from l2l_opt.rules.base import UpdateRule
from l2l_opt.rules.products import rounds_products


class _Kept(NamedTuple):
    """One parameter as it was when its step was prepared.

    Attributes:
        param: itself.
        is_spread: whether it is a DTensor.
        address: where this device's coordinates lie.
        layouts: its strides, and type and strides of its gradient.
        own: ``optimizer.state[param]``.
        identities: of the tensors in ``own``.
        tensors: those among them that the rule keeps.
        versions: of these; the kernels leave them as they are, so others mean that somebody else has written there.
        order: ``LocalParameter.order``.
    """

    param: Tensor
    is_spread: bool
    address: int
    layouts: tuple[Any, ...]
    own: dict[str, Any]
    identities: list[int]
    tensors: list[Tensor]
    versions: list[int]
    order: tuple[int, ...] | None

    @classmethod
    def of(cls, param: LocalParameter) -> "_Kept":
        tensors = list(param.state.values())
        identities = [*map(id, param.own.values())]
        layouts = (param.whole.stride(), param.grad.dtype, param.grad.stride())
        versions = [t._version for t in tensors]
        is_spread = local(param.whole) is not param.whole
        address = param.value.data_ptr()
        return cls(param.whole, is_spread, address, layouts, param.own, identities, tensors, versions, param.order)

    def is_unchanged(self) -> bool:
        return [*map(id, self.own.values())] == self.identities and [t._version for t in self.tensors] == self.versions


class PreparedCall:
    """A call, and what it steps.

    Args:
        rule: of the optimizer.
        call: that steps them.
        params: of one group, on one device and spread alike.
        num_steps: of the group.
    """

    def __init__(self, rule: UpdateRule, call: StepCall, params: Sequence[LocalParameter], num_steps: int | None):
        self.num_steps, self.call, self.rounds = num_steps, call, rounds_products()
        self.weights = tuple((weight, weight._version, weight.data_ptr()) for weight in rule.parameters())
        self.kept = [_Kept.of(param) for param in params]

    @staticmethod
    def takes(param: LocalParameter) -> bool:
        """Whether a parameter, its state and its gradient are the very tensors that kernels see, step after step."""
        gradient = param.whole.grad
        return (
            param.value.data_ptr() == local(param.whole).data_ptr()
            and not param.whole.is_complex()
            and gradient is not None
            and gradient.layout == torch.strided
            and not any(isinstance(value, Tensor) and value.is_inference() for value in param.own.values())
        )

    def step(self, gradients: Sequence[Tensor], options: Options) -> None:
        """Take one step on what ``gradients`` gave."""
        flags = self.call(gradients, **options.of_kernels())
        # Kernels on a GPU count there, and return nothing.
        for kept, flag in zip(self.kept, flags, strict=False):
            if flag:
                kept.own["skipped"] += 1

    def tables(self) -> Any:
        """Return what kernels on a GPU are pointed to, of the step that was taken last."""
        return self.call, self.call.tables() if isinstance(self.call, triton.MixedStep) else ()

    def gradients(self, state: Mapping[Tensor, dict[str, Any]], num_steps: int | None) -> list[Tensor] | None:
        """Return gradients as the call takes them, if all is as it was prepared; otherwise None."""
        if num_steps != self.num_steps or rounds_products() != self.rounds:
            return None
        for weight, version, address in self.weights:
            if weight._version != version or weight.data_ptr() != address:
                return None
        found: list[Tensor] = []
        for kept in self.kept:
            param = kept.param
            here, gradient = param, param.grad
            if kept.order is not None and gradient is not None:
                gradient = gradient.permute(kept.order)
            if kept.is_spread and gradient is not None:
                placed = gradient
                here, gradient = local(param), local(placed)
                if gradient is placed or placed_like(param, placed) is not placed:
                    return None
            if (
                state[param] is not kept.own
                or type(gradient) is not Tensor
                or here.data_ptr() != kept.address
                or gradient.layout is not torch.strided
                or (param.stride(), gradient.dtype, gradient.stride()) != kept.layouts
                or gradient.device != param.device
                or not kept.is_unchanged()
            ):
                return None
            found.append(gradient)
        return found
