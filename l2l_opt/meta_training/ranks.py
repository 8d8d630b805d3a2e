"""A meta-training run in several processes: every rank unrolls its own students, and rank 0 alone writes.

Sums and flags are all-reduced. Gloo carries what lies on a CPU, NCCL what lies on a GPU.
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
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

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
        """Return the part of ``numbers`` that is this rank's: contiguous, of about equal length.

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
        results = list(tensors)
        with _peers():
            for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
                places = [place for place, tensor in enumerate(tensors) if tensor.dtype == dtype]
                flat = torch.cat([tensors[place].reshape(-1) for place in places])
                dist.all_reduce(flat)
                parts = flat.split([tensors[place].numel() for place in places])
                for place, part in zip(places, parts, strict=True):
                    results[place] = part.reshape(tensors[place].shape)
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
        """Return the value of every rank, on every rank."""
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
    """Join the ranks that torchrun has started this process among; alone where it has not."""
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
        SystemExit: with the exit code of the process that failed first, or 1 after a signal; it has reported why.
        RankLostError: a process was killed, whatever became of others.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # The launcher's own messages are tracebacks; each rank reports in a sentence what went wrong.
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
        # A rank that was killed goes first: the others end because of it, and may have been seen before. The launcher
        # itself ends by SIGTERM those that are left.
        rank, failure = min(
            error.failures.items(),
            key=lambda own: (own[1].exitcode == -signal.SIGTERM, own[1].exitcode >= 0, own[1].timestamp),
        )
        if failure.exitcode > 0:
            raise SystemExit(failure.exitcode) from error
        name = signal.Signals(-failure.exitcode).name
        raise RankLostError(
            f"every rank of a run must run to its end; got {name} in rank {rank}, go on with --resume"
        ) from error
    except SignalException as error:
        raise SystemExit(1) from error


def local_device(device: torch.device) -> torch.device:
    """Return this rank's own GPU where the device is ``cuda`` without a number."""
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
            f"every rank of a run must run to its end; one has ended or cannot be reached ({reason}), "
            "look at its own message, then go on with --resume"
        ) from error
