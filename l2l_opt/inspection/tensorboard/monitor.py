"""UnrollMonitor: what any torch optimizer does to its parameters, in TensorBoard."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from l2l_opt.inspection.measures.adam_reference import AdamReference
from l2l_opt.inspection.measures.gates import GATES, gates_of, saturation
from l2l_opt.inspection.measures.optimizer_state import named_parameters, recurrent_states, rule_inputs
from l2l_opt.inspection.measures.quantities import (
    STATE_QUANTITIES,
    TENSOR_QUANTITIES,
    state_quantities,
    tensor_quantities,
)
from l2l_opt.inspection.tensorboard.cadence import Budget, Cadence
from l2l_opt.inspection.tensorboard.scalars import write_scalars
from l2l_opt.inspection.unrolls_tab.tab import UnrollTab
from l2l_opt.optimizer.learned_optimizer import LearnedOptimizer
from l2l_opt.optimizer.local_parameters import plain, widened

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
EXTRA_SHARE = SHARE / 2
"""That gates, histograms and responses may take, each."""
EXPECTED_POINTS = 10
"""As long as so many points, gates and histograms are expected to take at first, each."""
EXPECTED_SECONDS = 1.0
"""Responses are expected to take at first, since torch loads its vmap."""
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

    The same points go into the tab "Unrolls", with some weights of each tensor and, of a learned rule, its response at
    the state of one of them; of tensors that have a gradient at the first point.

    A learned rule and Adam with a monitor and a folder each show in the same charts. Of a sharded parameter this
    device's shard is measured. The optimizer's steps are the same with it as without, bit for bit.

    Args:
        optimizer: any ``torch.optim.Optimizer``.
        writer: where to; it stays open.
        every: steps between points. None: 100, put off by another 100 for as long as points have taken more than 1 %
            of the time since the monitor was attached; the first step always has one. Gates, histograms and responses
            wait until each fits into .5 %, so that steps take less than 5 % longer, whatever the model.
        charts_every: least steps between points that go into charts too; 0 for none, all of them where None.
        histogram_every: least steps between histograms, which come with a point; 0 for none, ten times those between
            points where None.
        responses_every: least steps between responses, which come with a point; 0 for none, ten times those between
            points where None.
        outer_step: of the rule, where it is being meta-trained.

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
        charts_every: int | None = None,
        histogram_every: int | None = None,
        responses_every: int | None = None,
        outer_step: int | None = None,
    ):
        if every is not None and every < 1:
            raise ValueError(f"every must be at least 1; got {every}, use e.g. 10")
        if not hasattr(writer, "file_writer"):
            raise ValueError(f"writer must be a SummaryWriter; got {writer!r}, use SummaryWriter('runs/mine')")
        self.optimizer, self.writer = optimizer, writer
        self.every = USUAL_STEPS if every is None else every
        share, extra = (SHARE, EXTRA_SHARE) if every is None else (None, None)
        charts = self.every if charts_every is None else charts_every
        histograms = 10 * self.every if histogram_every is None else histogram_every
        responses = 10 * self.every if responses_every is None else responses_every
        self._budget = Budget(share)
        self._charts = Cadence(charts, "charts_every")
        self._gates = Cadence(charts, "charts_every", share=extra, seconds=math.inf)
        self._histograms = Cadence(histograms, "histogram_every", share=extra, seconds=math.inf)
        self._responses = Cadence(responses, "responses_every", share=extra, seconds=EXPECTED_SECONDS)
        self._tab = UnrollTab(writer, optimizer, outer_step=outer_step)
        self.num_steps = 0
        self._spent_before = 0.0
        self._next_point, self._loss = 0, math.nan
        self._before: dict[str, Tensor] = {}
        self._points: dict[str, Tensor] = {}
        self._named: dict[str, Tensor] = {}
        self._adam: AdamReference | None = None
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    def log_loss(self, loss: Tensor | float) -> None:
        """Note the loss that the next step starts from, where that step is written: ``Loss/student``."""
        if self.num_steps == self._next_point:
            self._loss = loss.detach().item() if isinstance(loss, Tensor) else loss
            if self._charts.every:
                write_scalars(self.writer, {"Loss/student": self._loss}, self.num_steps)

    def detach(self) -> None:
        """Leave the optimizer as it was."""
        for handle in self._handles:
            handle.remove()
        self._tab.close()
        self._handles, self._before, self._points, self._adam = [], {}, {}, None

    def __enter__(self) -> "UnrollMonitor":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.detach()

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if self.num_steps != self._next_point:
            return
        self._spent_before = self._budget.spent
        with self._budget.spending():
            adam = self._reference(optimizer)
            # What the step is about to change.
            self._before = {name: plain(p).detach().clone() for name, p in self._named.items()}
        if isinstance(optimizer, LearnedOptimizer):
            self._look_ahead(optimizer, adam)

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        step = self.num_steps
        self.num_steps += 1
        to_go = self._next_point - step
        if to_go >= ADAM_STEPS:
            return
        if to_go == ADAM_STEPS - 1 and self._budget.left() < 0:
            self._next_point += self.every
            return
        with self._budget.spending():
            histograms = self._measure(optimizer, step, to_go)
        if to_go:
            return
        for own in (self._gates, self._histograms):
            own.expect(EXPECTED_POINTS * (self._budget.spent - self._spent_before))
        if self._histograms.is_due(step):
            with self._histograms.taken(step):
                self._write_histograms(histograms, step)

    @torch.no_grad()
    def _look_ahead(self, optimizer: LearnedOptimizer, adam: AdamReference) -> None:
        """Measure what the state before a step alone can give: gates and responses."""
        step = self.num_steps
        if optimizer.state and self._charts.is_due(step) and self._gates.is_due(step):
            with self._gates.taken(step):
                self._points = {
                    f"gate_{gate}_{end}/{name}": share
                    for name, gates in _gates(optimizer)
                    for gate, shares in zip(GATES, saturation(gates), strict=True)
                    for end, share in zip(("closed", "open"), shares, strict=True)
                }
        if self._responses.is_due(step):
            seconds = self._responses.budget.left()
            with self._responses.taken(step):
                self._tab.add_responses(step, self._local(), adam, seconds=seconds)

    def _reference(self, optimizer: torch.optim.Optimizer) -> AdamReference:
        if self._adam is None or self.num_steps == self._next_point:
            self._named = dict(named_parameters(optimizer))
        if self._adam is None:
            self._adam = AdamReference(self._local(), coordinates=ADAM_COORDINATES)
        return self._adam

    def _local(self) -> dict[str, Tensor]:
        return {name: plain(p) for name, p in self._named.items()}

    @torch.no_grad()
    def _measure(self, optimizer: torch.optim.Optimizer, step: int, to_go: int) -> dict[str, Tensor]:
        """Follow the gradients of the steps before a point; write the point at its own, and return its histograms'."""
        adam = self._reference(optimizer)
        if to_go == ADAM_STEPS - 1:
            adam.begin_stretch()
        gradients = {
            name: plain(p.grad)
            for name, p in self._named.items()
            if p.grad is not None and p.grad.layout == torch.strided
        }
        adam.observe(gradients)
        if to_go:
            return {}
        self._next_point += self.every
        points, self._points = self._points, {}
        histograms: dict[str, Tensor] = {}
        moved = []
        climbing = {p for group in optimizer.param_groups if group.get("maximize") for p in group["params"]}
        for name, gradient in gradients.items():
            before, whole = self._before[name], self._named[name]
            update = widened(plain(whole)) - widened(before)
            # An optimizer that climbs is measured as if it descended the negative.
            downhill = -update if whole in climbing else update
            quantities = zip(TENSOR_QUANTITIES, tensor_quantities(gradient, downhill, before), strict=True)
            points |= {f"{quantity}/{name}": value for quantity, value in quantities}
            points[f"cosine_with_adam/{name}"] = adam.cosine(name, downhill)
            histograms |= {f"gradient/{name}": gradient, f"update/{name}": update}
            moved.append((name, whole, before, gradient, update))
            for key, value in recurrent_states(optimizer, whole):
                quantities = zip(STATE_QUANTITIES, state_quantities(value), strict=True)
                points |= {f"state_{key}_{quantity}/{name}": number for quantity, number in quantities}
                histograms[f"{key}/{name}"] = value
        numbers, self._before = _numbers(points), {}
        self._tab.add(step, self._loss, numbers, moved, self._local(), adam)
        self._loss = math.nan
        if self._charts.is_due(step):
            with self._charts.taken(step):
                write_scalars(self.writer, numbers, step)
        return histograms

    def _write_histograms(self, histograms: dict[str, Tensor], step: int) -> None:
        for tag, value in histograms.items():
            shown = value.flatten()
            shown = shown[:: max(1, shown.numel() // HISTOGRAM_COORDINATES)].float()
            if shown.numel() and bool(torch.isfinite(shown).all()):
                self.writer.add_histogram(tag, shown, step, bins=HISTOGRAM_BINS)  # pyright: ignore[reportArgumentType]


def _numbers(points: dict[str, Tensor]) -> dict[str, float]:
    """Values of 0-dim tensors, by one transfer a device, so that a GPU is waited for once."""
    by_device: dict[torch.device, list[str]] = {}
    for tag, value in points.items():
        by_device.setdefault(value.device, []).append(tag)
    numbers: dict[str, float] = {}
    for tags in by_device.values():
        numbers |= zip(tags, torch.stack([points[tag].double() for tag in tags]).tolist(), strict=True)
    return numbers


def _gates(optimizer: LearnedOptimizer) -> Iterator[tuple[str, Tensor]]:
    """Of each tensor that is about to be moved, the gates of all layers: ``[3, layers * hidden_size, N]``."""
    for name, own in rule_inputs(optimizer):
        if own.param.numel() <= MOST_COORDINATES_FOR_GATES:
            gates = gates_of(optimizer.rule, name, own.gradient, own.state, own.param, num_steps=own.num_steps)
            if gates:
                yield name, torch.cat(gates, dim=1)
