"""What a steady step of the drop-in would launch on a GPU, counted on tensors without memory: no GPU is needed."""

import contextlib
import itertools
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from l2l_opt import LearnedOptimizer, load_rule
from l2l_opt.kernels import triton
from l2l_opt.kernels.spread import Spread
from l2l_opt.kernels.triton.tables import Launch
from l2l_opt.optimizer import stepping
from l2l_opt.pretrained import DEFAULT
from l2l_opt.rules.base import UpdateRule, make_rule

Shape = tuple[int, ...]


def gpt2_shapes() -> list[Shape]:
    """Parameters of GPT-2 small, 124 million in 148 tensors."""
    block = [(768,), (768,), (2304, 768), (2304,), (768, 768), (768,)]
    block += [(768,), (768,), (3072, 768), (3072,), (768, 3072), (768,)]
    return [(50257, 768), (1024, 768), *(block * 12), (768,), (768,)]


def resnet18_shapes() -> list[Shape]:
    """Parameters of ResNet-18, 11.7 million in 62 tensors."""
    shapes: list[Shape] = [(64, 3, 7, 7), (64,), (64,)]
    width = 64
    for own in (64, 128, 256, 512):
        for block in range(2):
            before = own if block else width
            shapes += [(own, before, 3, 3), (own,), (own,), (own, own, 3, 3), (own,), (own,)]
            shapes += [] if before == own else [(own, before, 1, 1), (own,), (own,)]
        width = own
    return [*shapes, (1000, 512), (1000,)]


MODELS = {"GPT-2 small": gpt2_shapes, "ResNet-18": resnet18_shapes}
OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    DEFAULT: (DEFAULT, {}),
    f"{DEFAULT}, whitening_dtype=bfloat16": (DEFAULT, {"whitening_dtype": torch.bfloat16}),
    "rnnprop": ("rnnprop", {}),
    "lstm": ("lstm", {}),
    "mlp": ("mlp", {}),
    "celo2": ("celo2", {}),
}
"""Rules, and options of the optimizer, by what tables call them."""
FRESH = ("rnnprop", "lstm", "mlp", "celo2")
"""Registered kinds of rules; the others are shipped ones."""
UNDIVIDED = ("mlp", "celo2")
"""Rules whose kernels take no tensors that are divided among devices."""


class Count(TorchDispatchMode):
    """Count while it lasts: operations on the device, waits for it, copies to it, and bytes of temporaries at the peak.

    Attributes:
        operations: that launch something, by name.
        syncs: values that were read back.
        copies: of tensors from the host.
        peak: bytes held at a time by what was made meanwhile.
        moved: bytes that operations read and write.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.syncs = self.copies = self.peak = self.moved = 0
        self._held: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        before = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        after = [value for value in tree_leaves(result) if isinstance(value, Tensor)]
        name = func._schema.name.split("::")[1]
        kinds = {value.device.type for value in before + after}
        if "meta" in kinds and name in ("_local_scalar_dense", "item"):
            self.syncs += 1
        elif len(kinds) > 1:
            self.copies += 1
        elif "meta" in kinds and not func.is_view and not name.startswith(("empty", "new_empty", "detach")):
            self.operations[name] += 1
            if name == "baddbmm" and kwargs and "out" in kwargs and kwargs.get("beta", 1):
                # It is copied into ``out`` first.
                self.operations["copy_"] += 1
                self.moved += 2 * kwargs["out"].nbytes
            # What is written in place is an argument too.
            parts = {
                (value.untyped_storage()._cdata, value.storage_offset()): value.nbytes
                for value in tree_leaves((args, kwargs, result))
                if isinstance(value, Tensor) and value.is_meta
            }
            self.moved += sum(parts.values())
        known = {value.untyped_storage()._cdata for value in before} | self._held.keys()
        for value in after:
            storage = value.untyped_storage()
            if value.is_meta and storage._cdata not in known:
                self._held[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self._held.pop, storage._cdata, None)
        self.peak = max(self.peak, sum(self._held.values()))
        return result


@contextlib.contextmanager
def on_meta() -> Iterator[list[str]]:
    """Take tensors of the meta device for those of a GPU, and name kernels instead of launching them."""
    launched: list[str] = []
    with (
        mock.patch.object(triton, "DEVICES", {"meta"}),
        mock.patch.object(Launch, "run", lambda launch: launched.append(launch.kernel.__name__)),
    ):
        yield launched


def rule_of(name: str) -> UpdateRule:
    """Return a shipped rule, or a fresh one of a registered kind."""
    return make_rule(name) if name in FRESH else load_rule(name)


def persistent_bytes(optimizer: LearnedOptimizer) -> int:
    """Return what a step's tables and buffers take beside parameters, gradients and state, between steps."""
    found: dict[int, int] = {}
    for prepared in itertools.chain.from_iterable(calls for calls, _ in optimizer._stepper.prepared.values()):
        for _, step in prepared.call.parts:
            owned = {key: value for key, value in vars(step).items() if key not in ("params", "kept", "rule")}
            for value in tree_leaves(owned):
                for tensor in (value, *getattr(value, "tensors", ())) if not isinstance(value, Tensor) else (value,):
                    if isinstance(tensor, Tensor):
                        storage = tensor.untyped_storage()
                        found[storage._cdata] = storage.nbytes()
    return sum(found.values())


def count(
    rule: str,
    shapes: list[Shape],
    *,
    num_steps: int | None = 1000,
    devices: int = 1,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format | None = None,
    **options: Any,
) -> dict[str, int]:
    """Count what a steady step launches: with state in place, and gradients where they lay before.

    Args:
        rule: a shipped name, or one of ``FRESH``.
        shapes: of the parameters.
        num_steps: planned steps; None where unknown.
        dtype: of the parameters.
        memory_format: of those with four axes; None for the usual one.
        devices: among which rows are divided (FSDP2); counted is the first one's step, with its reductions.
        options: others of ``LearnedOptimizer``.
    """
    own = shapes if devices == 1 else [(-(-shape[0] // devices), *shape[1:]) for shape in shapes]
    formats = [memory_format if memory_format and len(shape) == 4 else torch.contiguous_format for shape in own]
    params = [
        torch.nn.Parameter(torch.empty(shape, device="meta", dtype=dtype, memory_format=form))
        for shape, form in zip(own, formats, strict=True)
    ]
    reduced: list[int] = []
    spread = Spread(shapes, [0] * len(shapes), 0, devices, lambda value: reduced.append(value.nbytes))
    optimizer = LearnedOptimizer(params, rule_of(rule), num_steps=num_steps, **options)
    for param in params:
        param.grad = torch.empty_like(param)
    make = torch.tensor

    def made(*arguments: Any, **named: Any) -> Tensor:
        # Sent from the host, which a dispatch mode does not see.
        counted.copies += torch.device(named.get("device") or "cpu").type == "meta"
        return make(*arguments, **named)

    divided = mock.patch.object(stepping, "spread_of", return_value=None if devices == 1 else spread)
    loss = torch.empty((), device="meta")
    with divided, on_meta() as launched:
        optimizer.step(loss=loss)
        launched.clear()
        reduced.clear()
        with Count() as counted, mock.patch.object(torch, "tensor", made):
            optimizer.step(loss=loss)
    operations = sum(counted.operations.values())
    return {
        "launches": len(launched) + operations,
        "kernels": len(launched),
        "operations": operations,
        "host_syncs": counted.syncs,
        "host_to_device_copies": counted.copies,
        "bytes_moved_by_operations": counted.moved,
        "temporary_bytes": counted.peak,
        "persistent_bytes": persistent_bytes(optimizer),
        **({} if devices == 1 else {"reductions": len(reduced), "reduced_bytes": sum(reduced)}),
    }
