"""UnrollMonitor: what any torch optimizer does to its parameters, step by step, in TensorBoard."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

QUANTITIES = ("gradient", "update")


class UnrollMonitor:
    """Attaches to an optimizer and writes one point a step for every tensor it moves.

    Charts, T being a tensor's name (``group.index`` for unnamed parameters): ``gradient_norm/T``, ``update_norm/T``
    (Euclidean), ``gradient/T`` and ``update/T`` (histograms), and for each floating-point tensor X of the optimizer's
    state with a feature axis (a learned rule's ``hidden`` and ``cell``) ``state_X_mean/T``, ``state_X_rms/T`` and
    ``state_X_max/T`` (largest magnitude).

    Args:
        optimizer: any ``torch.optim.Optimizer``.
        writer: where to.
        every: steps between points.
        histogram_every: steps between histograms, 0 for none.

    Raises:
        ValueError: a cadence out of range.

    Example:
        >>> with UnrollMonitor(optimizer, SummaryWriter("logs")) as monitor:
        ...     for inputs, targets in batches:
        ...         loss = loss_fn(model(inputs), targets)
        ...         monitor.log_loss(loss)
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...         optimizer.step()
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, writer: SummaryWriter, *, every: int = 1, histogram_every: int = 1
    ):
        if every < 1 or histogram_every < 0:
            raise ValueError(
                f"every must be at least 1 and histogram_every at least 0; got {every} and {histogram_every}"
            )
        self.optimizer, self.writer = optimizer, writer
        self.every, self.histogram_every = every, histogram_every
        self.num_steps = 0
        self._before: dict[Tensor, Tensor] = {}
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    def log_loss(self, loss: Tensor | float) -> None:
        """Write the loss that the next step starts from, as ``loss/student``."""
        self.writer.add_scalar("loss/student", float(loss), self.num_steps)

    def detach(self) -> None:
        """Leave the optimizer as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __enter__(self) -> "UnrollMonitor":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.detach()

    def _named(self) -> list[tuple[str, Tensor]]:
        named = []
        for number, group in enumerate(self.optimizer.param_groups):
            names = group.get("param_names") or [f"{number}.{index}" for index in range(len(group["params"]))]
            named += zip(names, group["params"], strict=True)
        return named

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if self.num_steps % self.every == 0:
            self._before = {p: p.detach().clone() for _, p in self._named()}

    @torch.no_grad()
    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        step = self.num_steps
        self.num_steps += 1
        if not self._before:
            return
        histograms = self.histogram_every > 0 and step % self.histogram_every == 0
        for name, p in self._named():
            if p.grad is None or p not in self._before:
                continue
            for quantity, value in zip(QUANTITIES, (p.grad, p - self._before[p]), strict=True):
                self.writer.add_scalar(f"{quantity}_norm/{name}", value.norm(), step)
                if histograms and torch.isfinite(value).all():
                    self.writer.add_histogram(f"{quantity}/{name}", value, step)
            for key, value in optimizer.state[p].items():
                if isinstance(value, Tensor) and value.is_floating_point() and value.dim() == p.dim() + 1:
                    self.writer.add_scalar(f"state_{key}_mean/{name}", value.mean(), step)
                    self.writer.add_scalar(f"state_{key}_rms/{name}", value.square().mean().sqrt(), step)
                    self.writer.add_scalar(f"state_{key}_max/{name}", value.abs().max(), step)
        self._before = {}
