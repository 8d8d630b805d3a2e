"""Building a rule from a file's config without letting the config decide how much memory and time that takes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from l2l_opt.dispatch_mode import DispatchMode
from l2l_opt.rules import make_rule
from l2l_opt.rules.base import UpdateRule

SPARE_ELEMENTS = 2**20
SPARE_OPERATIONS = 1000


def build_rule(name: str, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> UpdateRule:
    """Return a rule of a registered kind with given weights, in their dtypes.

    A config may ask for any size (``num_layers=10**9``); the weights that were read are what it can rightly need. So
    construction is stopped once it has made more than 16 times their elements or 100 operations a weight tensor, and
    spare ones on top: before memory is taken, on every thread by itself, for rules of a plugin too.

    Args:
        name: in the registry.
        config: arguments of the rule's constructor.
        weights: phi, by name.

    Raises:
        ValueError: a config that the rule does not take, or that does not fit the weights; a weight that is not finite.
    """
    for key, weight in weights.items():
        if not weight.isfinite().all():
            raise ValueError(f"weights must be finite; got {int((~weight.isfinite()).sum())} that are not in {key!r}")
    elements = 16 * sum(weight.numel() for weight in weights.values()) + SPARE_ELEMENTS
    operations = 100 * len(weights) + SPARE_OPERATIONS
    try:
        allowance = _Allowance(elements=elements, operations=operations)
        with torch.random.fork_rng(devices=[]), allowance:  # pyright: ignore[reportUnknownMemberType]
            rule = make_rule(name, **config)
    # What constructors raise on values of any JSON kind; RuntimeError holds RecursionError too.
    except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, RuntimeError) as error:
        raise ValueError(f"its config must be one that the rule takes; got {type(error).__name__}: {error}") from error
    own = dict(rule.named_parameters())
    for key in sorted(own.keys() | weights.keys()):
        asked, given = (tuple(found[key].shape) if key in found else None for found in (own, weights))
        if asked != given:
            raise ValueError(f"its config must ask for the shapes of its weights; got {key!r} of {given} for {asked}")
    for key, weight in own.items():
        # The constructor's dtype is not kept: the weights' own is.
        weight.data = weights[key].clone()
    return rule


class _Allowance(DispatchMode):
    """Raises before the operation that would go beyond what was allowed."""

    def __init__(self, *, elements: int, operations: int):
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self.elements, self.operations = elements, operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.operations -= 1
        if any(argument.name == "device" for argument in func._schema.arguments):
            # Whatever makes a tensor out of nothing shows its size on the meta device, where it costs nothing.
            free = {"device": torch.device("meta")} | {
                key: None for key in ("generator", "pin_memory") if key in kwargs
            }
            made = func(*args, **{**kwargs, **free})
            self.elements -= made.numel() if isinstance(made, Tensor) else 0
        if self.elements < 0 or self.operations < 0:
            raise ValueError("its config must not ask for a rule much larger than its weights")
        return func(*args, **kwargs)
