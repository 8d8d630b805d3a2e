"""How long an optimizer's steps are, by kind of tensor."""

import torch
from torch import Tensor

from l2l_opt.inspection.tensorboard.monitor import named_parameters
from l2l_opt.optimizer.local_parameters import plain, widened

KINDS = ("vectors", "matrices", "kernels")
"""Tensors of at most one axis (biases, gains), of two, and of more."""


class StepSizes:
    """Measures the root mean square of the updates of each kind of tensor, given each step of an optimizer.

    Args:
        optimizer: any whose parameters are whole on this device.
    """

    def __init__(self, optimizer: torch.optim.Optimizer):
        self._params: dict[str, list[Tensor]] = {}
        for _, p in named_parameters(optimizer):
            if p.numel():
                self._params.setdefault(KINDS[min(max(p.dim() - 1, 0), 2)], []).append(p)
        self._before: dict[str, list[Tensor]] = {}
        self._sizes: dict[str, list[Tensor]] = {kind: [] for kind in self._params}

    @torch.no_grad()
    def before_step(self) -> None:
        """Keep the parameters; call it right before the optimizer's step."""
        self._before = {kind: [plain(p).clone() for p in own] for kind, own in self._params.items()}

    @torch.no_grad()
    def after_step(self) -> None:
        """Measure what has changed; call it right after the optimizer's step."""
        for kind, params in self._params.items():
            updates = [widened(plain(p)) - widened(old) for p, old in zip(params, self._before[kind], strict=True)]
            self._sizes[kind].append(torch.cat([update.flatten() for update in updates]).square().mean().sqrt())

    def sizes(self) -> dict[str, list[float]]:
        """Return the kinds that there are, with a number for each step."""
        return {kind: torch.stack(own).double().tolist() for kind, own in self._sizes.items() if own}
