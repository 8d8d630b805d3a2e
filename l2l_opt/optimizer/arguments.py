"""What a user may set: of the optimizer, and of each of its groups."""

import difflib
import math
import os
from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from l2l_opt.rules.base import UpdateRule
from l2l_opt.rules.products import PRODUCT_DTYPES
from l2l_opt.storage.safetensors_file import brief

GROUP_OPTIONS = ("lr", "weight_decay", "num_steps", "maximize")
OPTIONS = (*GROUP_OPTIONS, "guard", "state_dtype", "whitening_dtype")


def check_arguments(rule: Any, guard: Any, state_dtype: Any, whitening_dtype: Any, others: dict[str, Any]) -> None:
    """Refuse what no optimizer could be made with.

    Args:
        rule: as of ``LearnedOptimizer``.
        guard: likewise.
        state_dtype: likewise.
        whitening_dtype: likewise.
        others: what else was given by name.

    Raises:
        TypeError: an option that there is not, a rule of another kind, a number in its place.
        ValueError: an unknown guard, a state_dtype that is not floating, another whitening_dtype than there are.
    """
    for key, value in others.items():
        near = difflib.get_close_matches(key, OPTIONS, n=1)
        raise TypeError(
            f"options must be {', '.join(OPTIONS[:-1])} or {OPTIONS[-1]}, the rule has its own of the others; got "
            f"{key}={value!r}, " + (f"did you mean {near[0]}?" if near else "leave it out")
        )
    if isinstance(rule, (float, int)):
        raise TypeError(f"lr is a keyword, and 1.0 as meta-trained; got {rule} where the rule stands, leave it out")
    if guard not in ("skip", "fallback", None):
        raise ValueError(f"guard must be 'skip', 'fallback' or None; got {guard!r}, use one of these")
    if state_dtype is not None and not (isinstance(state_dtype, torch.dtype) and state_dtype.is_floating_point):
        raise ValueError(f"state_dtype must be a floating dtype or None; got {state_dtype}, use torch.bfloat16")
    if whitening_dtype not in PRODUCT_DTYPES:
        raise ValueError(
            f"whitening_dtype must be torch.float32 or torch.bfloat16; got {whitening_dtype}, use one of these"
        )
    if rule is not None and not isinstance(rule, (str, os.PathLike, UpdateRule)):
        raise TypeError(
            f"rule must be None, a name, a path or an UpdateRule; got {type(rule).__name__}, "
            "use e.g. rule=CoordinatewiseLSTM()"
        )


def check_options_of_all(group: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse in a group another value of what is the same for all of an optimizer's; wrappers put its own there.

    Args:
        group: that is added.
        own: the optimizer's values.

    Raises:
        ValueError: there is another.
    """
    for key, value in own.items():
        if group.get(key, value) != value:
            raise ValueError(
                f"{key} must be the same for all groups; got {group[key]!r} in one beside {value!r}, pass it to "
                "LearnedOptimizer"
            )


def check_options(group: Mapping[str, Any], *, loaded: bool = False) -> None:
    """Refuse options of a group that no step could be taken with.

    Args:
        group: the options.
        loaded: of a saved state; those of 0.1 may hold a num_steps that is not whole.

    Raises:
        ValueError: the first that is out of range.
    """
    for key, usual in (("lr", 1.0), ("weight_decay", 0.0)):
        value = group[key]
        if isinstance(value, Tensor):
            require(value.numel() == 1, f"Tensor {key} must be 1-element", value, f"use e.g. {usual}")
        require(0 <= number_of(value) < math.inf, f"{key} must be finite and not negative", value, f"use e.g. {usual}")
    num_steps, maximize, taken = group["num_steps"], group["maximize"], group["steps_taken"]
    planned = 1.0 if num_steps is None else number_of(num_steps)
    require(0 < planned < math.inf, "num_steps must be positive or None", num_steps, "use the planned number of steps")
    fix = f"use e.g. {math.ceil(planned)}"
    require(loaded or planned.is_integer(), "num_steps must be a whole number", num_steps, fix)
    require(isinstance(maximize, bool), "maximize must be True or False", maximize, "use one of these")
    require(isinstance(taken, int) and taken >= 0, "steps_taken must count steps", taken, "leave it to the optimizer")


def number_of(value: Any) -> float:
    """Return a real number or a tensor of one as a float; NaN for anything else."""
    if isinstance(value, Tensor):
        is_real = value.numel() == 1 and not value.is_complex() and value.dtype != torch.bool
    else:
        is_real = not isinstance(value, bool) and isinstance(value, Real)
    try:
        return float(value) if is_real else math.nan
    except OverflowError:
        return math.nan


def require(holds: bool, rule: str, value: Any, fix: str = "save it anew") -> None:
    """Raise ``refusal`` where something does not hold."""
    if not holds:
        raise refusal(rule, value, fix)


def refusal(rule: str, value: Any, fix: str = "save it anew") -> ValueError:
    """Return an error of one sentence: the rule that is broken, the value given, the fix."""
    return ValueError(f"{rule}; got {brief(value)}, {fix}")
