"""Parameters that are DTensors, of which each device holds a shard: what lies here, and sums over all of it."""

import math
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class Shards:
    """Where the coordinates of a tensor lie.

    Attributes:
        mesh: the devices that hold it.
        dims: axes of the mesh over which its coordinates are divided; along the others they are repeated.
    """

    mesh: "DeviceMesh"
    dims: tuple[int, ...]

    @property
    def devices(self) -> int:
        """Among how many devices coordinates are divided."""
        return math.prod(self.mesh.size(axis) for axis in self.dims)

    @property
    def place(self) -> int:
        """Which of them this one is, from 0."""
        place = 0
        for axis in self.dims:
            place = place * self.mesh.size(axis) + self.mesh.get_local_rank(axis)
        return place


def shards_of(tensor: Tensor) -> Shards | None:
    """How a DTensor is spread; None for a tensor that is whole on this device."""
    if not _is_dtensor(tensor):
        return None
    placements = enumerate(tensor.placements)
    dims = tuple(axis for axis, placement in placements if not placement.is_replicate())
    return Shards(tensor.device_mesh, dims)


def divided_axes(tensor: Tensor) -> list[int]:
    """Axes along which a DTensor is divided over devices; none for one that is whole on each."""
    if not _is_dtensor(tensor):
        return []
    axes = (getattr(placement, "dim", None) for placement in tensor.placements if not placement.is_replicate())
    return [axis % max(tensor.dim(), 1) for axis in axes if axis is not None]


def local(tensor: Tensor) -> Tensor:
    """Return what lies on this device of a DTensor, sharing its memory; any other tensor as it is."""
    return tensor.to_local() if _is_dtensor(tensor) else tensor


def placed_like(param: Tensor, value: Tensor) -> Tensor:
    """Return a DTensor spread as the parameter is, of another of the same global shape that may be spread otherwise."""
    if not _is_dtensor(param) or not _is_dtensor(value) or value.placements == param.placements:
        return value
    return value.redistribute(placements=param.placements)


def state_like(param: Tensor, value: Tensor, shared: Collection[int] = ()) -> Tensor:
    """Return a parameter's state as a DTensor where the parameter is one, sharded alike; otherwise as it is.

    Args:
        param: the parameter.
        value: this device's share of the state: ``[features, *local.shape]`` with perhaps an axis behind, or 0-dim.
        shared: axes of the parameter along which the state is one for all, and so the same on all devices.
    """
    if not _is_dtensor(param) or not value.dim():
        return value
    from torch.distributed.tensor import DTensor

    sizes = [1 if axis in shared else size for axis, size in enumerate(param.shape)]
    shape = torch.Size([value.shape[0], *sizes, *value.shape[1 + param.dim() :]])
    strides = [1]
    for length in reversed(shape[1:]):
        strides.insert(0, strides[0] * max(length, 1))
    placements = [_behind_features(placement, shared) for placement in param.placements]
    return DTensor.from_local(value, param.device_mesh, placements, run_check=False, shape=shape, stride=tuple(strides))


def mesh_sum(value: Tensor, shards: Shards) -> Tensor:
    """Return the sum, element by element, over the devices among which a tensor is divided.

    Args:
        value: this device's term, of any shape.
        shards: how the tensor is spread.
    """
    return add_up(value.clone(), shards)


def add_up(value: Tensor, shards: Shards) -> Tensor:
    """Make of a value, in place, the sum that ``mesh_sum`` returns."""
    return _all_sum(value, shards.mesh, shards.dims) if value.numel() else value


def numbers_before(counts: Sequence[int], shards: Shards, device: torch.device) -> list[int]:
    """Return the sums of numbers over the devices before this one; it waits for all of them."""
    table = torch.zeros(shards.devices, len(counts), dtype=torch.int64, device=device)
    table[shards.place] = torch.tensor(counts, device=device)
    return [int(number) for number in add_up(table, shards)[: shards.place].sum(0).cpu()]


def mean_loss(loss: Any, params: Iterable[Tensor]) -> Tensor:
    """Return the mean of a loss over the mesh that parameters are sharded on, or the loss where they are whole; 0-dim.

    Raises:
        ValueError: a loss that is not one number.
    """
    if not isinstance(loss, (Tensor, int, float)) or (isinstance(loss, Tensor) and loss.is_complex()):
        raise ValueError(f"loss must be a real number or a tensor of one; got {loss!r}, use e.g. step(loss=loss)")
    # A whole number may be one that no tensor of whole numbers holds.
    value = torch.as_tensor(float(loss) if isinstance(loss, int) else loss).detach()
    if value.numel() != 1:
        raise ValueError(f"loss must be one number; got shape {tuple(value.shape)}, use e.g. loss.mean()")
    shards = next((found for found in map(shards_of, params) if found is not None), None)
    if shards is None:
        return value.reshape(())
    mesh = shards.mesh
    total = value.reshape(()).to(mesh.device_type, torch.promote_types(value.dtype, torch.float32), copy=True)
    return _all_sum(total, mesh, range(mesh.ndim)) / mesh.size()


def _all_sum(total: Tensor, mesh: "DeviceMesh", axes: Iterable[int]) -> Tensor:
    for axis in axes:
        dist.all_reduce(total, group=mesh.get_group(axis))  # pyright: ignore[reportUnknownMemberType]
    return total


def _is_dtensor(tensor: Tensor) -> "TypeGuard[DTensor]":
    # Where its module was never imported, no tensor is one; importing it takes long.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def _behind_features(placement: Any, shared: Collection[int]) -> Any:
    """Return the placement of a parameter for a state with one more axis in front, and some along which it is one."""
    if placement.is_replicate():
        return placement
    if placement.dim in shared:
        from torch.distributed.tensor import Replicate

        return Replicate()
    factor = getattr(placement, "split_factor", None)
    return type(placement)(placement.dim + 1, **({} if factor is None else {"split_factor": factor}))
