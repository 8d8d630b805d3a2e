"""The meta-gradient of a window without a tape: run it plainly, keep its gradients, let the rule run over them again.

Where second derivatives are dropped and the rule reads gradients alone, updates are a function of phi and of data,

    theta_K = theta_0 + sum_k u_k(phi; g_0 ... g_k),    d L / d phi = sum_k < d L / d theta_{k+1}, d u_k / d phi >

and d L / d theta_k is a sum of gradients that the run has computed already. So a window keeps two numbers for every
coordinate and step, and its states are in cache only, tile by tile (``kernels.native_lstm.replay``).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.func import vmap

from l2l_opt.inner_loop.side_by_side import CoordinateSample, Piece, SideBySide, rows, take
from l2l_opt.kernels import native, native_lstm
from l2l_opt.kernels.compiled_step import RECURRENT
from l2l_opt.kernels.operands import Operands
from l2l_opt.rules.recurrent import GradientRule
from l2l_opt.types import Batch, Params, RuleState

LossesAndGradients = Callable[[Params, Batch], tuple[Tensor, Params]]
BLOCK_BYTES = 2**25
"""Of temporary memory in the backward pass."""


def can_replay(rule: Any, phi: Mapping[str, Tensor], params: Params, state: RuleState) -> bool:
    """Whether a window can be differentiated by replay: a rule that reads gradients alone, float32 on the CPU.

    Args:
        rule: the update rule.
        phi: the weights in use, which must be the rule's own.
        params: the students, which must not depend on anything that is to be differentiated.
        state: likewise; all tensors must be at the same step.
    """
    if not isinstance(rule, GradientRule) or not params or not torch.is_grad_enabled():
        return False
    if any(phi.get(name) is not weight for name, weight in rule.named_parameters()):
        return False
    others = [*params.values(), *(value for own in state.values() for value in own.values())]
    recurrent = [own[key] for own in state.values() for key in RECURRENT]
    first, *rest = state.values()
    return (
        native.serves([*phi.values(), *params.values()], states=recurrent)
        and not any(t.requires_grad for t in others)
        and all(torch.equal(first[key], own[key]) for own in rest for key, value in own.items() if value.dim() == 1)
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


class _Window:
    """What one window keeps: gradients and outputs of every step, and the state before the first.

    Args:
        rule: the update rule.
        params: where the students stand.
        state: likewise.
        sample: the coordinates that the backward pass goes through.

    Attributes:
        params, state: where they stand after ``run``.
        gradients, loss_gradients: ``[K or K + 1, S, N]``, of what the rule reads and of the losses; perhaps the same.
        outputs: ``[K, S, N]``, the body's.
    """

    gradients: Tensor
    loss_gradients: Tensor
    outputs: Tensor

    def __init__(self, rule: GradientRule, params: Params, state: RuleState, sample: CoordinateSample):
        self.rule, self.params, self.state, self.sample = rule, params, state, sample
        self.layout, self.first_state = SideBySide(params), state
        self.students = self.layout.students
        own = [{key: rows(value) for key, value in state[name].items() if key not in RECURRENT} for name in params]
        self.clocks = [key for key, value in own[0].items() if value.dim() == 1]
        self.first_features = {
            key: value if key in self.clocks else torch.cat([each[key] for each in own], -1)
            for key, value in own[0].items()
        }
        self.in_step = all(bool((own[0][key] == own[0][key][0]).all()) for key in self.clocks)

    def run(
        self, batches: Sequence[Batch], loss_batches: Sequence[Batch] | None, losses_and_gradients: LossesAndGradients
    ) -> Tensor:
        """Losses ``[K + 1, S]``; the students stand at the end afterwards."""
        losses: list[Tensor] = []
        num_steps, weights = len(batches) - 1, self._weights()
        params, features = self.layout.join(self.params), self.first_features
        recurrent = [[rows(self.state[name][key]) for name in self.params] for key in RECURRENT]
        self.loss_gradients = params.new_empty(num_steps + 1, *params.shape)
        self.gradients = self.loss_gradients if loss_batches is None else torch.empty_like(self.loss_gradients)
        self.outputs = params.new_empty(num_steps, *params.shape)
        for index, (batch, of_loss) in enumerate(zip(batches, loss_batches or batches, strict=True)):
            loss, gradients = losses_and_gradients(self.layout.views(params), of_loss)
            losses.append(loss)
            self.layout.join(gradients, out=self.loss_gradients[index])
            if index == num_steps:
                break
            if loss_batches is not None:
                _, gradients = losses_and_gradients(self.layout.views(params), batch)
                self.layout.join(gradients, out=self.gradients[index])
            inputs, features = self._features(self.gradients[index], features)
            # The first step leaves the state before the window as it is; later ones write over their own.
            into = recurrent if index else [[_like(own) for own in kind] for kind in recurrent]
            outputs = self.layout.split(self.outputs[index : index + 1])
            native_lstm.forward(self._operands(inputs, recurrent, weights), into=(outputs, *into))
            recurrent = into
            params = params + self.rule.output(self.outputs[index])
        self.params = {name: value.contiguous() for name, value in self.layout.views(params).items()}
        self.state = self._state_of(features, recurrent)
        return torch.stack(losses)

    def _operands(
        self, inputs: Tensor, recurrent: Sequence[Sequence[Tensor]], own_weights: tuple[list[Tensor], Tensor]
    ) -> Operands:
        parts, (hidden, cell), (weights, biases) = self.layout.split(inputs), recurrent, own_weights
        return Operands(parts, hidden, cell, [biases.expand(self.students, -1)] * len(parts), weights)

    def _features(self, gradient: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """``rule.features`` of S students side by side: inputs ``[num_inputs, S, N]``, and their state but the body's.

        Students whose clocks agree are one tensor to the rule, which takes each coordinate by itself.
        """
        if not self.in_step:
            dims = {key: 0 if key in self.clocks else 1 for key in state}
            return vmap(self.rule.features, in_dims=(0, dims), out_dims=cast(Any, (1, dims)))(gradient, state)
        one = {key: value[0] if key in self.clocks else value for key, value in state.items()}
        inputs, after = self.rule.features(gradient, one)
        return inputs, {
            key: value.expand(self.students) if key in self.clocks else value for key, value in after.items()
        }

    def _state_of(self, features: dict[str, Tensor], recurrent: Sequence[Sequence[Tensor]]) -> RuleState:
        """Each tensor's state again: of features, which lie side by side, and of the body."""
        state: RuleState = {name: {} for name in self.params}
        for key, value in features.items():
            parts = [value] * len(state) if key in self.clocks else self.layout.split(value)
            for name, own in zip(state, parts, strict=True):
                shape = self.first_state[name][key].shape
                state[name][key] = own.clone() if key in self.clocks else own.movedim(1, 0).reshape(shape).contiguous()
        for key, kind in zip(RECURRENT, recurrent, strict=True):
            for name, own in zip(state, kind, strict=True):
                state[name][key] = own.movedim(1, 0).reshape(self.first_state[name][key].shape)
        return state

    def _weights(self) -> tuple[list[Tensor], Tensor]:
        weights, biases = self.rule.body.compiled(dict(self.rule.named_parameters()), "body")
        return [weight.unsqueeze(0) for weight in weights], biases.unsqueeze(0)

    def replay(self, d_losses: Tensor, d_ends: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return derivatives of phi, summed over blocks of coordinates so that memory does not grow with them.

        Args:
            d_losses: ``[K + 1, S]``.
            d_ends: of the students where they stand after the window, then of hidden and cell states; None for zeros.
        """
        phi = list(self.rule.parameters())
        with torch.enable_grad():
            weights, biases = self._weights()
        d_weights, d_biases = [torch.zeros_like(weight) for weight in weights], torch.zeros_like(biases)
        through_features: list[Tensor | None] = [None] * len(phi)
        ends = dict(zip(self.params, d_ends, strict=False))
        d_params = None
        if any(d_end is not None for d_end in ends.values()):
            d_params = self.layout.join({k: _or_zeros(d_end, self.params[k]) for k, d_end in ends.items()})
        # Derivatives are float32 beside states in bfloat16 too.
        d_states = iter([None if d_end is None else rows(d_end.float()) for d_end in d_ends[len(self.params) :]])
        d_last = dict(zip(self.params, zip(d_states, d_states, strict=True), strict=True))
        numbers = 3 * self.rule.body.num_inputs + 6
        tiles = BLOCK_BYTES // (4 * numbers * len(self.outputs) * self.students * native.TILE)
        for block in self.layout.blocks(self.sample, max(tiles, 1) * native.TILE):
            with torch.enable_grad():
                inputs = self._inputs(block)
            d_updates = self._d_updates(block, d_losses, d_params)
            d_inputs, d_block_biases, d_block_weights = self._replay_block(block, inputs, d_updates, d_last)
            for total, own in zip(d_weights, d_block_weights, strict=True):
                total += own
            d_biases += torch.stack(d_block_biases).sum((0, 1))
            if inputs.requires_grad:
                own = torch.autograd.grad(inputs, phi, torch.cat(d_inputs, -1), allow_unused=True)
                through_features = [_sum(pair) for pair in zip(through_features, own, strict=True)]
        through_body = torch.autograd.grad([*weights, biases], phi, [*d_weights, d_biases], allow_unused=True)
        return [_sum(pair) for pair in zip(through_body, through_features, strict=True)]

    def _replay_block(
        self,
        block: Sequence[Piece],
        inputs: Tensor,
        d_updates: Tensor,
        d_last: Mapping[str, tuple[Tensor | None, Tensor | None]],
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """``native_lstm.replay`` of a block, each piece of which is a tensor to it."""
        output = take(self.outputs, block).requires_grad_()
        with torch.enable_grad():
            updates = self.rule.output(output)
        (d_output,) = torch.autograd.grad(updates, output, d_updates)
        weights, biases = self._weights()
        lengths = [len(piece) for piece in block]
        hidden, cell = ([rows(self.first_state[p.name][key])[..., p.own] for p in block] for key in RECURRENT)
        own_biases = [biases.expand(self.students, -1)] * len(block)
        return native_lstm.replay(
            Operands(inputs.detach().split(lengths, -1), hidden, cell, own_biases, weights),
            d_output.split(lengths, -1),
            [tuple(_of_piece(d, piece) for d in d_last[piece.name]) for piece in block],
            num_steps=len(self.outputs),
            needs_d_inputs=inputs.requires_grad,
        )

    def _d_updates(self, block: Sequence[Piece], d_losses: Tensor, d_params: Tensor | None) -> Tensor:
        """Return d meta-loss / d update of every step, ``[K, S, n]``: of all later losses, and of the end."""
        found = d_losses[1:].unsqueeze(2) * take(self.loss_gradients[1:], block)
        if d_params is not None:
            found[-1] += take(d_params, block)
        for step in reversed(range(len(found) - 1)):
            found[step] += found[step + 1]
        for own, piece in zip(found.split([len(piece) for piece in block], -1), block, strict=True):
            own *= piece.stride
        return found

    def _inputs(self, block: Sequence[Piece]) -> Tensor:
        """All steps' inputs of a block again, now differentiable in phi: ``[K * num_inputs, S, n]``."""
        state = {key: v if key in self.clocks else take(v, block) for key, v in self.first_features.items()}
        parts: list[Tensor] = []
        for gradient in take(self.gradients[: len(self.outputs)], block):
            inputs, state = self._features(gradient, state)
            parts.append(inputs)
        return torch.cat(parts)


def _sum(pair: tuple[Tensor | None, Tensor | None]) -> Tensor | None:
    given = [value for value in pair if value is not None]
    return sum(given[1:], start=given[0]) if given else None


def _or_zeros(derivative: Tensor | None, value: Tensor) -> Tensor:
    return torch.zeros_like(value) if derivative is None else derivative


def _of_piece(derivative: Tensor | None, piece: Piece) -> Tensor | None:
    return None if derivative is None else piece.stride * derivative[..., piece.own]


def _like(own: Tensor) -> Tensor:
    """Return new memory for ``[rows, S, N]``, laid out as ``[S, rows, N]``."""
    return torch.empty_like(own.movedim(0, 1), memory_format=torch.contiguous_format).movedim(0, 1)


class _Replayed(torch.autograd.Function):
    """The results of a window as a function of phi."""

    @staticmethod
    def forward(ctx: Any, window: _Window, losses: Tensor, count: int, *ends_and_phi: Tensor) -> tuple[Tensor, ...]:
        ctx.window, ctx.count = window, count
        # States at the end, most of the memory, have no derivatives in a window that is truncated there.
        ctx.set_materialize_grads(False)
        # Not read, but torch then refuses a backward pass after phi was changed in place.
        ctx.save_for_backward(*ends_and_phi[count:])
        # Views: results must be other objects than arguments, and are the same memory.
        return losses.view_as(losses), *(end.view_as(end) for end in ends_and_phi[:count])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, d_losses: Tensor | None, *d_ends: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        assert ctx.saved_tensors is not None
        if d_losses is None:
            d_losses = ctx.window.loss_gradients.new_zeros(len(ctx.window.loss_gradients), ctx.window.students)
        return None, None, None, *[None] * ctx.count, *ctx.window.replay(d_losses, d_ends)
