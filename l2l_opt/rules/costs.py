"""What a rule costs a parameter that it trains: bytes of state and operations a step, counted on the rule itself."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

from l2l_opt.dispatch_mode import DispatchMode
from l2l_opt.kernels import portable
from l2l_opt.kernels.operands import Operands
from l2l_opt.rules.base import UpdateRule
from l2l_opt.rules.composed import ComposedRule

SIZES = (256, 512)
ROWS = 256
"""Of a matrix, of which SIZES are the columns."""


class RuleCosts(NamedTuple):
    """Of one parameter; of a composed rule's costliest part.

    Attributes:
        state_bytes: kept between steps, all of it in float32.
        state_bytes_bfloat16: kept between steps with ``state_dtype=torch.bfloat16``.
        operations: floating-point operations of one step: a multiplication and an addition for every pair in a matrix
            product, one for each number that any other function returns or that a sum takes in.
    """

    state_bytes: int
    state_bytes_bfloat16: int
    operations: int


def rule_costs(rule: UpdateRule) -> RuleCosts:
    """Count what a rule costs, of two sizes: what these do not change is of the tensor, a row or a column.

    Bytes are those of a matrix, as nearly all weights are of one; operations are counted as the rule moves a vector.
    """
    if isinstance(rule, ComposedRule):
        return RuleCosts(*map(max, *(rule_costs(part) for part in rule.rules())))
    short, long = (_whole_costs(rule, size) for size in SIZES)
    more = SIZES[1] - SIZES[0]
    return RuleCosts(
        *(round((b - a) / each) for a, b, each in zip(short, long, (ROWS * more,) * 2 + (more,), strict=True))
    )


def _whole_costs(rule: UpdateRule, size: int) -> RuleCosts:
    of_matrix = rule.init_state({"weight": torch.ones(ROWS, size)})["weight"]
    params = {"weight": torch.linspace(-1, 1, size)}
    state, gradient = rule.init_state(params), params["weight"] / 3
    with torch.no_grad(), _OperationCounter() as counter:
        rule({"weight": gradient}, state, params, num_steps=torch.tensor(100.0))
    return RuleCosts(
        sum(value.numel() * value.element_size() for value in of_matrix.values()),
        sum(
            value.numel() * (rule.dtype_between_steps(key, torch.bfloat16) or value.dtype).itemsize
            for key, value in of_matrix.items()
        ),
        counter.operations,
    )


class _OperationCounter(DispatchMode):
    """Adds up operations that compute numbers; moving, choosing and converting them is not counted."""

    moving = ("where", "clone", "fill", "zero_", "detach")

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.l2l_opt.coordinatewise_lstm.default:
            # The kernels compute what their plain form spells out.
            with self:
                return portable.forward(Operands(*args))
        with self:
            # An operator that is made of others, matmul for one, is counted as these.
            made = func.decompose(*args, **(kwargs or {}))
        if made is not NotImplemented:
            return made
        made = func(*args, **(kwargs or {}))
        name = func._overloadpacket.__name__
        if func._overloadpacket in flop_registry:
            self.operations += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=made)
        elif not isinstance(made, Tensor) or not made.is_floating_point():
            pass
        elif name in ("mv", "addmv", "dot", "vdot"):
            self.operations += 2 * max(arg.numel() for arg in args if isinstance(arg, Tensor))
        elif torch.Tag.reduction in func.tags:
            self.operations += args[0].numel()
        elif torch.Tag.pointwise in func.tags and name not in self.moving:
            self.operations += made.numel()
        return made
