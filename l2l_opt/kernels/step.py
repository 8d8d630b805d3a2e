"""The whole step of an optimizer in place: one operator, ``torch.ops.l2l_opt.recurrent_step_``, over a list of tensors.

It reads a gradient, a parameter and its state once, and writes the last two once: no temporary grows with the model.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l2l_opt.kernels import native
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
    return native.step(*tensors, leaves_directions=leaves, lr=lr, decay=decay, sign=sign, guarded=guarded)


@torch.library.register_fake("l2l_opt::recurrent_step_")
def _fake(_kind: str, params: list[Tensor], *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    numbers, leaves = others[6], others[11]
    directions = numbers.new_empty(sum(param.numel() for param in params) if leaves else 0)
    flags = torch.empty(len(params), dtype=torch.uint8)
    return flags, numbers.new_empty(len(params), numbers.shape[1], 2), directions


def serves_in_place(param: Tensor, grad: Tensor, state: dict[str, Tensor]) -> bool:
    """Whether ``recurrent_step_`` can take this parameter: plain and contiguous, in float32 on the CPU."""
    recurrent = [state["hidden"], state["cell"]]
    moments = [value for key, value in state.items() if value.dim() and key not in ("hidden", "cell")]
    return (
        type(param) in (Tensor, torch.nn.Parameter)
        and type(grad) is Tensor
        and native.serves([param, grad, *moments], states=recurrent)
        and all(value.is_contiguous() for value in (param, grad, *moments, *recurrent))
    )


Finish = Callable[[Tensor, Tensor, Tensor], Tensor]


class CompiledStep(NamedTuple):
    """A rule as ``recurrent_step_`` takes it.

    Attributes:
        kind: of ``native.KINDS``.
        moments: names of the averages of gradients and of their squares in a parameter's state; None without any.
        weights: of each layer input and hidden weights, then the read-out's, as in ``reference``; of P particles that
            have weights of their own, each ``[P, ...]``.
        biases: of all layers, then the read-out's.
        options: what the kind is told of the rule, ``[num_options]``, in the order of steps.h.
        numbers: what the kind is told of one tensor, made of its state and num_steps: numbers, or for P particles
            tensors ``[P]``.
        memories: names of 0-dim state that the kind brings up to date; perhaps the clock among them.
        finish: ``finish(directions, size, share)`` makes updates of what the kind leaves behind, ``[P, *param.shape]``
            and ``[P]`` twice, where the kernels do not: for large matrices; None for a kind that has no directions.
        whitening: for the kernels' own finish: the root mean square of what is whitened, then three numbers a step.
    """

    kind: str
    moments: tuple[str, str] | None
    weights: Sequence[Tensor]
    biases: Tensor
    options: Tensor
    numbers: Callable[[dict[str, Tensor], Any], Sequence[Any]] = lambda state, num_steps: ()
    memories: tuple[str, ...] = ()
    finish: Finish | None = None
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
            not finite, and a block of coordinates where its update is not. The last cannot happen where the state is
            finite and lr is not absurd.

    Returns:
        Of each tensor 0 where all of it moved, 1 where nothing did, 2 where some blocks did not.
    """
    numbers = torch.tensor([[list(rule.numbers(state, num_steps))] for state in states], dtype=torch.float32)
    of_one = [{key: value.unsqueeze(0) for key, value in state.items()} for state in states]
    flags, choices, directions = torch.ops.l2l_opt.recurrent_step_(
        *_arguments(rule, list(params), list(grads), of_one, numbers), lr, decay, sign, guarded
    )
    found = finish_(rule, params, flags, choices, directions, lr=lr, decay=decay, guarded=guarded)
    # As any operation in place: a graph that saved these parameters must not be differentiated with the new ones.
    torch.autograd.graph.increment_version(params)
    return found


def prepare(
    rule: CompiledStep, params: Sequence[Tensor], states: Sequence[dict[str, Tensor]], *, num_steps: int | None
) -> native.PreparedStep:
    """The step of tensors that will stay where they are, to be taken again and again: for kinds that keep the clock."""
    numbers = torch.tensor([[list(rule.numbers(state, num_steps))] for state in states], dtype=torch.float32)
    of_one = [{key: value.unsqueeze(0) for key, value in state.items()} for state in states]
    kind, params, _, *state, leaves = _arguments(rule, list(params), [], of_one, numbers)
    return native.PreparedStep(kind, params, *state, leaves_directions=leaves)


def finish_(
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
    if rule.finish is None:
        return found
    start = 0
    for index, param in enumerate(params):
        end = start + param.numel()
        if not found[index] and not native.finishes(param.shape):
            with torch.no_grad():
                direction = directions[start:end].reshape(1, *param.shape)
                update = rule.finish(direction, *choices[index].unbind(1)).squeeze(0).mul_(lr)
                if guarded and not torch.isfinite(torch.linalg.vector_norm(update)):
                    found[index] = 2
                else:
                    param.mul_(1 - decay).add_(update)
        start = end
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
        *_arguments(rule, values, own_grads, states, numbers), 1.0, 0.0, 1.0, False
    )
    for index, (param, direction) in enumerate(
        zip(values, directions.split([param.numel() for param in values]) if rule.finish else values, strict=True)
    ):
        if rule.finish is not None and not native.finishes(param.shape[1:]):
            param += rule.finish(direction.reshape(param.shape), *choices[index].unbind(1))
        if "step" not in rule.memories:
            states[index]["step"] += 1


def _arguments(
    rule: CompiledStep,
    params: list[Tensor],
    grads: list[Tensor],
    states: Sequence[dict[str, Tensor]],
    numbers: Tensor,
) -> tuple[Any, ...]:
    """Of ``recurrent_step_``, up to what a group of parameters says of its step."""
    averages, squares = ([state[key] for state in states] for key in rule.moments) if rule.moments else ([], [])
    one = rule.options.dim() == 1
    weights, biases, options = (
        [weight.unsqueeze(0) if one else weight for weight in rule.weights],
        rule.biases.unsqueeze(0) if one else rule.biases,
        rule.options.unsqueeze(0) if one else rule.options,
    )
    return (
        rule.kind,
        params,
        grads,
        [state["hidden"] for state in states],
        [state["cell"] for state in states],
        averages,
        squares,
        [state[key] for key in rule.memories for state in states],
        numbers,
        [weight.detach().float() for weight in weights],
        biases.detach().float(),
        options.detach().float(),
        torch.tensor(rule.whitening),
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
