"""A few coordinates, followed through every step of a training run."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from l2l_opt.inspection.measures.optimizer_state import at_coordinates, named_parameters, recurrent_states
from l2l_opt.optimizer.local_parameters import plain, widened


@dataclass(frozen=True)
class CoordinateTrace:
    """What C coordinates went through in T steps.

    Attributes:
        names: C names, ``tensor[index, ...]``.
        params: ``[T, C]``, before each step.
        gradients: ``[T, C]``.
        updates: ``[T, C]``.
        hidden: state's name -> ``[T, units, C]`` after each step; empty for optimizers without recurrent state.
    """

    names: list[str]
    params: np.ndarray
    gradients: np.ndarray
    updates: np.ndarray
    hidden: dict[str, np.ndarray]


class CoordinateTracer:
    """Follows some coordinates of each tensor of an optimizer, given each of its steps.

    Args:
        optimizer: any whose parameters are whole on this device.
        coordinates: of each tensor, evenly spread.
        tensors: at most so many tensors, the first ones.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, coordinates: int = 4, tensors: int = 8):
        self.optimizer = optimizer
        self._followed = [
            (name, p, torch.linspace(0, p.numel() - 1, min(coordinates, p.numel())).long().unique().to(p.device))
            for name, p in list(named_parameters(optimizer))[:tensors]
            if p.numel() and not p.is_complex()
        ]
        self._seen: dict[str, list[Tensor]] = {"before": [], "gradients": [], "after": []}
        self._hidden: dict[str, list[Tensor]] = {}

    def before_step(self) -> None:
        """Look at parameters and gradients; call it right before the optimizer's step."""
        params = [p for _, p, _ in self._followed]
        self._gather("before", params)
        self._gather("gradients", [torch.zeros_like(p) if p.grad is None else p.grad for p in params])

    def after_step(self) -> None:
        """Look at parameters and recurrent states; call it right after the optimizer's step."""
        self._gather("after", [p for _, p, _ in self._followed])
        found: dict[str, list[Tensor]] = {}
        for _, p, indices in self._followed:
            for key, value in recurrent_states(self.optimizer, p):
                found.setdefault(key, []).append(at_coordinates(value, p.shape, indices).float().cpu())
        for key, values in found.items():
            if len(values) == len(self._followed):
                self._hidden.setdefault(key, []).append(torch.cat(values, dim=1))

    def trace(self) -> CoordinateTrace:
        """Return what was seen so far."""
        names = [
            f"{name}{list(map(int, np.unravel_index(int(index), p.shape))) if p.dim() else ''}"
            for name, p, indices in self._followed
            for index in indices
        ]
        before, gradients, after = (
            torch.stack(values).numpy() if values else np.empty((0, len(names))) for values in self._seen.values()
        )
        hidden = {key: torch.stack(values).numpy() for key, values in self._hidden.items()}
        return CoordinateTrace(names, before, gradients, after - before, hidden)

    def _gather(self, what: str, tensors: list[Tensor]) -> None:
        pieces = [
            widened(plain(tensor.detach())).flatten()[indices].cpu()
            for tensor, (_, _, indices) in zip(tensors, self._followed, strict=True)
        ]
        self._seen[what].append(torch.cat(pieces) if pieces else torch.empty(0))
