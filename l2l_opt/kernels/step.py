"""The whole step of an optimizer in place, over a list of tensors.

It reads a gradient, a parameter and its state once, and writes the last two once: no temporary grows with the model.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.profiler import record_function

from l2l_opt.kernels import native
from l2l_opt.kernels.compiled_step import RECURRENT, CompiledStep
from l2l_opt.kernels.native_perceptron import MOST_AXES, CompiledPerceptron, NativePerceptron
from l2l_opt.kernels.native_step import NativeStep, PackedRule
from l2l_opt.types import Params, RuleState


def serves_in_place(
    rule: CompiledStep | CompiledPerceptron, param: Tensor, grad: Tensor, state: dict[str, Tensor]
) -> bool:
    """Whether ``PreparedStep`` can take this parameter: plain, in float32 or half precision, on the CPU.

    A parameter and its gradient may lie in any order, if no two of the parameter's coordinates lie in one place.
    """
    half = rule.moments or () if isinstance(rule, CompiledStep) else ()
    recurrent, moments = ([state[key] for key in keys if key in state] for keys in (RECURRENT, half))
    own = ((key, value) for key, value in state.items() if key not in (*RECURRENT, *half))
    others = [value for _, value in own if value.dim() or value.is_floating_point()]
    return (
        type(param) in (Tensor, torch.nn.Parameter)
        and param.dim() <= MOST_AXES
        and type(grad) is Tensor
        and all(value.device.type == "cpu" and value.dtype in native.TYPES for value in (param, grad))
        and native.serves(others, states=recurrent)
        and native.serves([], states=moments)
        and all(value.is_contiguous() for value in (*others, *moments, *recurrent))
        and _lies_apart(param)
    )


def _lies_apart(param: Tensor) -> bool:
    """Whether every coordinate is known to lie in a place of its own."""
    reach = 1
    for stride, size in sorted(zip(param.stride(), param.shape, strict=True)):
        if size > 1:
            if stride < reach:
                return False
            reach = stride * size
    return True


class PreparedStep:
    """A step in place of tensors that ``serves_in_place`` accepts and that will stay where they are, again and again.

    Args:
        rule: what to compute; taken again only where it keeps the clock.
        params: the parameters, which a step changes.
        states: their states, of which it changes hidden, cell (where there are any), moments and tensor scalars.
        grads: gradients, of whose types and strides those of all steps must be.
        num_steps: planned steps; None where unknown.
    """

    def __init__(
        self,
        rule: CompiledStep | CompiledPerceptron,
        params: Sequence[Tensor],
        states: Sequence[dict[str, Tensor]],
        grads: Sequence[Tensor],
        *,
        num_steps: int | None,
    ):
        self.rule, self.params = rule, list(params)
        self.call = _native(rule, params, states, grads, num_steps)

    def __call__(
        self,
        grads: Sequence[Tensor],
        *,
        lr: float,
        decay: float,
        sign: float,
        guarded: bool,
        rate: Tensor | None = None,
    ) -> list[int]:
        """Take a step; clocks that the rule does not keep are the caller's.

        Args:
            grads: of the types and strides of those that it was prepared for.
            lr: of the update.
            decay: of the parameters, per step.
            sign: of the gradients: -1 to climb.
            guarded: leave a tensor as it was where its gradient (its square, for rules that average squares) or a
                weight is not finite, and a block of coordinates where its update is not (all coordinates, for a kind
                that leaves directions). The last cannot happen where the state is finite and lr is not absurd.
            rate: 0-dim, multiplies lr and decay; None for 1.

        Returns:
            Of each tensor 0 where all of it moved, 1 where nothing did, 2 where some blocks did not.
        """
        addresses = [gradient.data_ptr() for gradient in grads]
        if rate is not None:
            lr, decay = lr * float(rate), decay * float(rate)
        flags = self.call.run(addresses, lr=lr, decay=decay, sign=sign, guarded=guarded)
        # As any operation in place: a graph that saved these parameters must not be differentiated with the new ones.
        torch.autograd.graph.increment_version(self.params)
        return flags.tolist()


def _native(
    rule: CompiledStep | CompiledPerceptron,
    params: Sequence[Tensor],
    states: Sequence[dict[str, Tensor]],
    grads: Sequence[Tensor],
    num_steps: int | Tensor | None,
    particles: int | None = None,
) -> NativeStep | NativePerceptron:
    if isinstance(rule, CompiledPerceptron):
        return NativePerceptron(rule, params, states, grads, num_steps, particles)
    return NativeStep(rule, PackedRule(rule), params, states, grads, num_steps, particles)


@record_function("l2l_opt::particles_step_")
def particles_step_(
    rule: CompiledStep | CompiledPerceptron,
    params: Params,
    grads: Params,
    state: RuleState,
    *,
    num_steps: Tensor | None,
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
    call = _native(rule, values, states, own_grads, num_steps, particles=values[0].shape[0])
    call.run([gradient.data_ptr() for gradient in own_grads], lr=1.0, decay=0.0, sign=1.0, guarded=False)
    if not rule.keeps_clock:
        for own in states:
            own["step"] += 1


def serves_particles(params: Params, state: RuleState) -> bool:
    """Whether ``particles_step_`` can take these: in float32 on the CPU."""
    return all(
        native.serves(
            [param, *(value for key, value in state[name].items() if key not in RECURRENT)],
            states=[value for key, value in state[name].items() if key in RECURRENT],
        )
        for name, param in params.items()
    )
