"""The whole step of an optimizer in place: one operator, ``torch.ops.l2l_opt.recurrent_step_``, over a list of tensors.

It reads a gradient, a parameter and its state once, and writes the last two once: no temporary grows with the model.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l2l_opt.kernels import native, native_step
from l2l_opt.types import Params, RuleState

_library = torch.library.Library("l2l_opt", "FRAGMENT")
_library.define(
    "recurrent_step_(str kind, Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] hidden, Tensor(c!)[] cell, "
    "Tensor(d!)[] averages, Tensor(e!)[] squares, Tensor(f!)[] memories, Tensor numbers, Tensor[] weights, "
    "Tensor biases, Tensor options, Tensor whitening, bool leaves_directions, float lr, float decay, float sign, "
    "bool guarded) -> (Tensor, Tensor, Tensor)"
)


@torch.library.impl(_library, "recurrent_step_", "CPU")
def _step(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    *tensors, leaves, lr, decay, sign, guarded = arguments
    return native_step.step(*tensors, leaves_directions=leaves, lr=lr, decay=decay, sign=sign, guarded=guarded)


@torch.library.register_fake("l2l_opt::recurrent_step_")
def _fake(_kind: str, params: list[Tensor], *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    numbers, leaves = others[6], others[11]
    directions = numbers.new_empty(sum(param.numel() for param in params) if leaves else 0)
    flags = torch.empty(len(params), dtype=torch.uint8)
    return flags, numbers.new_empty(len(params), numbers.shape[1], 2), directions


def serves_in_place(param: Tensor, grad: Tensor, state: dict[str, Tensor]) -> bool:
    """Whether ``recurrent_step_`` can take this parameter: plain and contiguous, in float32 on the CPU."""
    recurrent = [state["hidden"], state["cell"]]
    own = ((key, value) for key, value in state.items() if key not in ("hidden", "cell"))
    moments = [value for _, value in own if value.dim() or value.is_floating_point()]
    return (
        type(param) in (Tensor, torch.nn.Parameter)
        and type(grad) is Tensor
        and native.serves([param, grad, *moments], states=recurrent)
        and all(value.is_contiguous() for value in (param, grad, *moments, *recurrent))
    )


Finish = Callable[[Tensor, Tensor, Tensor], Tensor]
MOST_DIRECTIONS = 4 << 20
"""Coordinates of tensors, if of several, whose directions are kept at a time."""


class CompiledStep(NamedTuple):
    """A rule as ``recurrent_step_`` takes it.

    Attributes:
        kind: of ``native_step.KINDS``.
        moments: names of the averages of gradients and of their squares in a parameter's state; None without any.
        weights: of each layer input and hidden weights, then the read-out's, as in ``reference``; of P particles that
            have weights of their own, each ``[P, ...]``.
        biases: of all layers, then the read-out's.
        options: what the kind is told of the rule, ``[num_options]``, in the order of steps.h.
        numbers: what the kind is told of one tensor, made of its state and num_steps: numbers, or for P particles
            tensors ``[P]``.
        memories: names of 0-dim state that the kind brings up to date, perhaps the clock among them.
        finish: ``finish(directions, size, share)`` makes updates of the directions of P particles that the kind leaves
            behind, ``[P, *param.shape]`` and ``[P]`` twice, where the kernels do not: for large matrices; None for a
            kind that has no directions.
        finish_: ``finish_(param, direction, size, share, lr, decay, guarded)`` adds lr times that to one parameter,
            less decay times itself, without temporaries of its size; returns whether it moved, False only if guarded.
        whitening: for the kernels' own finish, the root mean square of whitened matrices and three coefficients a step.
    """

    kind: str
    moments: tuple[str, str] | None
    weights: Sequence[Tensor]
    biases: Tensor
    options: Tensor
    numbers: Callable[[dict[str, Tensor], Any], Sequence[Any]] = lambda state, num_steps: ()
    memories: tuple[str, ...] = ()
    finish: Finish | None = None
    finish_: Callable[[Tensor, Tensor, float, float, float, float, bool], bool] | None = None
    whitening: tuple[float, ...] = ()


def recurrent_step_(
    rule: CompiledStep,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Sequence[dict[str, Tensor]],
    *,
    num_steps: int | None,
    lr: float,
    decay: float,
    sign: float,
    guarded: bool,
) -> list[int]:
    """Take one step in place of tensors that ``serves_in_place`` accepts; their clocks are the caller's.

    Args:
        rule: what to compute.
        params: the parameters, changed.
        grads: their gradients.
        states: their states, of which hidden, cell, moments and memories are changed.
        num_steps: planned steps; None where unknown.
        lr: of the update.
        decay: of the parameters, per step.
        sign: of the gradients: -1 to climb.
        guarded: leave a tensor as it was where its gradient (its square, for rules that average squares) or a weight is
            not finite, and a block of coordinates where its update is not (all coordinates, for a kind that leaves
            directions). The last cannot happen where the state is finite and lr is not absurd.

    Returns:
        Of each tensor 0 where all of it moved, 1 where nothing did, 2 where some blocks did not.
    """
    if not params:
        return []
    weights = _weights_of(rule)
    found: list[int] = []
    for block in _blocks(rule, params):
        numbers = _numbers_of(rule, states[block], num_steps)
        flags, choices, directions = torch.ops.l2l_opt.recurrent_step_(
            *_arguments(rule, weights, params[block], grads[block], _with_axis(states[block]), numbers),
            *(lr, decay, sign, guarded),
        )
        found += _finish(rule, params[block], flags, choices, directions, lr=lr, decay=decay, guarded=guarded)
    # As any operation in place: a graph that saved these parameters must not be differentiated with the new ones.
    torch.autograd.graph.increment_version(params)
    return found


class PreparedStep:
    """``recurrent_step_`` of tensors that will stay where they are, to be taken again and again.

    Args:
        rule: of a kind that keeps the clock.
        params: the parameters.
        states: their states.
        num_steps: planned steps; None where unknown.
    """

    def __init__(
        self,
        rule: CompiledStep,
        params: Sequence[Tensor],
        states: Sequence[dict[str, Tensor]],
        *,
        num_steps: int | None,
    ):
        self.rule, self.params = rule, list(params)
        weights = _weights_of(rule)
        self.calls: list[tuple[slice, native_step.PreparedStep]] = []
        for block in _blocks(rule, params):
            numbers = _numbers_of(rule, states[block], num_steps)
            kind, own, _, *state, leaves = _arguments(
                rule, weights, params[block], [], _with_axis(states[block]), numbers
            )
            self.calls.append((block, native_step.PreparedStep(kind, own, *state, leaves_directions=leaves)))

    def __call__(self, grads: Sequence[Tensor], *, lr: float, decay: float, sign: float, guarded: bool) -> list[int]:
        """Take a step with gradients that ``serves_in_place`` accepts; the rest as ``recurrent_step_`` has it."""
        addresses = [gradient.data_ptr() for gradient in grads]
        found: list[int] = []
        for block, call in self.calls:
            results = call.run(addresses[block], lr=lr, decay=decay, sign=sign, guarded=guarded)
            found += _finish(self.rule, self.params[block], *results, lr=lr, decay=decay, guarded=guarded)
        return found


def _blocks(rule: CompiledStep, params: Sequence[Tensor]) -> list[slice]:
    """Where directions are left, tensors of at most so many coordinates together, one after the other."""
    if rule.finish is None:
        return [slice(0, len(params))]
    starts, taken = [0], 0
    for index, param in enumerate(params):
        if taken and taken + param.numel() > MOST_DIRECTIONS:
            starts.append(index)
            taken = 0
        taken += param.numel()
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], len(params)], strict=True)]


def _finish(
    rule: CompiledStep,
    params: Sequence[Tensor],
    flags: Tensor,
    choices: Tensor,
    directions: Tensor,
    *,
    lr: float,
    decay: float,
    guarded: bool,
) -> list[int]:
    """Make updates of the directions that the kernels leave, those of large matrices; flags as a list."""
    found: list[int] = flags.tolist()
    if rule.finish_ is None or all(native_step.finishes(param.shape) for param in params):
        return found
    with torch.no_grad():
        for index, direction in enumerate(directions.split([param.numel() for param in params])):
            param = params[index]
            if found[index] or native_step.finishes(param.shape):
                continue
            size, share = choices[index, 0].tolist()
            if not rule.finish_(param, direction.reshape(param.shape), size, share, lr, decay, guarded):
                found[index] = 2
    return found


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
    states = [state[name] for name in params]
    numbers = torch.stack([torch.stack(list(rule.numbers(own, num_steps)), dim=1) for own in states]).float()
    values, own_grads = list(params.values()), [grads[name].contiguous() for name in params]
    _, choices, directions = torch.ops.l2l_opt.recurrent_step_(
        *_arguments(rule, _weights_of(rule), values, own_grads, states, numbers), 1.0, 0.0, 1.0, False
    )
    if rule.finish is not None:
        for index, direction in enumerate(directions.split([param.numel() for param in values])):
            if not native_step.finishes(values[index].shape[1:]):
                values[index] += rule.finish(direction.reshape(values[index].shape), *choices[index].unbind(1))
    if "step" not in rule.memories:
        for own in states:
            own["step"] += 1


class _Weights(NamedTuple):
    """Those of a ``CompiledStep`` with an axis of sets in front, in float32."""

    weights: list[Tensor]
    biases: Tensor
    options: Tensor
    whitening: Tensor


def _weights_of(rule: CompiledStep) -> _Weights:
    tensors = [tensor.detach().float() for tensor in (*rule.weights, rule.biases, rule.options)]
    *weights, biases, options = tensors if rule.options.dim() == 2 else [tensor.unsqueeze(0) for tensor in tensors]
    return _Weights(weights, biases, options, torch.tensor(rule.whitening))


def _numbers_of(rule: CompiledStep, states: Sequence[dict[str, Tensor]], num_steps: int | None) -> Tensor:
    return torch.tensor([[list(rule.numbers(state, num_steps))] for state in states], dtype=torch.float32)


def _with_axis(states: Sequence[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """States of one particle."""
    return [{key: value.unsqueeze(0) for key, value in state.items()} for state in states]


def _arguments(
    rule: CompiledStep,
    weights: _Weights,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Sequence[dict[str, Tensor]],
    numbers: Tensor,
) -> tuple[Any, ...]:
    """Of ``recurrent_step_``, up to what a group of parameters says of its step."""
    averages, squares = ([state[key] for state in states] for key in rule.moments) if rule.moments else ([], [])
    return (
        rule.kind,
        list(params),
        list(grads),
        [state["hidden"] for state in states],
        [state["cell"] for state in states],
        averages,
        squares,
        [state[key] for key in rule.memories for state in states],
        numbers,
        *weights,
        rule.finish is not None,
    )


def serves_particles(params: Params, state: RuleState) -> bool:
    """Whether ``particles_step_`` can take these: in float32 on the CPU."""
    return all(
        native.serves(
            [param, *(value for key, value in state[name].items() if key not in ("hidden", "cell"))],
            states=[state[name]["hidden"], state[name]["cell"]],
        )
        for name, param in params.items()
    )
