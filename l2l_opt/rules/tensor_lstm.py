"""A rule for every weight, whose steps an LSTM for every tensor sizes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from l2l_opt.rules.base import UpdateRule, call_rule, initial_step, part_of_rule, register_rule
from l2l_opt.rules.features import progress
from l2l_opt.rules.recurrent import RecurrentBody
from l2l_opt.rules.sharded_sums import tensor_rms, tensor_sum
from l2l_opt.types import Params, RuleState

FRACTIONS = (0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1)
"""Of a run, around which features of its clock change."""
NUM_INPUTS = len(FRACTIONS) + 7
MOST_LOG = 3.0
"""The logarithm up to which steps may be larger or smaller than those of the rule for weights."""
TINY = 1e-16
"""Below this a root mean square is taken for this."""
OWN = ("tensor_first_rms", "tensor_first_gradient", "tensor_hidden", "tensor_cell")
OF_LOSS = ("tensor_first_loss", "tensor_usual_loss")
LOSS_BETA = 0.9


@register_rule("tensor-lstm")
class TensorLSTM(UpdateRule):
    """A rule that points at every weight, and a small LSTM that sees whole tensors and sizes their steps.

    With u and h the updates and the state of another rule of this package, f = t / T:

        x = (tanh(10 (f - c_1)), ..., tanh(10 (f - c_9)), T known, tanh(t / 10 - 1), log rms(p) / 4,
             log(rms(p) / rms(p_0)), log(rms(g) / rms(g_0)) / 2, log(count) / 5 - 1, vector)      of a tensor
             and, where it reads losses, (log(loss / loss_0) / 2, log(loss / loss_0) - their usual value)
        o, H' = LSTM_phi(x, H)
        update = exp(3 tanh(o / 3)) u

    How far to go depends on what a tensor shows over many steps, where to go on what a weight shows now: so memory is
    kept once a tensor, and no state is added to that of a weight. The read-out starts near zero: a fresh rule is the
    other one. The other rule's steps are plain PyTorch's here, where alone it may have a compiled one.

    Args:
        rule: of the weights; its name or notation, or a rule; any but this one.
        config: its arguments, where it is named.
        hidden_size: units of the LSTM.
        loss_features: whether it reads the training loss, which ``LearnedOptimizer.step(loss=...)`` or its closure
            passes; both features are 0 where none is, or where it or the first one is not positive.

    State of a parameter:
        that of ``rule``; tensor_first_rms, tensor_first_gradient: 0-dim, of the tensor and its gradient at first;
        tensor_hidden, tensor_cell: ``[hidden_size, 1, ..., 1]``, one for the tensor; where it reads losses
        tensor_first_loss and tensor_usual_loss:
        0-dim, the first one, 0 before, and the average (decay .9) of log(loss / loss_0).

    Raises:
        ValueError: an unknown rule, this one among them, arguments that are no dict, a size that is not a positive
            integer.

    Source: arXiv 2501.12670, section 4 (Celo), after arXiv 2211.09760 (VeLO): an LSTM a tensor over a perceptron a
    weight.
    Differs from source: the LSTM does not read other tensors, reads losses only if it is set to, and multiplies the
    steps of any rule.
    """

    fractions: Tensor

    def __init__(
        self,
        *,
        rule: Any = "celo2",
        config: Mapping[str, Any] | None = None,
        hidden_size: int = 16,
        loss_features: bool = False,
    ):
        part = part_of_rule(rule, config)
        if any(isinstance(module, TensorLSTM) for module in part.modules()):
            raise ValueError(f"the rule below a tensor-lstm must be another one; got {rule!r}, use e.g. rule=celo2")
        super().__init__(
            rule=part.registry_name, config=part.config, hidden_size=hidden_size, loss_features=loss_features
        )
        self.part, self.loss_features = part, bool(loss_features)
        self.reads_loss, self.reads_names = self.loss_features or part.reads_loss, part.reads_names
        num_inputs = NUM_INPUTS + len(OF_LOSS) * self.loss_features
        self.body = RecurrentBody(num_inputs=num_inputs, hidden_size=hidden_size, num_layers=1)
        torch.nn.init.uniform_(self.body.readout.weight, -0.01, 0.01)
        self.register_buffer("fractions", torch.tensor(FRACTIONS, dtype=torch.float64), persistent=False)
        self.recurrent_state = (*part.recurrent_state, "tensor_hidden", "tensor_cell")
        self.moving_averages = part.moving_averages

    def init_state(self, params: Params) -> RuleState:
        state: RuleState = {}
        for name, own in self.part.init_state(params).items():
            param = params[name].detach()
            kept = self.body.init_state(param.new_zeros([1] * param.dim()))
            values = (tensor_rms(param), param.new_zeros(()), kept["hidden"], kept["cell"])
            state[name] = {"step": initial_step(param)} | own | dict(zip(OWN, values, strict=True))
            state[name] |= {key: param.new_zeros(()) for key in OF_LOSS if self.loss_features}
        return state

    def forward(
        self,
        grads: Params,
        state: RuleState,
        params: Params,
        *,
        num_steps: Tensor | None = None,
        loss: Tensor | None = None,
    ) -> tuple[Params, RuleState]:
        if not grads:
            return {}, {}
        ours = (*OWN, *OF_LOSS)
        of_part = {name: {key: value for key, value in state[name].items() if key not in ours} for name in grads}
        updates, next_state = call_rule(self.part, grads, of_part, params, num_steps=num_steps, loss=loss)
        inputs: Params = {}
        firsts: Params = {}
        for name, gradient in grads.items():
            own, rms = state[name], tensor_rms(gradient).clamp(min=TINY)
            firsts[name] = torch.where(own["tensor_first_gradient"] > 0, own["tensor_first_gradient"], rms.detach())
            found = tensor_features(gradient, params[name], own, rms / firsts[name], num_steps, self.fractions)
            if self.loss_features:
                shown, kept_losses = loss_features(loss, own, like=rms)
                found = torch.cat([found, shown])
                next_state[name] = next_state[name] | kept_losses
            inputs[name] = found.reshape(-1, *[1] * gradient.dim())
        kept = {name: {"hidden": state[name]["tensor_hidden"], "cell": state[name]["tensor_cell"]} for name in grads}
        sizes, kept = self.body(inputs, kept)
        for name in grads:
            own = (state[name]["tensor_first_rms"], firsts[name], kept[name]["hidden"], kept[name]["cell"])
            next_state[name] = next_state[name] | dict(zip(OWN, own, strict=True))
        factors = {name: torch.exp(MOST_LOG * torch.tanh(size / MOST_LOG)) for name, size in sizes.items()}
        return {name: factors[name] * update for name, update in updates.items()}, next_state

    def decay_schedule(self, progress: float) -> float:
        return self.part.decay_schedule(progress)


def tensor_features(
    gradient: Tensor,
    param: Tensor,
    state: dict[str, Tensor],
    growth: Tensor,
    num_steps: Tensor | None,
    centres: Tensor,
) -> Tensor:
    """Return what a tensor shows of itself and of the run, ``[NUM_INPUTS]``, each of order one.

    Args:
        gradient: of any shape.
        param: likewise.
        state: with ``step`` and ``tensor_first_rms``.
        growth: 0-dim, of the gradient's root mean square since the first.
        num_steps: 0-dim, planned steps; None where unknown.
        centres: ``FRACTIONS``, on the device.
    """
    rms, first = tensor_rms(param), state["tensor_first_rms"].to(param.dtype)
    fraction = progress(state["step"], num_steps, dtype=param.dtype)
    known = torch.zeros_like(rms) if fraction is None else torch.ones_like(rms)
    fraction = torch.zeros_like(rms) if fraction is None else fraction
    grown = torch.where(first > 0, rms / torch.where(first > 0, first, 1.0), 1.0)
    values = [
        known,
        torch.tanh(state["step"].to(param.dtype) / 10 - 1),
        rms.clamp(1e-6, 1e6).log() / 4,
        grown.clamp(1e-2, 1e2).log(),
        growth.clamp(1e-6, 1e3).log() / 2,
        tensor_sum(torch.ones_like(gradient)).clamp(min=1).log() / 5 - 1,
        torch.full_like(rms, float(gradient.dim() < 2)),
    ]
    return torch.cat([known * torch.tanh(10 * (fraction - centres.to(param.dtype))), torch.stack(values)])


def loss_features(loss: Tensor | None, state: dict[str, Tensor], *, like: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what the loss shows of the run, ``[2]``, and the state of that: only ratios of losses, no loss's unit.

    Args:
        loss: 0-dim; None where nobody passes one.
        state: with ``tensor_first_loss`` and ``tensor_usual_loss``.
        like: 0-dim, whose dtype the features have.
    """
    first, usual = state["tensor_first_loss"], state["tensor_usual_loss"]
    if loss is None:
        return like.new_zeros(2), {"tensor_first_loss": first, "tensor_usual_loss": usual}
    now = loss.to(like.dtype)
    known = (now > 0) & torch.isfinite(now)
    first = torch.where(known & (first <= 0), now, first)
    log = (torch.where(known, now, 1.0) / torch.where(known, first, 1.0)).clamp(1e-6, 1e6).log()
    slope = torch.where(known, log - usual, 0.0)
    shown = torch.stack([log / 2, slope.clamp(-2, 2)])
    return shown, {"tensor_first_loss": first, "tensor_usual_loss": usual + (1 - LOSS_BETA) * slope}
