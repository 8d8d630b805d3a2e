"""The few types that every room of the package shares."""

from typing import Any, TypeGuard

import torch
from torch import Tensor

Params = dict[str, Tensor]
"""Parameter name -> tensor: the student's weights, theta in equations (also gradients and updates)."""

RuleState = dict[str, dict[str, Tensor]]
"""Parameter name -> what the optimizer keeps as ``state[p]``; each tensor is ``[features, *param.shape]`` or 0-dim."""

TaskData = dict[str, Tensor]
"""What varies between students of one family (a quadratic's W and y); stacked over students by the unroll."""

Batch = Any
"""A pytree of tensors that ``TaskFamily.loss`` understands; it may hold indices that the loss gathers."""

DTYPES = {"float32": torch.float32, "float64": torch.float64}
"""Of students and rule, by the names that options have."""


def is_dict(value: Any) -> TypeGuard[dict[Any, Any]]:
    """Whether a value that may be anything is a dict, of which no more is known."""
    return isinstance(value, dict)


def is_list(value: Any) -> TypeGuard[list[Any] | tuple[Any, ...]]:
    """Whether a value that may be anything is a list or a tuple, of which no more is known."""
    return isinstance(value, (list, tuple))
