"""``torch.optim.Optimizer`` that imports torch's compiler only where somebody compiles.

Torch keeps the methods of its optimizers from ``torch.compile`` by a decorator that imports the compiler, sympy and a
thousand modules more at the first call: over a second, in processes that never compile. Where nobody has imported the
compiler there is nothing to be kept from, and the methods are called as they are.
"""

import functools
import inspect
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch._compile import _disable_dynamo  # pyright: ignore[reportPrivateUsage]

P = ParamSpec("P")
R = TypeVar("R")

DISABLING = _disable_dynamo(lambda: None).__code__
"""What all that torch has decorated so runs first."""


def eager(method: Callable[P, R]) -> Callable[P, R]:
    """Keep a method from ``torch.compile``, for which it is a break in the graph."""
    plain = inspect.unwrap(method, stop=lambda found: getattr(found, "__code__", None) is not DISABLING)
    disabled = _disable_dynamo(plain)

    @functools.wraps(plain)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return (disabled if "torch._dynamo" in sys.modules else plain)(*args, **kwargs)

    return call


class EagerOptimizer(torch.optim.Optimizer):
    """An optimizer whose methods are never compiled, and do not import the compiler."""

    add_param_group = eager(torch.optim.Optimizer.add_param_group)
    load_state_dict = eager(torch.optim.Optimizer.load_state_dict)
    state_dict = eager(torch.optim.Optimizer.state_dict)
    zero_grad = eager(torch.optim.Optimizer.zero_grad)
