"""UnrollMonitor: what any torch optimizer does to its parameters, in TensorBoard."""

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from l2l_opt.inspection.measures.adam_reference import AdamReference
from l2l_opt.inspection.measures.gates import GATES, gates_of, saturation
from l2l_opt.inspection.measures.quantities import (
    STATE_QUANTITIES,
    TENSOR_QUANTITIES,
    state_quantities,
    tensor_quantities,
)
from l2l_opt.inspection.tensorboard.scalars import write_scalars
from l2l_opt.optimizer import sharding
from l2l_opt.optimizer.learned_optimizer import LearnedOptimizer
from l2l_opt.optimizer.local_parameters import BOOKKEEPING, plain, widened

ADAM_COORDINATES = 256
"""Of each tensor, followed for the comparison with Adam."""
ADAM_STEPS = 20
"""Before each point, whose gradients Adam's mean is taken of: all but 12 % of its weight."""
HISTOGRAM_COORDINATES = 1 << 13
"""Of each tensor or state, evenly spread, that histograms are of."""
HISTOGRAM_BINS = 64
"""TensorBoard draws thirty; torch's default of a thousand and a half makes events ten times as large."""
USUAL_STEPS = 100
"""Between points, where no cadence is given and they cost less than their share."""
SHARE = 0.01
"""Of the run's time that points may have taken before another is begun, where no cadence is given."""
MOST_COORDINATES_FOR_GATES = 1 << 20
"""Of a tensor; a larger one's gates are not recomputed, since that takes memory of many times its size."""


class UnrollMonitor:
    """Attaches to an optimizer and writes, every so many steps, a point for every tensor it moves.

    Charts, T being a tensor's name (``group.index`` for unnamed parameters):

    ==============================  ==============================================================================
    ``Loss/student``                what ``log_loss`` was given
    ``gradient_rms/T``              root mean square of the gradient
    ``update_rms/T``                of the update
    ``update_over_parameter/T``     rms(update) / rms(parameter)
    ``cosine_with_descent/T``       of the update with the negative gradient
    ``cosine_with_adam/T``          of the update with the one that Adam would make after the same gradients, on up to
                                    256 coordinates (of the last 20 steps where ``every`` is above 20)
    ``effective_lr/T``              the learning rate with which SGD's step comes nearest to the update
    ``state_X_mean|rms|max/T``      of each recurrent state X (a learned rule's ``hidden`` and ``cell``)
    ``gate_G_closed|open/T``        shares of input, forget and output gates below .1 and above .9
    ``gradient/T`` ``update/T``     histograms of up to 8,192 coordinates, also of each recurrent state
    ==============================  ==============================================================================

    A learned rule and Adam with a monitor and a folder each show in the same charts. Of a sharded parameter this
    device's shard is measured. The optimizer's steps are the same with it as without, bit for bit.

    Args:
        optimizer: any ``torch.optim.Optimizer``.
        writer: where to; it stays open.
        every: steps between points. None: 100, put off by another 100 for as long as the monitor has taken more than
            1 % of the time since it was attached, so that steps of a long run take less than 5 % longer, whatever
            the model; the first step always has a point.
        histogram_every: least steps between histograms, which come with a point; 0 for none, ten times those between
            points where None.

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
        self,
        optimizer: torch.optim.Optimizer,
        writer: SummaryWriter,
        *,
        every: int | None = None,
        histogram_every: int | None = None,
    ):
        if (every is not None and every < 1) or (histogram_every is not None and histogram_every < 0):
            raise ValueError(
                f"every must be at least 1 and histogram_every at least 0; got {every} and {histogram_every}"
            )
        self.optimizer, self.writer = optimizer, writer
        self.every = USUAL_STEPS if every is None else every
        self.histogram_every = 10 * self.every if histogram_every is None else histogram_every
        self.num_steps = 0
        self._has_budget = every is None
        self._attached, self._spent = time.perf_counter(), 0.0
        self._next_point = self._next_histogram = 0
        self._before: dict[str, Tensor] = {}
        self._points: dict[str, Tensor] = {}
        self._named: dict[str, Tensor] = {}
        self._adam: AdamReference | None = None
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    def log_loss(self, loss: Tensor | float) -> None:
        """Write the loss that the next step starts from, as ``Loss/student``, where that step is written."""
        if self.num_steps == self._next_point:
            value = loss.detach().item() if isinstance(loss, Tensor) else loss
            write_scalars(self.writer, {"Loss/student": value}, self.num_steps)

    def detach(self) -> None:
        """Leave the optimizer as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._before, self._points, self._adam = [], {}, {}, None

    def __enter__(self) -> "UnrollMonitor":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.detach()

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if self.num_steps == self._next_point:
            begun = time.perf_counter()
            self._keep(optimizer)
            self._spent += time.perf_counter() - begun

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        step = self.num_steps
        self.num_steps += 1
        to_go = self._next_point - step
        if to_go >= ADAM_STEPS:
            return
        begun = time.perf_counter()
        if self._has_budget and to_go == ADAM_STEPS - 1 and self._spent > SHARE * (begun - self._attached):
            self._next_point += self.every
            return
        self._measure(optimizer, step, to_go)
        self._spent += time.perf_counter() - begun

    @torch.no_grad()
    def _keep(self, optimizer: torch.optim.Optimizer) -> None:
        """Keep what the step is about to change, or to use up."""
        self._named = dict(named_parameters(optimizer))
        self._before = {name: plain(p).clone() for name, p in self._named.items()}
        if isinstance(optimizer, LearnedOptimizer):
            self._points = {
                f"gate_{gate}_{end}/{name}": share
                for name, gates in _gates(optimizer)
                for gate, shares in zip(GATES, saturation(gates), strict=True)
                for end, share in zip(("closed", "open"), shares, strict=True)
            }

    @torch.no_grad()
    def _measure(self, optimizer: torch.optim.Optimizer, step: int, to_go: int) -> None:
        """Follow the gradients of the steps before a point; write the point at its own."""
        if self._adam is None:
            self._named = dict(named_parameters(optimizer))
            whole = {name: plain(p) for name, p in self._named.items()}
            self._adam = AdamReference(whole, coordinates=ADAM_COORDINATES)
        if to_go == ADAM_STEPS - 1:
            self._adam.begin_stretch()
        gradients = {
            name: plain(p.grad)
            for name, p in self._named.items()
            if p.grad is not None and p.grad.layout == torch.strided
        }
        self._adam.observe(gradients)
        if to_go:
            return
        self._next_point += self.every
        points, self._points = self._points, {}
        histograms: dict[str, Tensor] = {}
        climbing = {p for group in optimizer.param_groups if group.get("maximize") for p in group["params"]}
        for name, gradient in gradients.items():
            before = self._before[name]
            update = widened(plain(self._named[name])) - widened(before)
            # An optimizer that climbs is measured as if it descended the negative.
            downhill = -update if self._named[name] in climbing else update
            quantities = zip(TENSOR_QUANTITIES, tensor_quantities(gradient, downhill, before), strict=True)
            points |= {f"{quantity}/{name}": value for quantity, value in quantities}
            points[f"cosine_with_adam/{name}"] = self._adam.cosine(name, downhill)
            histograms |= {f"gradient/{name}": gradient, f"update/{name}": update}
            for key, value in recurrent_states(optimizer, self._named[name]):
                quantities = zip(STATE_QUANTITIES, state_quantities(value), strict=True)
                points |= {f"state_{key}_{quantity}/{name}": number for quantity, number in quantities}
                histograms[f"{key}/{name}"] = value
        self._before = {}
        self._write(points, step)
        if self.histogram_every and step >= self._next_histogram:
            self._next_histogram = step + self.histogram_every
            for tag, value in histograms.items():
                shown = value.flatten()
                shown = shown[:: max(1, shown.numel() // HISTOGRAM_COORDINATES)].float()
                if shown.numel() and bool(torch.isfinite(shown).all()):
                    self.writer.add_histogram(tag, shown, step, bins=HISTOGRAM_BINS)  # pyright: ignore[reportArgumentType]

    def _write(self, points: dict[str, Tensor], step: int) -> None:
        # One transfer for all numbers, so that a GPU is waited for once.
        by_device: dict[torch.device, list[str]] = {}
        for tag, value in points.items():
            by_device.setdefault(value.device, []).append(tag)
        for tags in by_device.values():
            numbers = torch.stack([points[tag].double() for tag in tags]).tolist()
            write_scalars(self.writer, dict(zip(tags, numbers, strict=True)), step)


def named_parameters(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """Names of an optimizer's parameters (``group.index`` where they have none) and the parameters."""
    for number, group in enumerate(optimizer.param_groups):
        names = group.get("param_names") or [f"{number}.{index}" for index in range(len(group["params"]))]
        yield from zip(names, group["params"], strict=True)


def recurrent_states(optimizer: torch.optim.Optimizer, p: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Of a learned rule the recurrent states of a parameter, ``[units, *shape]``, as far as they lie here."""
    if isinstance(optimizer, LearnedOptimizer):
        own = optimizer.state[p]
        yield from ((key, sharding.local(own[key])) for key in optimizer.rule.recurrent_state if key in own)


def _gates(optimizer: LearnedOptimizer) -> Iterator[tuple[str, Tensor]]:
    """Of each tensor that is about to be moved, the gates of all layers: ``[3, layers * hidden_size, N]``."""
    names = iter(named_parameters(optimizer))
    for group in optimizer.param_groups:
        for _ in group["params"]:
            name, p = next(names)
            own = optimizer.state[p]
            if p.grad is None or not own or sharding.shards_of(p) is not None or p.numel() > MOST_COORDINATES_FOR_GATES:
                continue
            planned = group["num_steps"]
            value = widened(plain(p))
            state = {
                key: kept.to(value.dtype) if key in optimizer.rule.recurrent_state else kept
                for key, kept in own.items()
                if key not in BOOKKEEPING
            }
            gates = gates_of(
                optimizer.rule,
                name,
                widened(plain(p.grad)) * (-1.0 if group["maximize"] else 1.0),
                state,
                value,
                num_steps=None if planned is None else torch.tensor(float(planned), device=value.device),
            )
            if gates:
                yield name, torch.cat(gates, dim=1)
