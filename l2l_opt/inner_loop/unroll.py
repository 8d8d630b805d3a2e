"""The only inner loop that differentiates: some steps of S students under a rule, in one batch.

(losses_k, grads_k) = f(theta_k; batch_k), df/dtheta
updates_k, state_{k+1} = g_phi(grads_k, state_k, theta_k)
theta_{k+1} = theta_k + updates_k
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from l2l_opt.inner_loop.compiled import CompiledSteps
from l2l_opt.inner_loop.losses import losses_and_gradients, losses_of
from l2l_opt.inner_loop.replay import can_replay, run_and_replay
from l2l_opt.inner_loop.side_by_side import CoordinateSample
from l2l_opt.kernels import CompiledPerceptron, CompiledStep, particles_step_, serves_particles
from l2l_opt.rules.base import UpdateRule, loss_for
from l2l_opt.rules.recurrent import GradientRule
from l2l_opt.tasks.base import TaskFamily, check_second_derivatives
from l2l_opt.types import Batch, Params, RuleState, TaskData


@dataclass(frozen=True)
class InnerState:
    """Where S students stand.

    Attributes:
        params: parameter name -> ``[S, *param.shape]``.
        state: the rule's state, each tensor with a leading axis S.
        num_steps: ``[S]``, the horizon of each student; None where it is unknown.
        data: the students' data as steps have left them, of a family with ``update_data`` alone.
    """

    params: Params
    state: RuleState
    num_steps: Tensor | None
    data: TaskData | None = None

    def detach(self) -> "InnerState":
        """Return the same place without the graph that led there: a truncation window's edge."""
        return InnerState(*tree_map(_detach, (self.params, self.state, self.num_steps, self.data)))


def _detach(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def apply_rule(
    rule: UpdateRule,
    phi: Mapping[str, Tensor],
    grads: Params,
    inner: InnerState,
    loss: Tensor | None = None,
    compiled: CompiledSteps | None = None,
) -> tuple[Params, RuleState]:
    """Return updates and next state of S students: the rule, written for one student, under vmap.

    Args:
        rule: the update rule.
        phi: its weights, shared (``param.shape``) or one set a student (``[S, *param.shape]``).
        grads: ``[S, *param.shape]`` each.
        inner: where the students stand.
        loss: ``[S]``, for a rule that reads it.
        compiled: what compiles the rule's step; None for torch's operators one by one.
    """
    shapes = {name: weight.shape for name, weight in rule.named_parameters()}
    phi_dims = {name: 0 if weight.shape != shapes[name] else None for name, weight in phi.items()}
    # Where a number of steps or a loss is not known, there is none in these.
    num_steps, losses = (
        [] if known is None else [known] for known in (inner.num_steps, loss if rule.reads_loss else None)
    )

    def one_student(
        phi: Params, grads: Params, state: RuleState, params: Params, num_steps: list[Tensor], losses: list[Tensor]
    ) -> tuple[Params, RuleState]:
        given = {"num_steps": num_steps[0] if num_steps else None} | loss_for(rule, losses[0] if losses else None)
        return functional_call(rule, phi, (grads, state, params), given)

    students = vmap(one_student, in_dims=(phi_dims, 0, 0, 0, 0, 0))
    arguments = (dict(phi), grads, inner.state, inner.params, num_steps, losses)
    return students(*arguments) if compiled is None else compiled.call(rule, "a rule's step", students, *arguments)


def unroll(
    rule: UpdateRule,
    family: TaskFamily,
    data: TaskData,
    inner: InnerState,
    batches: Sequence[Batch],
    *,
    phi: Mapping[str, Tensor] | None = None,
    second_derivatives: bool = False,
    loss_batches: Sequence[Batch] | None = None,
    gradient_checkpointing: bool = False,
    sample: CoordinateSample | None = None,
    compiled: CompiledSteps | None = None,
) -> tuple[InnerState, Tensor]:
    """Run K inner steps of S students; pure, and differentiable in phi wherever gradients are enabled.

    Args:
        rule: the update rule.
        family: the students' architecture and loss.
        data: what varies between students, each tensor ``[S, ...]``.
        inner: where the students stand; unchanged.
        batches: K + 1 batches drawn beforehand, each leaf ``[S, ...]``; the last is the next window's first.
        phi: the rule's weights (``dict(rule.named_parameters())`` where None), shared or with a leading axis S.
        second_derivatives: keep d grad / d params in the meta-gradient.
        loss_batches: K + 1 batches whose losses are returned instead of those of ``batches``, e.g. of the test split.
        gradient_checkpointing: keep only the states between segments of about sqrt(K) steps, and run each segment
            again when it is differentiated: memory grows with sqrt(K), time by one more forward pass.
        sample: coordinates that a replayed window is differentiated through; all where None, and wherever a tape is
            kept.
        compiled: what compiles losses and gradients; None for torch's operators one by one.

    Returns:
        Where the students stand after K steps, and losses ``[K + 1, S]``: ``losses[k]`` before step k, ``losses[K]``
        after the last on the next window's first batch. A window's meta-loss is over ``losses[1:]``.

    Source: arXiv 1606.04474, section 2; it drops second derivatives, as is the default here.
    Checkpoints: arXiv 1604.06174, section 3.
    """
    if second_derivatives:
        check_second_derivatives(family)
    steps = _Steps(rule, family, data, second_derivatives, compiled)
    weights: Params = dict(rule.named_parameters()) if phi is None else dict(phi)
    num_steps = len(batches) - 1
    if hasattr(family, "update_data"):
        return steps.run_updating(weights, inner, batches, loss_batches)
    if num_steps and not second_derivatives and can_replay(rule, weights, inner.params, inner.state):
        params, state, losses = run_and_replay(
            cast(GradientRule, rule),
            inner.params,
            inner.state,
            batches,
            loss_batches,
            steps.losses_and_gradients,
            CoordinateSample() if sample is None else sample,
        )
        return InnerState(params, state, inner.num_steps), losses
    in_place = None if torch.is_grad_enabled() else rule.compiled_step_of(weights)
    if in_place is not None and serves_particles(inner.params, inner.state):
        return steps.run_in_place(in_place, inner, batches, loss_batches)
    length = segment_length(num_steps) if gradient_checkpointing and torch.is_grad_enabled() else max(num_steps, 1)
    return steps.run_segments(length, weights, inner, batches, loss_batches)


def segment_length(num_steps: int) -> int:
    """Inner steps between two states that gradient checkpointing keeps: the root of all, rounded up."""
    return math.isqrt(max(num_steps - 1, 0)) + 1


@dataclass(frozen=True)
class _Steps:
    """Inner steps of one batch of students."""

    rule: UpdateRule
    family: TaskFamily
    data: TaskData
    second_derivatives: bool
    compiled: CompiledSteps | None

    def run(
        self, phi: Params, inner: InnerState, batches: Sequence[Batch], loss_batches: Sequence[Batch] | None
    ) -> tuple[InnerState, Tensor]:
        """One step a batch: where the students stand then, and their losses before each step, ``[K, S]``."""
        losses: list[Tensor] = []
        for index, batch in enumerate(batches):
            loss, grads = self.losses_and_gradients(inner.params, batch)
            losses.append(loss if loss_batches is None else self.loss(inner, loss_batches[index]))
            seen = loss if self.second_derivatives else loss.detach()
            updates, state = apply_rule(self.rule, phi, grads, inner, seen, self._rule_compiled())
            params = {name: param + updates[name] for name, param in inner.params.items()}
            inner = InnerState(params, state, inner.num_steps)
        return inner, torch.stack(losses)

    def run_segments(
        self,
        length: int,
        phi: Params,
        inner: InnerState,
        batches: Sequence[Batch],
        loss_batches: Sequence[Batch] | None,
    ) -> tuple[InnerState, Tensor]:
        """``unroll`` in segments of so many steps, whose graphs are not kept where there are several."""
        losses: list[Tensor] = []
        num_steps = len(batches) - 1
        run = self.run if length >= num_steps else self.run_without_graph
        for start in range(0, num_steps, length):
            part = slice(start, min(start + length, num_steps))
            inner, own = run(phi, inner, batches[part], None if loss_batches is None else loss_batches[part])
            losses.append(own)
        losses.append(self.loss(inner, batches[-1] if loss_batches is None else loss_batches[-1]).unsqueeze(0))
        return inner, torch.cat(losses)

    def run_updating(
        self, phi: Params, inner: InnerState, batches: Sequence[Batch], loss_batches: Sequence[Batch] | None
    ) -> tuple[InnerState, Tensor]:
        """``unroll`` of a family whose data change with every step."""
        now, losses, update = self, [], vmap(cast(Any, self.family).update_data)
        for index, batch in enumerate(batches[:-1]):
            with torch.no_grad():
                data = update(inner.params, now.data, batch)
            inner, loss = now.run(
                phi, inner, [batch], None if loss_batches is None else loss_batches[index : index + 1]
            )
            losses.append(loss)
            now = replace(now, data=data)
        losses.append(now.loss(inner, batches[-1] if loss_batches is None else loss_batches[-1]).unsqueeze(0))
        return replace(inner, data=now.data), torch.cat(losses)

    def run_in_place(
        self,
        step: CompiledStep | CompiledPerceptron,
        inner: InnerState,
        batches: Sequence[Batch],
        loss_batches: Sequence[Batch] | None,
    ) -> tuple[InnerState, Tensor]:
        """``unroll`` without a graph, every step in place of the last."""
        params, state = tree_map(
            lambda leaf: leaf.clone(memory_format=torch.contiguous_format), (inner.params, inner.state)
        )
        inner = InnerState(params, state, inner.num_steps)
        losses: list[Tensor] = []
        for index, batch in enumerate(batches[:-1]):
            loss, grads = self.losses_and_gradients(params, batch)
            losses.append(loss if loss_batches is None else self.loss(inner, loss_batches[index]))
            particles_step_(step, params, grads, state, num_steps=inner.num_steps)
        losses.append(self.loss(inner, batches[-1] if loss_batches is None else loss_batches[-1]))
        return inner, torch.stack(losses)

    def _rule_compiled(self) -> CompiledSteps | None:
        return None if self.second_derivatives else self.compiled

    def losses_and_gradients(self, params: Params, batch: Batch) -> tuple[Tensor, Params]:
        return losses_and_gradients(
            self.family,
            params,
            self.data,
            batch,
            second_derivatives=self.second_derivatives,
            compiled=self.compiled,
        )

    def loss(self, inner: InnerState, batch: Batch) -> Tensor:
        """Losses ``[S]``, differentiable in params."""
        return losses_of(self.family, inner.params, self.data, batch)

    def run_without_graph(
        self, phi: Params, inner: InnerState, batches: Sequence[Batch], loss_batches: Sequence[Batch] | None
    ) -> tuple[InnerState, Tensor]:
        """``run``, whose graph is not kept but made anew when it is needed."""
        leaves, structure = tree_flatten((phi, inner.params, inner.state))

        def segment(*tensors: Tensor) -> tuple[Tensor, ...]:
            own_phi, params, state = tree_unflatten(tensors, structure)
            end, losses = self.run(own_phi, InnerState(params, state, inner.num_steps), batches, loss_batches)
            ends = [end.params[name] for name in params]
            ends += [end.state[name][key] for name in state for key in state[name]]
            return losses, *ends

        results = _Recomputed.apply(segment, *leaves)
        assert isinstance(results, tuple)
        losses, *ends = results
        _, params, state = tree_unflatten([*leaves[: len(leaves) - len(ends)], *ends], structure)
        return InnerState(params, state, inner.num_steps), losses


class _Recomputed(torch.autograd.Function):
    """A function of tensors that keeps its arguments and not its graph."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., tuple[Tensor, ...]], *arguments: Tensor) -> tuple[Tensor, ...]:
        ctx.function = function
        ctx.save_for_backward(*arguments)
        return function(*arguments)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        arguments = [argument.detach().requires_grad_() for argument in ctx.saved_tensors]
        with torch.enable_grad():
            results = ctx.function(*arguments)
        differentiable = [index for index, result in enumerate(results) if result.requires_grad]
        own = torch.autograd.grad(
            [results[index] for index in differentiable],
            arguments,
            [gradients[index] for index in differentiable],
            allow_unused=True,
        )
        return None, *own
