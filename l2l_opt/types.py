"""The few types that every part of the package shares."""

from typing import Any

from torch import Tensor

Params = dict[str, Tensor]
"""Parameter name -> tensor: the student's weights, theta in equations (also gradients and updates)."""

RuleState = dict[str, dict[str, Tensor]]
"""Parameter name -> what the optimizer keeps as ``state[p]``; each tensor is ``[features, *param.shape]`` or 0-dim."""

TaskData = dict[str, Tensor]
"""What varies between students of one family (a quadratic's W and y); stacked over students by the unroll."""

Batch = Any
"""A pytree of tensors that ``TaskFamily.loss`` understands; it may hold indices that the loss gathers."""
