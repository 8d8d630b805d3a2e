"""SGD, momentum, RMSprop, Adam and AdamW as rules, so that baselines run in the same unroll as learned rules.

Their learning rate is a weight of phi (kept as its logarithm), so it can be meta-trained, and a batch of students can
run one learning rate each. Step for step they equal their namesakes in torch.optim.
"""

import abc
import math
from typing import Any

import torch
from torch import Tensor, nn

from l2l_opt.checks import check_fractions, check_positive_numbers
from l2l_opt.rules.base import UpdateRule, initial_step, register_rule
from l2l_opt.rules.features import bias_correction, moving_average, progress, safe_sqrt
from l2l_opt.types import Params, RuleState

SCHEDULES = ("constant", "cosine", "warmup-cosine")
WARMUP = 0.1
"""Of the planned steps, over which a rate rises where it warms up."""


def schedule_factor(schedule: str, step: Tensor, num_steps: Tensor | None, *, dtype: torch.dtype) -> Tensor | None:
    """Return the factor on a rate at a step; None for a constant one, or where the number of steps is unknown.

        cosine: (1 + cos(pi t / n)) / 2;   warmup-cosine: min((t + 1) / (WARMUP n), 1), times a cosine over what is left

    Args:
        schedule: one of ``SCHEDULES``.
        step: 0-dim, updates already applied.
        num_steps: 0-dim, n.
        dtype: of the factor.
    """
    fraction = None if schedule == "constant" else progress(step, num_steps, dtype=dtype)
    if fraction is None or num_steps is None:
        return None
    if schedule == "cosine":
        return (1 + torch.cos(math.pi * fraction)) / 2
    risen = ((fraction + 1 / num_steps.to(dtype)) / WARMUP).clamp(max=1)
    left = ((fraction - WARMUP) / (1 - WARMUP)).clamp(min=0)
    return risen * (1 + torch.cos(math.pi * left)) / 2


class HandDesignedRule(UpdateRule):
    """``update = -lr * schedule(t / num_steps) * (direction(gradient, moments) + weight_decay * theta)``.

    Args:
        lr: learning rate, positive.
        schedule: ``"constant"``, ``"cosine"`` or ``"warmup-cosine"``, as ``schedule_factor`` has them (constant where
            num_steps is unknown).
        config: the subclass's other arguments; ``weight_decay`` (decoupled, 0 where there is none) among them.
    """

    moments: tuple[str, ...] = ()
    reads_whole_tensors = False

    def __init__(self, *, lr: float, schedule: str, **config: Any):
        super().__init__(lr=lr, schedule=schedule, **config)
        check_positive_numbers(0.01, lr=lr)
        if schedule not in SCHEDULES:
            names = ", ".join(SCHEDULES)
            raise ValueError(f"schedule must be one of {names}; got {schedule!r}, use one of these")
        check_fractions(0.9, **{key: value for key, value in config.items() if key != "nesterov"})
        # 0-dim float64 keeps the rate exact and does not promote float32 updates.
        self.log_lr = nn.Parameter(torch.tensor(math.log(lr), dtype=torch.float64))

    @abc.abstractmethod
    def direction(
        self, gradient: Tensor, moments: dict[str, Tensor], steps: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the descent direction and the next moments; ``steps`` is 0-dim, 1 at the first update."""

    def init_state(self, params: Params) -> RuleState:
        return {
            name: {"step": initial_step(param)} | {key: torch.zeros_like(param).unsqueeze(0) for key in self.moments}
            for name, param in params.items()
        }

    def forward(
        self, grads: Params, state: RuleState, params: Params, *, num_steps: Tensor | None = None
    ) -> tuple[Params, RuleState]:
        updates: Params = {}
        next_state: RuleState = {}
        for name, gradient in grads.items():
            step = state[name]["step"]
            moments = {key: state[name][key].squeeze(0) for key in self.moments}
            direction, moments = self.direction(gradient, moments, step + 1)
            if self.config.get("weight_decay"):
                direction = direction + self.config["weight_decay"] * params[name]
            scale = -self.log_lr.exp()
            factor = schedule_factor(self.config["schedule"], step, num_steps, dtype=gradient.dtype)
            scale = scale if factor is None else scale * factor
            updates[name] = scale.to(direction.dtype) * direction
            next_state[name] = {"step": step + 1} | {key: value.unsqueeze(0) for key, value in moments.items()}
        return updates, next_state

    def decay_schedule(self, progress: float) -> float:
        share = torch.tensor(progress, dtype=torch.float64)
        # As of a run of very many steps, which begins at no rate where it warms up.
        many = torch.tensor(1e9, dtype=torch.float64)
        factor = schedule_factor(self.config["schedule"], share * many, many, dtype=torch.float64)
        return 1.0 if factor is None else float(factor)


@register_rule("sgd")
class SGD(HandDesignedRule):
    """Gradient descent: ``update = -lr * g``."""

    def __init__(self, *, lr: float = 0.1, schedule: str = "constant"):
        super().__init__(lr=lr, schedule=schedule)

    def direction(
        self, gradient: Tensor, moments: dict[str, Tensor], steps: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return gradient, {}


@register_rule("momentum")
class Momentum(HandDesignedRule):
    """SGD with momentum: ``b <- momentum * b + g``; ``update = -lr * b``, or ``-lr * (g + momentum * b)`` (Nesterov).

    Args:
        lr: learning rate, positive.
        momentum: fraction of the buffer kept, in [0, 1).
        nesterov: look ahead along the buffer, as torch.optim does.
        schedule: ``"constant"``, ``"cosine"`` or ``"warmup-cosine"``.
    """

    moments = ("momentum_buffer",)

    def __init__(self, *, lr: float = 0.1, momentum: float = 0.9, nesterov: bool = False, schedule: str = "constant"):
        super().__init__(lr=lr, schedule=schedule, momentum=momentum, nesterov=nesterov)

    def direction(
        self, gradient: Tensor, moments: dict[str, Tensor], steps: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        momentum = self.config["momentum"]
        buffer = momentum * moments["momentum_buffer"] + gradient
        return gradient + momentum * buffer if self.config["nesterov"] else buffer, {"momentum_buffer": buffer}


@register_rule("rmsprop")
class RMSprop(HandDesignedRule):
    """RMSprop: ``v <- alpha * v + (1 - alpha) * g^2``; ``update = -lr * g / (sqrt(v) + eps)``.

    Args:
        lr: learning rate, positive.
        alpha: decay of the second moment, in [0, 1).
        eps: in the gradient's unit.
        schedule: ``"constant"``, ``"cosine"`` or ``"warmup-cosine"``.
    """

    moments = ("square_average",)

    def __init__(self, *, lr: float = 0.01, alpha: float = 0.99, eps: float = 1e-8, schedule: str = "constant"):
        super().__init__(lr=lr, schedule=schedule, alpha=alpha, eps=eps)

    def direction(
        self, gradient: Tensor, moments: dict[str, Tensor], steps: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        square = moving_average(moments["square_average"], gradient * gradient, beta=self.config["alpha"])
        return gradient / (safe_sqrt(square) + self.config["eps"]), {"square_average": square}


@register_rule("adam")
class Adam(HandDesignedRule):
    """Adam: ``update = -lr * m^ / (sqrt(v^) + eps)`` with bias-corrected moments.

    Args:
        lr: learning rate, positive.
        beta1: decay of the first moment, in [0, 1).
        beta2: decay of the second moment, in [0, 1).
        eps: in the gradient's unit.
        schedule: ``"constant"``, ``"cosine"`` or ``"warmup-cosine"``.

    Source: arXiv 1412.6980, algorithm 1.
    """

    moments = ("average", "square_average")

    def __init__(
        self,
        *,
        lr: float = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        schedule: str = "constant",
    ):
        super().__init__(lr=lr, schedule=schedule, beta1=beta1, beta2=beta2, eps=eps)

    def direction(
        self, gradient: Tensor, moments: dict[str, Tensor], steps: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        beta1, beta2, eps = self.config["beta1"], self.config["beta2"], self.config["eps"]
        average = moving_average(moments["average"], gradient, beta=beta1)
        square = moving_average(moments["square_average"], gradient * gradient, beta=beta2)
        correction1 = bias_correction(steps, beta=beta1, dtype=gradient.dtype)
        correction2 = bias_correction(steps, beta=beta2, dtype=gradient.dtype)
        root = safe_sqrt(square) / correction2.sqrt()
        return average / correction1 / (root + eps), {"average": average, "square_average": square}


@register_rule("adamw")
class AdamW(Adam):
    """Adam with decoupled weight decay: ``update = -lr * (m^ / (sqrt(v^) + eps) + weight_decay * theta)``.

    Args:
        lr: learning rate, positive.
        beta1: decay of the first moment, in [0, 1).
        beta2: decay of the second moment, in [0, 1).
        eps: in the gradient's unit.
        weight_decay: in [0, 1), of all parameters alike; multiplied by lr and the schedule, as in torch.optim.
        schedule: ``"constant"``, ``"cosine"`` or ``"warmup-cosine"``.

    Source: arXiv 1711.05101, algorithm 2; its default here is that of torch.optim.
    """

    def __init__(
        self,
        *,
        lr: float = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        schedule: str = "constant",
    ):
        HandDesignedRule.__init__(
            self, lr=lr, schedule=schedule, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay
        )
