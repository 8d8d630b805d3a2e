"""The meta-gradient of a window without a tape: run it plainly, keep its gradients, let the rule run over them again.

Where second derivatives are dropped and the rule reads gradients alone, updates are a function of phi and of data,

    theta_K = theta_0 + sum_k u_k(phi; g_0 ... g_k),    d L / d phi = sum_k < d L / d theta_{k+1}, d u_k / d phi >

and d L / d theta_k is a sum of gradients that the run has computed already. So a window keeps a few numbers for every
coordinate and step, and its states live in cache only, tile by tile (``kernels.native.lstm_replay``).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.func import vmap

from l2l_opt.kernels import native
from l2l_opt.rules.recurrent import GradientRule
from l2l_opt.types import Batch, Params, RuleState

LossesAndGradients = Callable[[Params, Batch], tuple[Tensor, Params]]
RECURRENT = ("hidden", "cell")


def can_replay(rule: Any, phi: Mapping[str, Tensor], params: Params, state: RuleState) -> bool:
    """Whether a window can be differentiated by replay: a rule that reads gradients alone, float32 on the CPU.

    Args:
        rule: the teacher.
        phi: the weights in use, which must be the rule's own.
        params: the students, which must not depend on anything that is to be differentiated.
        state: likewise.
    """
    if not isinstance(rule, GradientRule) or not params or not torch.is_grad_enabled():
        return False
    if any(phi.get(name) is not weight for name, weight in rule.named_parameters()):
        return False
    others = [*params.values(), *(value for own in state.values() for value in own.values())]
    recurrent = [own[key] for own in state.values() for key in RECURRENT]
    return native.serves([*phi.values(), *params.values()], states=recurrent) and not any(
        t.requires_grad for t in others
    )


def run_and_replay(
    rule: GradientRule,
    params: Params,
    state: RuleState,
    batches: Sequence[Batch],
    judging: Sequence[Batch] | None,
    losses_and_gradients: LossesAndGradients,
) -> tuple[Params, RuleState, Tensor]:
    """K steps of S students; what is returned is differentiable in the rule's weights.

    Args:
        rule: the teacher.
        params: parameter name -> ``[S, *shape]``.
        state: the rule's state, each tensor with a leading axis S.
        batches: K + 1 batches.
        judging: K + 1 batches whose losses are returned instead.
        losses_and_gradients: losses ``[S]`` of students on a batch, and their gradients.

    Returns:
        Params and state after K steps, and losses ``[K + 1, S]``.
    """
    window = _Window(rule, params, state)
    with torch.no_grad():
        losses = window.run(batches, judging, losses_and_gradients)
    ends = [*window.params.values(), *(window.state[name][key] for name in params for key in RECURRENT)]
    results = cast(tuple[Tensor, ...], _Replayed.apply(window, losses, len(ends), *ends, *rule.parameters()))
    moved = dict(zip(params, results[1:], strict=False))
    recurrent = iter(results[1 + len(params) :])
    after = {name: window.state[name] | {key: next(recurrent) for key in RECURRENT} for name in params}
    return moved, after, results[0]


@dataclass
class _Window:
    """What one window keeps: gradients and outputs of every step, and the state before the first.

    Attributes:
        rule: the teacher.
        params: where the students stand.
        state: likewise.
    """

    rule: GradientRule
    params: Params
    state: RuleState

    def __post_init__(self) -> None:
        self.first_state = self.state
        self.gradients: list[Params] = []
        self.judged: list[Params] = []
        self.outputs: list[dict[str, Tensor]] = []

    def run(
        self, batches: Sequence[Batch], judging: Sequence[Batch] | None, losses_and_gradients: LossesAndGradients
    ) -> Tensor:
        """Losses ``[K + 1, S]``; the students stand at the end afterwards."""
        losses: list[Tensor] = []
        weights, biases = self._weights()
        for index, (batch, judge) in enumerate(zip(batches, judging or batches, strict=True)):
            loss, gradients = losses_and_gradients(self.params, judge)
            losses.append(loss)
            self.judged.append(gradients)
            if index == len(batches) - 1:
                break
            if judging is not None:
                _, gradients = losses_and_gradients(self.params, batch)
            self.gradients.append(gradients)
            self._step(gradients, weights, biases)
        return torch.stack(losses)

    def _step(self, gradients: Params, weights: list[Tensor], biases: Tensor) -> None:
        looks = {name: self._look(gradient, self.state[name]) for name, gradient in gradients.items()}
        hidden, cell = ([_rows(self.state[name][key]) for name in gradients] for key in RECURRENT)
        # The first step leaves the state before the window as it is; later ones write over their own.
        into = (hidden, cell) if self.outputs else ([_like(h) for h in hidden], [_like(c) for c in cell])
        count = len(gradients)
        students = next(iter(gradients.values())).shape[0]
        outputs = native.lstm_forward(
            [inputs for inputs, _ in looks.values()],
            hidden,
            cell,
            [biases.expand(students, -1)] * count,
            weights,
            into=into,
        )[:count]
        self.outputs.append(dict(zip(gradients, outputs, strict=True)))
        state: RuleState = {}
        for index, (name, output) in enumerate(zip(gradients, outputs, strict=True)):
            self.params = self.params | {
                name: self.params[name] + self.rule.answer(output).reshape(gradients[name].shape)
            }
            shape = self.state[name]["hidden"].shape
            after = {key: rows[index].movedim(1, 0).reshape(shape) for key, rows in zip(RECURRENT, into, strict=True)}
            state[name] = looks[name][1] | after
        self.state = state

    def _look(self, gradient: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """``rule.look`` of S students: inputs ``[num_inputs, S, N]``, and their state but the body's."""
        own = {key: value for key, value in state.items() if key not in RECURRENT}
        inputs, after = vmap(self.rule.look, out_dims=(1, 0))(gradient, own)
        return inputs.reshape(*inputs.shape[:2], gradient[0].numel()), after

    def _weights(self) -> tuple[list[Tensor], Tensor]:
        weights, biases = self.rule.body.compiled()
        return [weight.unsqueeze(0) for weight in weights], biases.unsqueeze(0)

    def replay(self, d_losses: Tensor, d_ends: Sequence[Tensor]) -> list[Tensor | None]:
        """Derivatives of phi."""
        names, num_steps = list(self.params), len(self.gradients)
        d_params = dict(zip(names, d_ends, strict=False))
        recurrent = iter(d_ends[len(names) :])
        # Derivatives are float32 beside states in bfloat16 too.
        d_last = [(_rows(next(recurrent).float()), _rows(next(recurrent).float())) for _ in names]
        d_updates: list[Params] = []
        for step in range(num_steps, 0, -1):
            for name, gradient in self.judged[step].items():
                scale = d_losses[step].reshape(-1, *[1] * (gradient.dim() - 1))
                d_params[name] = d_params[name] + scale * gradient
            d_updates.append(dict(d_params))
        d_updates.reverse()
        with torch.enable_grad():
            weights, biases = self._weights()
            inputs = [self._inputs(name) for name in names]
            outputs = [torch.cat([step[name] for step in self.outputs]).requires_grad_() for name in names]
            answers = [self.rule.answer(output) for output in outputs]
        d_answers = [
            torch.cat([d[name].reshape(1, -1, answer.shape[2]) for d in d_updates])
            for name, answer in zip(names, answers, strict=True)
        ]
        needs_d_inputs = any(x.requires_grad for x in inputs)
        students = next(iter(self.params.values())).shape[0]
        hidden, cell = ([_rows(self.first_state[name][key]) for name in names] for key in RECURRENT)
        with torch.no_grad():
            d_inputs, d_biases, d_weights = native.lstm_replay(
                inputs,
                hidden,
                cell,
                [biases.expand(students, -1)] * len(names),
                weights,
                torch.autograd.grad(answers, outputs, d_answers),
                d_last,
                num_steps=num_steps,
                needs_d_inputs=needs_d_inputs,
            )
        d_bias = torch.stack(d_biases).sum((0, 1)).unsqueeze(0)
        phi = list(self.rule.parameters())
        return list(
            torch.autograd.grad(
                [*weights, biases, *(inputs if needs_d_inputs else [])],
                phi,
                [*d_weights, d_bias, *d_inputs],
                allow_unused=True,
            )
        )

    def _inputs(self, name: str) -> Tensor:
        """All steps' inputs of one tensor again, now differentiable in phi: ``[K * num_inputs, S, N]``."""
        state, parts = self.first_state[name], []
        for step in self.gradients:
            inputs, state = self._look(step[name], state)
            parts.append(inputs)
        return torch.cat(parts)


def _rows(value: Tensor) -> Tensor:
    """``[S, rows, *shape]`` as ``[rows, S, N]``."""
    return value.reshape(*value.shape[:2], value.shape[2:].numel()).movedim(0, 1)


def _like(rows: Tensor) -> Tensor:
    """New memory for ``[rows, S, N]``, laid out as ``[S, rows, N]``."""
    return torch.empty_like(rows.movedim(0, 1), memory_format=torch.contiguous_format).movedim(0, 1)


class _Replayed(torch.autograd.Function):
    """The results of a window as a function of phi."""

    @staticmethod
    def forward(ctx: Any, window: _Window, losses: Tensor, count: int, *ends_and_phi: Tensor) -> tuple[Tensor, ...]:
        ctx.window, ctx.count = window, count
        # Not read, but torch then refuses a backward pass after phi was changed in place.
        ctx.save_for_backward(*ends_and_phi[count:])
        # Views: results must be other objects than arguments, and are the same memory.
        return losses.view_as(losses), *(end.view_as(end) for end in ends_and_phi[:count])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, d_losses: Tensor, *d_ends: Tensor
    ) -> tuple[Tensor | None, ...]:
        assert ctx.saved_tensors is not None
        return None, None, None, *[None] * ctx.count, *ctx.window.replay(d_losses, d_ends)
