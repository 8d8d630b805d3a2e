"""A few coordinates, followed through every step of a training run."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from l2l_opt.inspection.tensorboard.monitor import named_parameters, recurrent_states
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
    """Attaches to an optimizer and follows some coordinates of each tensor.

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
        self._params: list[Tensor] = []
        self._gradients: list[Tensor] = []
        self._after: list[Tensor] = []
        self._hidden: dict[str, list[Tensor]] = {}
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    def finish(self) -> CoordinateTrace:
        """Leave the optimizer as it was; what was seen."""
        for handle in self._handles:
            handle.remove()
        names = [
            f"{name}{list(map(int, np.unravel_index(int(index), p.shape))) if p.dim() else ''}"
            for name, p, indices in self._followed
            for index in indices
        ]
        params, after, gradients = (
            _stack(values, len(names)) for values in (self._params, self._after, self._gradients)
        )
        hidden = {key: torch.stack(values).numpy() for key, values in self._hidden.items()}
        return CoordinateTrace(names, params, gradients, after - params, hidden)

    @torch.no_grad()
    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._params.append(self._gather([p for _, p, _ in self._followed]))
        self._gradients.append(
            self._gather([torch.zeros_like(p) if p.grad is None else p.grad for _, p, _ in self._followed])
        )

    @torch.no_grad()
    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._after.append(self._gather([p for _, p, _ in self._followed]))
        found: dict[str, list[Tensor]] = {}
        for _, p, indices in self._followed:
            for key, value in recurrent_states(optimizer, p):
                found.setdefault(key, []).append(value.flatten(1)[:, indices].float().cpu())
        for key, values in found.items():
            if len(values) == len(self._followed):
                self._hidden.setdefault(key, []).append(torch.cat(values, dim=1))

    def _gather(self, tensors: list[Tensor]) -> Tensor:
        pieces = [
            widened(plain(tensor)).flatten()[indices].cpu()
            for tensor, (_, _, indices) in zip(tensors, self._followed, strict=True)
        ]
        return torch.cat(pieces) if pieces else torch.empty(0)


def _stack(values: list[Tensor], columns: int) -> np.ndarray:
    return torch.stack(values).numpy() if values else np.empty((0, columns))
