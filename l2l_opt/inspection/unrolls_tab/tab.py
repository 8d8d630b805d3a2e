"""What UnrollMonitor hands over for the tab, point by point."""

import math
import time
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from l2l_opt.inspection.measures.adam_reference import AdamReference
from l2l_opt.inspection.measures.optimizer_state import named_parameters, recurrent_states
from l2l_opt.inspection.unrolls_tab.recorder import UnrollRecorder, choose_weights
from l2l_opt.inspection.unrolls_tab.records import QUANTITIES, Header
from l2l_opt.inspection.unrolls_tab.responses import measure_responses
from l2l_opt.optimizer.learned_optimizer import LearnedOptimizer
from l2l_opt.optimizer.local_parameters import fresh_state, plain, widened


class UnrollTab:
    """Records of one optimizer's run, begun with its first point.

    Args:
        writer: where to.
        optimizer: whose run it is.
        outer_step: of its rule, where that is being meta-trained.
    """

    def __init__(self, writer: SummaryWriter, optimizer: torch.optim.Optimizer, *, outer_step: int | None = None):
        self.writer, self.optimizer, self.outer_step = writer, optimizer, outer_step
        self.recorder: UnrollRecorder | None = None
        self._seen_fresh = False

    def begin(self, params: Mapping[str, Tensor], adam: AdamReference) -> UnrollRecorder:
        """Write the header, where it is not written yet.

        Args:
            params: local, by name.
            adam: whose followed coordinates are recorded.
        """
        if self.recorder is None:
            name, horizon, units = type(self.optimizer).__name__, None, 0
            if isinstance(self.optimizer, LearnedOptimizer):
                name = self.optimizer.rule.registry_name or name
                horizon = self.optimizer.param_groups[0]["num_steps"]
                units = _units(self.optimizer)
            entries = choose_weights({key: tuple(p.shape) for key, p in params.items()}, adam.strides, units)
            header = Header(name, horizon, tuple(entries), units)
            self.recorder = UnrollRecorder(self.writer, header, outer_step=self.outer_step)
        return self.recorder

    def add_responses(
        self, step: int, params: Mapping[str, Tensor], adam: AdamReference, *, seconds: float = math.inf
    ) -> None:
        """Write the rule's responses before a step, with the first ones those at the state before a first step.

        Args:
            step: inner step.
            params: local, by name.
            adam: before it has seen the step's gradient.
            seconds: after which no further tensor is begun.
        """
        recorder, begun = self.begin(params, adam), time.perf_counter()
        entries = {entry.name: entry for entry in recorder.header.tensors}
        indices = {name: index for index, name in enumerate(entries)}
        states = [(step, False)] if self._seen_fresh or not step else [(0, True), (step, False)]
        self._seen_fresh = True
        for number, fresh in states:
            left = seconds - (time.perf_counter() - begun)
            found = measure_responses(self.optimizer, adam, entries, fresh=fresh, seconds=left)
            recorder.add_responses(number, {indices[name]: response for name, response in found.items()})

    def add(
        self,
        step: int,
        loss: float,
        numbers: Mapping[str, float],
        moved: Iterable[tuple[str, Tensor, Tensor, Tensor, Tensor]],
        params: Mapping[str, Tensor],
        adam: AdamReference,
    ) -> None:
        """Take in a point.

        Args:
            step: inner step.
            loss: before it.
            numbers: by ``QUANTITY/TENSOR``, as charts have them.
            moved: name, parameter, local values before, gradient and update of each tensor that had a gradient.
            params: local, by name.
            adam: as it follows the run.
        """
        recorder = self.begin(params, adam)
        entries = {entry.name: entry for entry in recorder.header.tensors}
        table, weights, hidden = {}, {}, {}
        for name, whole, before, gradient, update in moved:
            if name not in entries:
                continue
            own = [numbers.get(f"{quantity}/{name}", math.nan) for quantity in QUANTITIES[:-1]]
            table[name] = [*own, self._skipped(whole)]
            weights[name] = recorder.gather(name, (before, gradient, update))
            for _, state in list(recurrent_states(self.optimizer, whole))[:1]:
                if recorder.header.units == state.shape[0]:
                    hidden[name] = recorder.units_of(entries[name], widened(plain(state)))
        recorder.add(step, loss, table, weights, hidden)

    def close(self) -> None:
        """Write what is left."""
        if self.recorder is not None:
            self.recorder.flush()

    def _skipped(self, p: Tensor) -> float:
        own = self.optimizer.state.get(p, {})
        if not isinstance(self.optimizer, LearnedOptimizer) or "skipped" not in own:
            return 0.0
        skipped, taken = float(own["skipped"]), float(own["step"])
        return skipped / max(skipped + taken, 1.0)


def _units(optimizer: LearnedOptimizer) -> int:
    """Recurrent units that the rule keeps of each weight, of the first state that it has."""
    for name, p in named_parameters(optimizer):
        state = fresh_state(optimizer.rule, name, p, state_dtype=None)
        return next((state[key].shape[0] for key in optimizer.rule.recurrent_state if key in state), 0)
    return 0
