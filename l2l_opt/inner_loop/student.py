"""One student: where it stands in its inner run, and the window of several that run together."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from l2l_opt.inner_loop.unroll import InnerState
from l2l_opt.tasks.base import Split, TaskFamily
from l2l_opt.tasks.drawing import left_on_host
from l2l_opt.types import Batch, Params, TaskData


@dataclass
class Student:
    """Where one student stands in its inner run (fresh params to horizon).

    Attributes:
        number: of the student; with the seed and the stream it determines all its inner runs.
        inner_run: how many it has finished before this one.
        attempt: how often it was reset within this inner run, having become infinite.
        inner_step: inner steps of the inner run so far.
        horizon: inner steps that the rule is given.
        run_length: inner steps after which the inner run ends: the horizon, or less in a staggered first inner run.
        family: its architecture.
        generator: of its batches.
        data: what is particular to it.
        inner: params and rule state, leading axis particles.
        pending: the batches drawn last, by split: the first of the next window.
        initial_losses: ``[particles]``, the first losses of the inner run; NaN before they are known.
        best_losses: ``[particles]``, the least so far in the inner run; infinite at its beginning.
        estimator_state: what an estimator keeps over the inner run.
    """

    number: int
    inner_run: int
    attempt: int
    inner_step: int
    horizon: int
    run_length: int
    family: TaskFamily
    generator: torch.Generator
    data: TaskData
    inner: InnerState
    pending: dict[Split, Batch]
    initial_losses: Tensor
    best_losses: Tensor
    estimator_state: Params = field(default_factory=dict)

    PLAIN = ("number", "inner_run", "attempt", "inner_step", "horizon", "run_length")
    TENSORS = ("data", "pending", "initial_losses", "best_losses", "estimator_state")
    # The names that checkpoints have had since 0.1.
    STORED: ClassVar = {
        "inner_run": "episode",
        "inner_step": "age",
        "run_length": "lifetime",
        "estimator_state": "memory",
    }

    def next_batches(self, length: int) -> dict[Split, list[Batch]]:
        """Draw so many batches of each split; before them lies the one that was drawn last."""
        batches: dict[Split, list[Batch]] = {split: [first] for split, first in self.pending.items()}
        with left_on_host():
            # Split by split within a step, so that windows of any length draw the same.
            for _ in range(length):
                for split, so_far in batches.items():
                    so_far.append(self.family.sample_batch(self.data, self.generator, split))
        for split, so_far in batches.items():
            self.pending[split] = so_far[-1]
            # A batch that was loaded lies on the run's device, wherever others are drawn.
            so_far[0] = tree_map(lambda first, other: first.to(other.device), so_far[0], so_far[-1])
        return batches

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on bit for bit; shares no storage that later steps change."""
        return {
            **{self.STORED.get(key, key): getattr(self, key) for key in self.PLAIN},
            **{self.STORED.get(key, key): tree_map(torch.clone, getattr(self, key)) for key in self.TENSORS},
            "generator": self.generator.get_state(),
            "params": self.inner.params,
            "state": self.inner.state,
            "num_steps": self.inner.num_steps,
        }

    @classmethod
    def of_state(cls, state: Mapping[str, Any], family: TaskFamily, *, device: torch.device) -> "Student":
        """Return the student that a ``state_dict`` tells of.

        Args:
            state: as it was, on any device.
            family: its architecture.
            device: where it goes on.
        """
        own = dict(state)
        generator = torch.Generator()
        generator.set_state(own.pop("generator").cpu())
        own = tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, own)
        own |= {name: own.pop(stored) for name, stored in cls.STORED.items()}
        inner = InnerState(own.pop("params"), own.pop("state"), own.pop("num_steps"))
        return cls(family=family, generator=generator, inner=inner, **own)


@dataclass(frozen=True)
class Window:
    """One batch of the unroll: the next window of students that share an architecture.

    Attributes:
        family: the architecture.
        indices: places of these students among all, ``[G]``.
        data: leading axis S = G * particles, the particles of one student beside each other.
        inner: likewise.
        batches: K + 1 training batches, likewise.
        loss_batches: K + 1 batches of the split of the meta-loss; None where that is the training split.
        initial_losses: ``[S]``, NaN at the beginning of an inner run.
        best_losses: ``[S]``.
        inner_steps: ``[S]``, those before this window.
    """

    family: TaskFamily
    indices: list[int]
    data: TaskData
    inner: InnerState
    batches: list[Batch]
    loss_batches: list[Batch] | None
    initial_losses: Tensor
    best_losses: Tensor
    inner_steps: Tensor

    @property
    def progress(self) -> Tensor:
        """The fraction of the horizon that is over after each step of this window, ``[K, S]``."""
        assert self.inner.num_steps is not None
        steps = torch.arange(1, len(self.batches), device=self.inner_steps.device).unsqueeze(1)
        return (self.inner_steps + steps) / self.inner.num_steps

    def known_initial_losses(self, losses: Tensor) -> Tensor:
        """``initial_losses`` with those filled in that this window's first losses reveal: ``[S]``."""
        revealed = losses[0].detach().to(self.initial_losses.dtype)
        return torch.where(self.initial_losses.isnan(), revealed, self.initial_losses)
