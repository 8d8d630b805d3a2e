"""What of parameters lies on this device: real and plain, a shard of a DTensor, the two numbers of a complex one."""

import functools
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l2l_opt.kernels import CompiledStep, triton
from l2l_opt.kernels.spread import Spread
from l2l_opt.optimizer import sharding
from l2l_opt.rules.base import UpdateRule, states_kept_in
from l2l_opt.rules.composed import ComposedRule
from l2l_opt.rules.sharded_sums import Reduce, summed_by

BOOKKEEPING = ("skipped", "fallback")
"""What the optimizer keeps in ``state[p]`` beside the rule's own tensors."""


class LocalParameter(NamedTuple):
    """One parameter, as far as it lies here.

    Attributes:
        name: of the parameter.
        whole: the parameter itself.
        value: this device's coordinates, real, sharing the parameter's memory.
        grad: their gradient.
        state: the rule's state of them, sharing memory with ``own``.
        own: ``optimizer.state[whole]``.
        within: the shape of all of this device's coordinates, and the first index of those here along each of its axes.
        order: axes of the parameter as they lie in memory, which is how value, grad and state have them; None where
            they lie as they are counted.
    """

    name: str
    whole: Tensor
    value: Tensor
    grad: Tensor
    state: dict[str, Tensor]
    own: dict[str, Any]
    within: tuple[tuple[int, ...], tuple[int, ...]]
    order: tuple[int, ...] | None = None

    def narrow(self, axis: int, start: int, length: int) -> "LocalParameter":
        """Return some of the coordinates."""
        state = {
            key: value.narrow(axis + 1, start, length) if value.dim() else value for key, value in self.state.items()
        }
        value, grad = (tensor.narrow(axis, start, length) for tensor in (self.value, self.grad))
        shape, first = self.within
        first = (*first[:axis], first[axis] + start, *first[axis + 1 :])
        return self._replace(value=value, grad=grad, state=state, within=(shape, first))


def local_parameter(
    name: str,
    param: Tensor,
    gradient: Tensor,
    own: dict[str, Any],
    keys: Collection[str],
    order: tuple[int, ...] | None = None,
) -> LocalParameter:
    """Return what lies on this device of a parameter.

    Args:
        name: of the parameter.
        param: the parameter.
        gradient: of it, which is made dense.
        own: ``optimizer.state[param]``, in which wrappers may keep things of theirs.
        keys: of the rule's own state there.
        order: of ``order_for``.
    """
    gradient = gradient if gradient.layout == torch.strided else gradient.to_dense()
    state = {key: sharding.local(value) for key, value in own.items() if key in keys}
    value, gradient = plain(param), plain(sharding.placed_like(param, gradient))
    if order is not None:
        value, gradient = value.permute(order), gradient.permute(order)
        state = {key: in_order(kept, order) for key, kept in state.items()}
    within = (tuple(value.shape), (0,) * value.dim())
    return LocalParameter(name, param, value, gradient, state, own, within, order)


def order_for(rule: UpdateRule, param: Tensor) -> tuple[int, ...] | None:
    """Return a parameter's axes as they lie in memory, where a rule's kernels on a GPU take them so.

    They go through memory from one end to the other, and none of their rules is about more than rows: weights of
    convolutions in ``torch.channels_last`` are to them contiguous ones with other axes, and so must their state be.
    Perceptrons tell longer axes from shorter ones by how they are counted, and take none so.

    Returns:
        The axes, the first of which is the first; None where they lie as they are counted, or in no such order.
    """
    if param.device.type not in triton.DEVICES or sharding.shards_of(param) is not None:
        return None
    value = plain(param)
    if value.is_contiguous() or not isinstance(rule.compiled_step(), CompiledStep):
        return None
    axes = tuple(sorted(range(value.dim()), key=lambda axis: -value.stride(axis)))
    return axes if axes[0] == 0 and value.permute(axes).is_contiguous() else None


def in_order(value: Tensor, order: tuple[int, ...] | None) -> Tensor:
    """Return a tensor ``[rows, *shape]`` with the axes of the shape in this order, or one of another form as it is."""
    if order is None or value.dim() != 1 + len(order):
        return value
    return value.permute(0, *(1 + axis for axis in order))


def lying_in(value: Tensor, order: tuple[int, ...] | None) -> Tensor:
    """Return a tensor ``[rows, *shape]`` that lies so in memory that ``in_order`` is contiguous."""
    if order is None or value.dim() != 1 + len(order):
        return value
    back = sorted(range(len(order)), key=order.__getitem__)
    return in_order(in_order(value, order).contiguous(), tuple(back))


def plain(tensor: Tensor) -> Tensor:
    """Return this device's coordinates of a tensor, real, sharing its memory."""
    tensor = sharding.local(tensor.detach())
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def check_placement(rule: UpdateRule, name: str, param: Tensor) -> None:
    """Refuse a parameter divided in a way in which the rule, or one that it is composed of, cannot see it whole.

    Raises:
        ValueError: a rule with ``divides_rows_only``, and a DTensor divided along another axis than its first; a rule
            that looks at whole tensors, names or shapes, and a flat shard of FullyShardedDataParallel.
    """
    # As torch marks them; to ask torch would import its distributed half.
    if getattr(param, "_fsdp_flattened", False) and (rule.reads_whole_tensors or isinstance(rule, ComposedRule)):
        raise ValueError(
            f"the rule {rule.registry_name!r} must see whole parameters; got {name!r} as a flat shard of "
            "FullyShardedDataParallel, use FSDP2 (torch.distributed.fsdp.fully_shard)"
        )
    axes = [axis for axis in sharding.divided_axes(param) if axis]
    for found in rule.modules() if axes else ():
        if isinstance(found, UpdateRule) and getattr(found, "divides_rows_only", False):
            raise ValueError(
                f"parameters of the rule {found.registry_name!r} must be sharded along axis 0 alone; got {name!r} "
                f"sharded along axis {axes[0]}, use Shard(0) or Replicate() for it"
            )


def fresh_state(rule: UpdateRule, name: str, param: Tensor, *, state_dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Return the state of a parameter before its first update.

    Args:
        rule: whose state.
        name: of the parameter.
        param: perhaps a DTensor; its state is sharded alike.
        state_dtype: of what the rule may keep in another; None for the precision in which the rule computes.
    """
    value = widened(plain(param))
    with summed_by(reduce_over(sharding.shards_of(param))), states_kept_in(state_dtype):
        state = rule.init_state({name: value})[name]
    shared, order = _shared_axes(rule, name, param), order_for(rule, param)
    own: dict[str, Tensor] = {}
    seen = {value.untyped_storage().data_ptr()}
    for key, tensor in state.items():
        tensor = _as_kept(rule, key, tensor, state_dtype)
        # What is changed in place must have memory of its own.
        address = tensor.untyped_storage().data_ptr()
        if not tensor.is_contiguous() or address in seen:
            tensor = tensor.clone(memory_format=torch.contiguous_format)
        seen.add(address)
        tensor = lying_in(tensor, order)
        own[key] = sharding.state_like(param, tensor, shared.get(key, ()))
    return own | {"skipped": torch.zeros((), dtype=torch.int64, device=value.device)}


def fresh_meta_state(
    rule: UpdateRule, name: str, p: Tensor, *, times: int = 1, state_dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Return what the rule would begin with for one parameter, on the meta device where the rule can do that.

    Args:
        rule: whose state.
        name: of the parameter.
        p: the parameter; of a sharded one, the state is that of all of it.
        times: how many times as long each of its axes is taken to be.
        state_dtype: of what the rule may keep in another; None for the precision in which the rule computes.
    """
    dtype = torch.promote_types(p.dtype.to_real() if p.is_complex() else p.dtype, torch.float32)
    shape = [times * size for size in shape_for_rules(p)]
    try:
        state = rule.init_state({name: torch.empty(shape, dtype=dtype, device="meta")})[name]
    except RuntimeError:
        # A rule of a plugin may look at values, which the meta device has not (NotImplementedError among others).
        device = next((weight.device for weight in rule.parameters()), torch.device("cpu"))
        state = rule.init_state({name: torch.zeros(shape, dtype=dtype, device=device)})[name]
    return {key: _as_kept(rule, key, value, state_dtype) for key, value in state.items()}


def _as_kept(rule: UpdateRule, key: str, value: Tensor, state_dtype: torch.dtype | None) -> Tensor:
    """Return one tensor of a state in the dtype that it has between steps."""
    return value.to(rule.dtype_between_steps(key, state_dtype) or value.dtype)


def in_precision(rule: UpdateRule, key: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    """Return one tensor of a state as the rule is given it, whatever it is kept in."""
    return value.to(dtype) if key in rule.recurrent_state or key in rule.moving_averages else value


def shape_for_rules(p: Tensor) -> tuple[int, ...]:
    """As a rule sees it: of a complex parameter the real and imaginary parts, of a sharded one all of it."""
    return (*p.shape, 2) if p.is_complex() else tuple(p.shape)


def _shared_axes(rule: UpdateRule, name: str, param: Tensor) -> dict[str, list[int]]:
    """Of each state of a DTensor, the axes along which it is one for all: 1 even of a parameter twice as long."""
    if sharding.shards_of(param) is None:
        return {}
    twice = fresh_meta_state(rule, name, param, times=2)
    return {
        key: [axis for axis in range(param.dim()) if value.dim() and value.shape[axis + 1] == 1]
        for key, value in twice.items()
    }


def widened(tensor: Tensor) -> Tensor:
    """In the precision that rules compute in: float32 for half precision, otherwise its own."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def is_finite(tensors: Sequence[Tensor]) -> Tensor:
    """Whether all coordinates of all tensors are finite: a 0-dim bool, found without temporaries of their size."""
    return torch.stack([torch.isfinite(largest(tensor)) for tensor in tensors]).all()


def largest(tensor: Tensor) -> Tensor:
    """Return the largest magnitude, 0-dim, in the precision that rules compute in; NaN where there is one."""
    if not tensor.numel():
        return widened(tensor.new_zeros(()))
    return widened(torch.linalg.vector_norm(tensor, torch.inf))  # pyright: ignore


def finite_over_shards(flags: Sequence[Tensor], reduce: Reduce | None) -> list[Tensor]:
    """Of each flag whether it holds on every device that has a shard."""
    if reduce is None or not flags:
        return list(flags)
    return list(reduce((~torch.stack(list(flags))).to(torch.int64)) == 0)


def buckets_of(params: Sequence[LocalParameter]) -> list[tuple[sharding.Shards | None, list[LocalParameter]]]:
    """Parameters that lie on one device and are spread alike, each bucket with how; None where each lies here alone."""
    buckets: dict[tuple[torch.device, sharding.Shards | None], list[LocalParameter]] = {}
    for param in params:
        buckets.setdefault((param.value.device, sharding.shards_of(param.whole)), []).append(param)
    return [(shards if shards and shards.dims else None, found) for (_, shards), found in buckets.items()]


def reduce_over(shards: sharding.Shards | None) -> Reduce | None:
    """Return the sum over the shards of tensors that are spread so; None for tensors that are whole."""
    if shards is None or not shards.dims:
        return None
    return functools.partial(sharding.mesh_sum, shards=shards)


def spread_of(params: Sequence[LocalParameter], shards: sharding.Shards | None) -> Spread | None:
    """Return how parameters are divided by rows, as kernels on a GPU need it; None for those that are whole."""
    if shards is None:
        return None
    rows = [param.value.shape[0] if param.value.dim() else 0 for param in params]
    return Spread(
        [shape_for_rules(param.whole) for param in params],
        sharding.numbers_before(rows, shards, params[0].value.device),
        shards.place,
        shards.devices,
        functools.partial(sharding.add_up, shards=shards),
    )
