"""The meta-gradient of a window without a tape: run it plainly, keep its gradients, let the rule run over them again.

Where second derivatives are dropped and the rule reads gradients alone, updates are a function of phi and of data,

    theta_K = theta_0 + sum_k u_k(phi; g_0 ... g_k),    d L / d phi = sum_k < d L / d theta_{k+1}, d u_k / d phi >

and d L / d theta_k is a sum of gradients that the run has computed already. So a window keeps a few numbers for every
coordinate and step, and its states are in cache only, tile by tile (``kernels.native_lstm.replay``).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.func import vmap

from l2l_opt.kernels import native, native_lstm
from l2l_opt.kernels.operands import Operands
from l2l_opt.rules.recurrent import GradientRule
from l2l_opt.types import Batch, Params, RuleState

LossesAndGradients = Callable[[Params, Batch], tuple[Tensor, Params]]
RECURRENT = ("hidden", "cell")
BLOCK_BYTES = 2**25
"""Of temporary memory in the backward pass."""


@dataclass(frozen=True)
class CoordinateSample:
    """The coordinates of a large tensor through which a window is differentiated: every n-th, each counted n times.

    With an offset that is uniform in 0 ... n - 1 the meta-gradient's expectation is that of all coordinates, and the
    backward pass, most of a window's work, takes an n-th of the time. Tensors too small for that are taken whole.

    Attributes:
        stride: n, of coordinates; 1 for all.
        offset: the first.
    """

    stride: int = 1
    offset: int = 0

    def of(self, count: int) -> tuple[int, int]:
        """Stride and offset for a tensor of so many coordinates."""
        return (self.stride, self.offset) if count >= self.stride * native.TILE else (1, 0)


def can_replay(rule: Any, phi: Mapping[str, Tensor], params: Params, state: RuleState) -> bool:
    """Whether a window can be differentiated by replay: a rule that reads gradients alone, float32 on the CPU.

    Args:
        rule: the update rule.
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
    loss_batches: Sequence[Batch] | None,
    losses_and_gradients: LossesAndGradients,
    sample: CoordinateSample,
) -> tuple[Params, RuleState, Tensor]:
    """K steps of S students; what is returned is differentiable in the rule's weights.

    Args:
        rule: the update rule.
        params: parameter name -> ``[S, *shape]``.
        state: the rule's state, each tensor with a leading axis S.
        batches: K + 1 batches.
        loss_batches: K + 1 batches whose losses are returned instead.
        losses_and_gradients: losses ``[S]`` of students on a batch, and their gradients.
        sample: the coordinates that the meta-gradient is estimated from.

    Returns:
        Params and state after K steps, and losses ``[K + 1, S]``.
    """
    window = _Window(rule, params, state, sample)
    with torch.no_grad():
        losses = window.run(batches, loss_batches, losses_and_gradients)
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
        rule: the update rule.
        params: where the students stand.
        state: likewise.
        sample: the coordinates that the backward pass goes through.
    """

    rule: GradientRule
    params: Params
    state: RuleState
    sample: CoordinateSample

    def __post_init__(self) -> None:
        self.first_state = self.state
        self.gradients: list[Params] = []
        self.loss_gradients: list[Params] = []
        self.outputs: list[dict[str, Tensor]] = []

    def run(
        self, batches: Sequence[Batch], loss_batches: Sequence[Batch] | None, losses_and_gradients: LossesAndGradients
    ) -> Tensor:
        """Losses ``[K + 1, S]``; the students stand at the end afterwards."""
        losses: list[Tensor] = []
        weights, biases = self._weights()
        for index, (batch, of_loss) in enumerate(zip(batches, loss_batches or batches, strict=True)):
            loss, gradients = losses_and_gradients(self.params, of_loss)
            losses.append(loss)
            self.loss_gradients.append(gradients)
            if index == len(batches) - 1:
                break
            if loss_batches is not None:
                _, gradients = losses_and_gradients(self.params, batch)
            self.gradients.append(gradients)
            self._step(gradients, weights, biases)
        return torch.stack(losses)

    def _step(self, gradients: Params, weights: list[Tensor], biases: Tensor) -> None:
        features = {name: self._features(gradient, self.state[name]) for name, gradient in gradients.items()}
        hidden, cell = ([_rows(self.state[name][key]) for name in gradients] for key in RECURRENT)
        # The first step leaves the state before the window as it is; later ones write over their own.
        into = (hidden, cell) if self.outputs else ([_like(h) for h in hidden], [_like(c) for c in cell])
        count = len(gradients)
        students = next(iter(gradients.values())).shape[0]
        own_biases = [biases.expand(students, -1)] * count
        operands = Operands([inputs for inputs, _ in features.values()], hidden, cell, own_biases, weights)
        outputs = native_lstm.forward(operands, into=into)[:count]
        self.outputs.append(dict(zip(gradients, outputs, strict=True)))
        state: RuleState = {}
        for index, (name, output) in enumerate(zip(gradients, outputs, strict=True)):
            self.params = self.params | {
                name: self.params[name] + self.rule.output(output).reshape(gradients[name].shape)
            }
            shape = self.state[name]["hidden"].shape
            after = {key: rows[index].movedim(1, 0).reshape(shape) for key, rows in zip(RECURRENT, into, strict=True)}
            state[name] = features[name][1] | after
        self.state = state

    def _features(self, gradient: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """``rule.features`` of S students: inputs ``[num_inputs, S, N]``, and their state but the body's."""
        own = {key: value for key, value in state.items() if key not in RECURRENT}
        inputs, after = vmap(self.rule.features, out_dims=(1, 0))(gradient, own)
        return inputs.reshape(*inputs.shape[:2], gradient[0].numel()), after

    def _weights(self) -> tuple[list[Tensor], Tensor]:
        weights, biases = self.rule.body.compiled()
        return [weight.unsqueeze(0) for weight in weights], biases.unsqueeze(0)

    def replay(self, d_losses: Tensor, d_ends: Sequence[Tensor]) -> list[Tensor | None]:
        """Return derivatives of phi, summed over blocks of coordinates so that memory does not grow with them."""
        phi = list(self.rule.parameters())
        with torch.enable_grad():
            weights, biases = self._weights()
        d_weights, d_biases = [torch.zeros_like(weight) for weight in weights], torch.zeros_like(biases)
        through_features: list[Tensor | None] = [None] * len(phi)
        recurrent = iter(d_ends[len(self.params) :])
        for name, d_params in zip(self.params, d_ends, strict=False):
            # Derivatives are float32 beside states in bfloat16 too.
            d_states = [_rows(next(recurrent).float()) for _ in RECURRENT]
            stride, _ = self.sample.of(d_states[0].shape[-1])
            for block in self._blocks(name):
                d_updates = stride * self._d_updates(name, block, d_losses, d_params)
                output = torch.cat([step[name][..., block] for step in self.outputs]).requires_grad_()
                with torch.enable_grad():
                    inputs, updates = self._inputs(name, block), self.rule.output(output)
                (d_output,) = torch.autograd.grad(updates, output, d_updates)
                hidden, cell = (_rows(self.first_state[name][key])[..., block] for key in RECURRENT)
                own_biases = biases.detach().expand(inputs.shape[1], -1)
                own_weights = [weight.detach() for weight in weights]
                operands = Operands([inputs.detach()], [hidden], [cell], [own_biases], own_weights)
                d_inputs, d_block_biases, d_block_weights = native_lstm.replay(
                    operands,
                    [d_output],
                    [tuple(stride * d[..., block] for d in d_states)],
                    num_steps=len(self.gradients),
                    needs_d_inputs=inputs.requires_grad,
                )
                for total, own in zip(d_weights, d_block_weights, strict=True):
                    total += own
                d_biases += d_block_biases[0].sum(0)
                if inputs.requires_grad:
                    own = torch.autograd.grad(inputs, phi, d_inputs[0], allow_unused=True)
                    through_features = [_sum(pair) for pair in zip(through_features, own, strict=True)]
        through_body = torch.autograd.grad([*weights, biases], phi, [*d_weights, d_biases], allow_unused=True)
        return [_sum(pair) for pair in zip(through_body, through_features, strict=True)]

    def _blocks(self, name: str) -> Iterator[slice]:
        """Yield a tensor's sampled coordinates in blocks whose inputs, of all students and steps, take BLOCK_BYTES."""
        students, *shape = self.params[name].shape
        numbers = 3 * self.rule.body.num_inputs + 6
        length = BLOCK_BYTES // (4 * numbers * len(self.gradients) * students * native.TILE)
        total = math.prod(shape)
        stride, offset = self.sample.of(total)
        step = max(length, 1) * native.TILE * stride
        return (slice(start, min(start + step, total), stride) for start in range(offset, total, step))

    def _d_updates(self, name: str, block: slice, d_losses: Tensor, d_end: Tensor) -> Tensor:
        """Return d meta-loss / d update of every step, ``[K, S, n]``: of all later losses, and of the end."""
        d_params = _flat(d_end)[:, block]
        found: list[Tensor] = []
        for d_loss, gradients in zip(reversed(d_losses[1:]), reversed(self.loss_gradients[1:]), strict=True):
            d_params = d_params + d_loss.unsqueeze(1) * _flat(gradients[name])[:, block]
            found.append(d_params)
        return torch.stack(found[::-1])

    def _inputs(self, name: str, block: slice) -> Tensor:
        """All steps' inputs of a block again, now differentiable in phi: ``[K * num_inputs, S, n]``."""
        state = {
            key: value if value.dim() == 1 else _rows(value)[..., block].movedim(0, 1)
            for key, value in self.first_state[name].items()
        }
        parts: list[Tensor] = []
        for step in self.gradients:
            inputs, state = self._features(_flat(step[name])[:, block], state)
            parts.append(inputs)
        return torch.cat(parts)


def _flat(value: Tensor) -> Tensor:
    """``[S, *shape]`` as ``[S, N]``."""
    return value.reshape(value.shape[0], value.shape[1:].numel())


def _sum(pair: tuple[Tensor | None, Tensor | None]) -> Tensor | None:
    given = [value for value in pair if value is not None]
    return sum(given[1:], start=given[0]) if given else None


def _rows(value: Tensor) -> Tensor:
    """``[S, rows, *shape]`` as ``[rows, S, N]``."""
    return value.reshape(*value.shape[:2], value.shape[2:].numel()).movedim(0, 1)


def _like(rows: Tensor) -> Tensor:
    """Return new memory for ``[rows, S, N]``, laid out as ``[S, rows, N]``."""
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
