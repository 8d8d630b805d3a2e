"""A saved optimizer state on its way into an optimizer: checked, and kept in its own dtypes.

torch.optim casts what it loads to the dtype of the parameter, which would round the state of those in half precision.
"""

import itertools
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from l2l_opt import distributed
from l2l_opt.parts import BOOKKEEPING, is_finite, plain
from l2l_opt.rules.base import UpdateRule

HOW_TO_SHARD = "load it by torch.distributed.checkpoint.state_dict.set_optimizer_state_dict"


class Boxed:
    """One parameter's state, passed through torch.optim's cast, which looks into dicts but not into this."""

    def __init__(self, state: dict[str, Any]):
        self.state = state


def boxed(state_dict: dict[str, Any]) -> dict[str, Any]:
    """The state dict with every parameter's state boxed."""
    state = {key: Boxed(own) if isinstance(own, dict) else own for key, own in state_dict["state"].items()}
    return {**state_dict, "state": state}


def unboxed(boxes: Mapping[Any, Any], rule: UpdateRule, state_dtype: torch.dtype | None) -> dict[Any, Any]:
    """States as an optimizer keeps them: on the device of their parameters, in memory of their own.

    Args:
        boxes: parameter -> its state, boxed.
        rule: whose state it is.
        state_dtype: of the recurrent state; None for the dtype that was saved.
    """
    states: dict[Any, Any] = {}
    for param, box in boxes.items():
        states[param] = box
        if isinstance(box, Boxed):
            states[param] = {}
            for key, value in box.state.items():
                dtype = state_dtype if key in rule.recurrent_state else None
                tensor = torch.as_tensor(value, dtype=dtype if isinstance(value, Tensor) else torch.float32)
                states[param][key] = tensor.detach().to(param.device, copy=True)
            if states[param]:
                states[param].setdefault("skipped", torch.zeros((), dtype=torch.int64, device=param.device))
    return states


def check_options(group: dict[str, Any]) -> None:
    """Raises a ValueError where an option of a group is out of range."""
    for key in ("lr", "weight_decay"):
        value = group[key]
        if isinstance(value, Tensor) and value.numel() != 1:
            raise ValueError(f"Tensor {key} must be 1-element; got shape {tuple(value.shape)}, use one number")
        if not isinstance(value, (numbers.Real, Tensor)):
            raise ValueError(f"{key} must be a number; got {value!r}, use e.g. {1.0 if key == 'lr' else 0}")
        if not float(value) >= 0:
            raise ValueError(f"{key} must not be negative; got {value}, use e.g. {1.0 if key == 'lr' else 0}")
    num_steps = group["num_steps"]
    if num_steps is not None and not (isinstance(num_steps, (numbers.Real, Tensor)) and float(num_steps) > 0):
        raise ValueError(f"num_steps must be positive or None; got {num_steps!r}, use the planned number of steps")
    taken = group["steps_taken"]
    if not isinstance(taken, int) or taken < 0:
        raise ValueError(f"steps_taken counts steps; got {taken!r}, leave it to the optimizer")
    if not isinstance(group["maximize"], (bool, numbers.Integral)):
        raise ValueError(f"maximize must be True or False; got {group['maximize']!r}, use one of these")


def check_values(state_dict: dict[str, Any], named: Iterable[tuple[str, Tensor]], *, must_be_finite: bool) -> None:
    """Raises a ValueError where a saved state, whose form is right, does not go with these parameters.

    Args:
        state_dict: as ``state_dicts.check_state_dict`` has found it to be whole.
        named: names and parameters of all groups, in their order.
        must_be_finite: whether a state that is not is refused.
    """
    saved = itertools.chain.from_iterable(group["params"] for group in state_dict["param_groups"])
    for index, (name, param) in zip(saved, named, strict=False):
        for key, value in state_dict["state"].get(index, {}).items():
            if isinstance(value, Tensor):
                _check_value(value, key, name, param, must_be_finite=must_be_finite)


def _check_value(value: Tensor, key: str, name: str, param: Tensor, *, must_be_finite: bool) -> None:
    shape = (*param.shape, 2) if param.is_complex() else tuple(param.shape)
    needed = {"skipped": (), "fallback": (3, *shape)}.get(key, tuple(value.shape))
    if tuple(value.shape) != needed:
        raise ValueError(
            f"state {key!r} of {name!r} must have shape {needed}; got {tuple(value.shape)}, "
            "load the state of parameters of the same shapes"
        )
    if key in BOOKKEEPING and value.is_floating_point() != (key == "fallback"):
        kind = "a floating" if key == "fallback" else "an integer"
        raise ValueError(
            f"state {key!r} of {name!r} must have {kind} dtype; got {value.dtype}, load a state_dict() of this rule"
        )
    if value.dim() and (distributed.shards_of(param) is None) != (distributed.shards_of(value) is None):
        raise ValueError(
            f"the state of a sharded parameter must be sharded like it, and no other; got {key!r} of {name!r}, "
            f"{HOW_TO_SHARD}"
        )
    if must_be_finite and value.is_floating_point() and not is_finite([plain(value)]):
        raise ValueError(
            f"a state must be finite; got {key!r} of {name!r} with infinite or undefined values, "
            "load an earlier state or use guard=None"
        )
