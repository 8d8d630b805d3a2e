"""The whole step of an optimizer in place: one operator, ``torch.ops.l2l_opt.recurrent_step_``, over a list of tensors.

It reads a gradient, a parameter and its state once, and writes the last two once: no temporary grows with the model.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l2l_opt.kernels import native

_library = torch.library.Library("l2l_opt", "FRAGMENT")
_library.define(
    "recurrent_step_(str kind, Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] hidden, Tensor(c!)[] cell, "
    "Tensor(d!)[] averages, Tensor(e!)[] squares, Tensor numbers, Tensor[] weights, Tensor biases, Tensor options, "
    "float lr, float decay, float sign, bool guarded) -> Tensor"
)


@torch.library.impl(_library, "recurrent_step_", "CPU")
def _step(*arguments: Any) -> Tensor:
    *tensors, lr, decay, sign, guarded = arguments
    return native.step(*tensors, lr=lr, decay=decay, sign=sign, guarded=guarded)


@torch.library.register_fake("l2l_opt::recurrent_step_")
def _fake(_kind: str, params: list[Tensor], *_others: Any) -> Tensor:
    return torch.empty(len(params), dtype=torch.uint8)


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


class CompiledStep(NamedTuple):
    """A rule as ``recurrent_step_`` takes it.

    Attributes:
        kind: of ``native.KINDS``.
        moments: names of the averages of gradients and of their squares in a parameter's state; None without any.
        weights: of each layer input and hidden weights, then the read-out's, as in ``reference``.
        biases: of all layers, then the read-out's.
        options: what the kind is told of the rule, ``[num_options]``, in the order of steps.h.
        numbers: what the kind is told of one tensor, made of its state and num_steps.
    """

    kind: str
    moments: tuple[str, str] | None
    weights: Sequence[Tensor]
    biases: Tensor
    options: Tensor
    numbers: Callable[[dict[str, Tensor], int | None], Sequence[float]] = lambda state, num_steps: ()


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
        states: their states, of which hidden, cell and moments are changed.
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
    averages, squares = ([state[key] for state in states] for key in rule.moments) if rule.moments else ([], [])
    bad = torch.ops.l2l_opt.recurrent_step_(
        rule.kind,
        list(params),
        list(grads),
        [state["hidden"] for state in states],
        [state["cell"] for state in states],
        averages,
        squares,
        torch.tensor([list(rule.numbers(state, num_steps)) for state in states], dtype=torch.float32),
        [weight.float() for weight in rule.weights],
        rule.biases.float(),
        rule.options.float(),
        lr,
        decay,
        sign,
        guarded,
    )
    # As any operation in place: a graph that saved these parameters must not be differentiated with the new ones.
    torch.autograd.graph.increment_version(params)
    return bad.tolist()
