"""The whole step of an optimizer in place, over a list of tensors.

It reads a gradient, a parameter and its state once, and writes the last two once: no temporary grows with the model.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.profiler import record_function

from l2l_opt.kernels import native
from l2l_opt.kernels.compiled_step import CompiledStep
from l2l_opt.kernels.native_perceptron import MOST_AXES, CompiledPerceptron, NativePerceptron
from l2l_opt.kernels.native_step import MOVED, PARTLY_MOVED, UNFINISHED, NativeStep, PackedRule
from l2l_opt.types import Params, RuleState

MOST_DIRECTIONS = 4 << 20
"""Coordinates of tensors, if of several, whose directions are kept at a time."""


def serves_in_place(param: Tensor, grad: Tensor, state: dict[str, Tensor]) -> bool:
    """Whether ``recurrent_step_`` can take this parameter: plain and contiguous, in float32 on the CPU."""
    recurrent = [state[key] for key in ("hidden", "cell") if key in state]
    own = ((key, value) for key, value in state.items() if key not in ("hidden", "cell"))
    moments = [value for _, value in own if value.dim() or value.is_floating_point()]
    return (
        type(param) in (Tensor, torch.nn.Parameter)
        and param.dim() <= MOST_AXES
        and type(grad) is Tensor
        and native.serves([param, grad, *moments], states=recurrent)
        and all(value.is_contiguous() for value in (param, grad, *moments, *recurrent))
    )


class PreparedStep:
    """A step in place of tensors that ``serves_in_place`` accepts and that will stay where they are, again and again.

    Args:
        rule: what to compute; taken again only where it keeps the clock.
        params: the parameters, which a step changes.
        states: their states, of which it changes hidden, cell, moments and tensor scalars.
        num_steps: planned steps; None where unknown.
    """

    def __init__(
        self,
        rule: CompiledStep | CompiledPerceptron,
        params: Sequence[Tensor],
        states: Sequence[dict[str, Tensor]],
        *,
        num_steps: int | None,
    ):
        self.rule, self.params = rule, list(params)
        self.calls: list[tuple[slice, NativeStep | NativePerceptron]] = []
        if isinstance(rule, CompiledPerceptron):
            self.calls.append((slice(0, len(params)), NativePerceptron(rule, params, states, num_steps)))
            return
        packed = PackedRule(rule)
        for block in _blocks(rule, params):
            self.calls.append((block, NativeStep(rule, packed, params[block], states[block], num_steps)))

    def __call__(self, grads: Sequence[Tensor], *, lr: float, decay: float, sign: float, guarded: bool) -> list[int]:
        """Take a step; clocks that the rule does not keep are the caller's.

        Args:
            grads: gradients that ``serves_in_place`` accepts.
            lr: of the update.
            decay: of the parameters, per step.
            sign: of the gradients: -1 to climb.
            guarded: leave a tensor as it was where its gradient (its square, for rules that average squares) or a
                weight is not finite, and a block of coordinates where its update is not (all coordinates, for a kind
                that leaves directions). The last cannot happen where the state is finite and lr is not absurd.

        Returns:
            Of each tensor 0 where all of it moved, 1 where nothing did, 2 where some blocks did not.
        """
        addresses = [gradient.data_ptr() for gradient in grads]
        found: list[int] = []
        for block, call in self.calls:
            results = call.run(addresses[block], lr=lr, decay=decay, sign=sign, guarded=guarded)
            found += self._finish(self.params[block], *results, lr=lr, decay=decay, guarded=guarded)
        # As any operation in place: a graph that saved these parameters must not be differentiated with the new ones.
        torch.autograd.graph.increment_version(self.params)
        return found

    def _finish(
        self,
        params: Sequence[Tensor],
        flags: Tensor,
        heads: Tensor,
        directions: Tensor,
        *,
        lr: float,
        decay: float,
        guarded: bool,
    ) -> list[int]:
        """Make updates of the directions that the kernels leave, those of large matrices; flags as a list."""
        found: list[int] = flags.tolist()
        if UNFINISHED not in found:
            return found
        assert self.rule.finish_ is not None
        with torch.no_grad():
            for index, direction in enumerate(directions.split([param.numel() for param in params])):
                if found[index] == UNFINISHED:
                    param, (size, share) = params[index], heads[index, 0].tolist()
                    moved = self.rule.finish_(param, direction.reshape(param.shape), size, share, lr, decay, guarded)
                    found[index] = MOVED if moved else PARTLY_MOVED
        return found


def _blocks(rule: CompiledStep, params: Sequence[Tensor]) -> list[slice]:
    """Where directions are left, tensors of at most so many coordinates together, one after the other."""
    if rule.finish is None or not params:
        return [slice(0, len(params))] if params else []
    starts, taken = [0], 0
    for index, param in enumerate(params):
        if taken and taken + param.numel() > MOST_DIRECTIONS:
            starts.append(index)
            taken = 0
        taken += param.numel()
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], len(params)], strict=True)]


@record_function("l2l_opt::particles_step_")
def particles_step_(
    rule: CompiledStep, params: Params, grads: Params, state: RuleState, *, num_steps: Tensor | None
) -> None:
    """One step in place of P particles, clocks and all.

    Args:
        rule: what to compute, with one set of weights or one a particle.
        params: parameter name -> ``[P, *param.shape]``, contiguous.
        grads: likewise.
        state: with the same leading axis, contiguous.
        num_steps: ``[P]``, planned steps; None where unknown.
    """
    values, states = list(params.values()), [state[name] for name in params]
    own_grads = [grads[name].contiguous() for name in params]
    call = NativeStep(rule, PackedRule(rule), values, states, num_steps, particles=values[0].shape[0])
    addresses = [gradient.data_ptr() for gradient in own_grads]
    flags, heads, directions = call.run(addresses, lr=1.0, decay=0.0, sign=1.0, guarded=False)
    if rule.finish is not None:
        for index, direction in enumerate(directions.split([value.numel() for value in values])):
            if flags[index] == UNFINISHED:
                values[index] += rule.finish(direction.reshape(values[index].shape), *heads[index].unbind(1))
    if not rule.keeps_clock:
        for own in states:
            own["step"] += 1


def serves_particles(params: Params, state: RuleState) -> bool:
    """Whether ``particles_step_`` can take these: in float32 on the CPU."""
    return all(
        native.serves(
            [param, *(value for key, value in state[name].items() if key not in ("hidden", "cell"))],
            states=[state[name]["hidden"], state[name]["cell"]],
        )
        for name, param in params.items()
    )
