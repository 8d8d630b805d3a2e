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
    "Tensor(d!)[] averages, Tensor(e!)[] squares, Tensor(f!)[] memories, Tensor(g!)[] directions, Tensor numbers, "
    "Tensor[] weights, Tensor biases, Tensor options, Tensor whitening, float lr, float decay, float sign, "
    "bool guarded) -> (Tensor, Tensor)"
)


@torch.library.impl(_library, "recurrent_step_", "CPU")
def _step(*arguments: Any) -> tuple[Tensor, Tensor]:
    *tensors, lr, decay, sign, guarded = arguments
    return native.step(*tensors, lr=lr, decay=decay, sign=sign, guarded=guarded)


@torch.library.register_fake("l2l_opt::recurrent_step_")
def _fake(_kind: str, params: list[Tensor], *others: Any) -> tuple[Tensor, Tensor]:
    numbers = others[7]
    return torch.empty(len(params), dtype=torch.uint8), numbers.new_empty(len(params), numbers.shape[1], 2)


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
        memories: names of 0-dim state that the kind brings up to date.
        finish: ``finish(directions, size, share)`` makes updates of what the kind leaves behind, ``[P, *param.shape]``
            and ``[P]`` twice, where the kernels do not: for large matrices; None for a kind that has no directions.
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
    of_one = [{key: value.unsqueeze(0) for key, value in state.items()} for state in states]
    numbers = torch.tensor([[list(rule.numbers(state, num_steps))] for state in states], dtype=torch.float32)
    with torch.no_grad():
        bad, directions, choices = _run(
            rule, list(params), list(grads), of_one, numbers, lr=lr, decay=decay, sign=sign, guarded=guarded
        )
        flags: list[int] = bad.tolist()
        if rule.finish is not None:
            for index, (param, direction) in enumerate(zip(params, directions, strict=True)):
                if flags[index] or native.finishes(param.shape):
                    continue
                update = rule.finish(direction.unsqueeze(0), *choices[index].unbind(1)).squeeze(0)
                moved = param * (1 - decay) + lr * update if decay else update.mul_(lr).add_(param)
                if guarded and not torch.isfinite(moved.sum()):
                    flags[index] = 2
                    continue
                param.copy_(moved)
    # As any operation in place: a graph that saved these parameters must not be differentiated with the new ones.
    torch.autograd.graph.increment_version(params)
    return flags


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
    _, directions, choices = _run(
        rule,
        list(params.values()),
        [grads[name].contiguous() for name in params],
        states,
        numbers,
        lr=1.0,
        decay=0.0,
        sign=1.0,
        guarded=False,
    )
    for index, (param, own) in enumerate(zip(params.values(), states, strict=True)):
        if rule.finish is not None and not native.finishes(param.shape[1:]):
            param += rule.finish(directions[index], *choices[index].unbind(1))
        own["step"] += 1


def _run(
    rule: CompiledStep,
    params: list[Tensor],
    grads: list[Tensor],
    states: Sequence[dict[str, Tensor]],
    numbers: Tensor,
    *,
    lr: float,
    decay: float,
    sign: float,
    guarded: bool,
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Flags, directions (none for a kind that updates parameters itself) and ``choices`` of ``recurrent_step_``."""
    averages, squares = ([state[key] for state in states] for key in rule.moments) if rule.moments else ([], [])
    sets = rule.options.dim() == 2
    weights, biases, options = (
        list(rule.weights) if sets else [weight.unsqueeze(0) for weight in rule.weights],
        rule.biases if sets else rule.biases.unsqueeze(0),
        rule.options if sets else rule.options.unsqueeze(0),
    )
    directions = [] if rule.finish is None else [torch.empty_like(param) for param in params]
    bad, choices = torch.ops.l2l_opt.recurrent_step_(
        rule.kind,
        params,
        grads,
        [state["hidden"] for state in states],
        [state["cell"] for state in states],
        averages,
        squares,
        [state[key] for key in rule.memories for state in states],
        directions,
        numbers,
        [weight.float() for weight in weights],
        biases.float(),
        options.float(),
        torch.tensor(rule.whitening),
        lr,
        decay,
        sign,
        guarded,
    )
    return bad, directions, choices


def serves_particles(params: Params, state: RuleState) -> bool:
    """Whether ``particles_step_`` can take these: in float32 on the CPU."""
    return all(
        native.serves(
            [param, *(value for key, value in state[name].items() if key not in ("hidden", "cell"))],
            states=[state[name]["hidden"], state[name]["cell"]],
        )
        for name, param in params.items()
    )
