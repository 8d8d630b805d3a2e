"""Several processes: the only file that knows torch.distributed.

In meta-training every rank unrolls its own students; sums and flags are all-reduced; rank 0 alone writes. In use, a
parameter may be a DTensor, of which each rank holds a shard. Gloo carries what lies on a CPU, NCCL what lies on a GPU.
"""

import contextlib
import datetime
import logging
import os
import signal
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor

T = TypeVar("T")

TIMEOUT = datetime.timedelta(minutes=30)
"""How long a rank waits for a slower one, which may be validating or writing a checkpoint."""


class RankLostError(ConnectionError):
    """Another rank has ended in the middle of the run."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of a run.

    Attributes:
        rank: number of this process.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, numbers: Sequence[T]) -> Sequence[T]:
        """The part of ``numbers`` that is this rank's: contiguous, of about equal length.

        Raises:
            ValueError: fewer numbers than ranks.
        """
        if len(numbers) < self.size:
            raise ValueError(
                f"there must be a student for every rank; got {len(numbers)} for {self.size}, "
                f"use at least {self.size} students"
            )
        return numbers[self.rank * len(numbers) // self.size : (self.rank + 1) * len(numbers) // self.size]

    def sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Each tensor summed over ranks; the tensors may differ in dtype and shape, and lie on one device."""
        if self.size == 1:
            return list(tensors)
        totals = []
        with _peers():
            for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
                flat = torch.cat([tensor.reshape(-1) for tensor in tensors if tensor.dtype == dtype])
                dist.all_reduce(flat)
                totals.append((dtype, flat))
        offsets = dict.fromkeys((dtype for dtype, _ in totals), 0)
        flats = dict(totals)
        results = []
        for tensor in tensors:
            start = offsets[tensor.dtype]
            offsets[tensor.dtype] = start + tensor.numel()
            results.append(flats[tensor.dtype][start : start + tensor.numel()].reshape(tensor.shape))
        return results

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """Of each flag whether it is raised on any rank."""
        if self.size == 1:
            return list(flags)
        raised = torch.tensor([int(flag) for flag in flags])
        with _peers():
            dist.all_reduce(raised, op=dist.ReduceOp.MAX)
        return [bool(flag) for flag in raised.tolist()]

    def gather(self, value: T) -> list[T]:
        """The value of every rank, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _peers():
            dist.all_gather_object(values, value)
        return values

    def first(self, action: Callable[[], T]) -> T:
        """Do something on the first rank only; all ranks get its result, or its error."""
        if self.size == 1:
            return action()
        outcome: list[Any] = [None, None]
        if self.is_first:
            try:
                outcome[0] = action()
            except (ValueError, OSError) as error:
                outcome[1] = error
        with _peers():
            dist.broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]


ALONE = Ranks()


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """The ranks that torchrun has started this process among; alone where it has not."""
    if not under_launcher():
        yield ALONE
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    with _peers():
        dist.init_process_group(backend, timeout=TIMEOUT)
        # A rank that ends at once, over a bad option, must not do so while others still connect.
        Ranks(dist.get_rank(), dist.get_world_size()).gather(None)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def under_launcher() -> bool:
    """Whether torchrun, or ``launch``, has started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def launch(arguments: Sequence[str], num_processes: int) -> None:
    """Run ``l2l-opt ARGUMENTS`` in that many processes on this machine, as torchrun does.

    Raises:
        SystemExit: with the exit code of the process that failed first, or 1 after a signal; it has said why.
        RankLostError: a process was killed, whatever became of others.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # The launcher's own messages are tracebacks; each rank says in a sentence what went wrong.
    logging.disable(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "l2l_opt.cli", *arguments)
    except ChildFailedError as error:
        # A rank that was killed goes first: the others end because of it, and may have been seen before.
        rank, failure = min(error.failures.items(), key=lambda own: (own[1].exitcode >= 0, own[1].timestamp))
        if failure.exitcode > 0:
            raise SystemExit(failure.exitcode) from error
        name = signal.Signals(-failure.exitcode).name
        raise RankLostError(
            f"every rank of a run must live to its end; got {name} in rank {rank}, go on with --resume"
        ) from error
    except SignalException as error:
        raise SystemExit(1) from error


def local_device(device: torch.device) -> torch.device:
    """This rank's own GPU where the device is ``cuda`` without a number."""
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


@contextlib.contextmanager
def _peers() -> Iterator[None]:
    try:
        yield
    except (dist.DistError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RankLostError(
            f"every rank of a run must live to its end; one has ended or cannot be reached ({reason}), "
            "look at its own message, then go on with --resume"
        ) from error


@dataclass(frozen=True)
class Shards:
    """Where the coordinates of a tensor lie.

    Attributes:
        mesh: the devices that hold it.
        dims: axes of the mesh over which its coordinates are divided; along the others they are repeated.
    """

    mesh: "DeviceMesh"
    dims: tuple[int, ...]


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
    """What lies on this device of a DTensor, sharing its memory; any other tensor as it is."""
    return tensor.to_local() if _is_dtensor(tensor) else tensor


def placed_like(param: Tensor, value: Tensor) -> Tensor:
    """A DTensor spread as the parameter is, of another of the same global shape that may be spread otherwise."""
    if not _is_dtensor(param) or not _is_dtensor(value) or value.placements == param.placements:
        return value
    return value.redistribute(placements=param.placements)


def state_like(param: Tensor, value: Tensor) -> Tensor:
    """A parameter's state as a DTensor where the parameter is one, sharded alike; otherwise as it is.

    Args:
        param: the parameter.
        value: this device's part of the state: ``[features, *local.shape]`` with perhaps an axis behind, or 0-dim.
    """
    if not _is_dtensor(param) or not value.dim():
        return value
    from torch.distributed.tensor import DTensor

    shape = torch.Size([value.shape[0], *param.shape, *value.shape[1 + param.dim() :]])
    strides = [1]
    for length in reversed(shape[1:]):
        strides.insert(0, strides[0] * max(length, 1))
    placements = [_behind_features(placement) for placement in param.placements]
    return DTensor.from_local(value, param.device_mesh, placements, run_check=False, shape=shape, stride=tuple(strides))


def mesh_sum(value: Tensor, shards: Shards) -> Tensor:
    """The sum, element by element, over the devices among which a tensor is divided.

    Args:
        value: this device's term, of any shape.
        shards: how the tensor is spread.
    """
    total = value.clone()
    for axis in shards.dims:
        dist.all_reduce(total, group=shards.mesh.get_group(axis))
    return total


def mesh_mean(value: float, shards: Shards) -> float:
    """The mean of what each device of a mesh has."""
    total = torch.tensor(value, dtype=torch.float64, device=shards.mesh.device_type)
    for axis in range(shards.mesh.ndim):
        dist.all_reduce(total, group=shards.mesh.get_group(axis))
    return float(total) / shards.mesh.size()


def _is_dtensor(tensor: Tensor) -> "TypeGuard[DTensor]":
    # Where its module was never imported, no tensor is one; importing it takes long.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def _behind_features(placement: Any) -> Any:
    """The placement of a parameter for a state with one more axis in front."""
    if placement.is_replicate():
        return placement
    factor = getattr(placement, "split_factor", None)
    return type(placement)(placement.dim + 1, **({} if factor is None else {"split_factor": factor}))
