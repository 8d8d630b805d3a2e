"""What the options of a group make of its next step."""

from collections.abc import Mapping
from typing import Any, TypeGuard

from torch import Tensor

from l2l_opt.kernels import triton
from l2l_opt.optimizer.habits import Habits
from l2l_opt.optimizer.stepping import Options
from l2l_opt.rules.base import UpdateRule

ADAMW_LR = 1e-3
"""The rate at which weight decay is as strong as AdamW's."""


def step_options(
    group: dict[str, Any], rule: UpdateRule, habits: Habits, *, guard: str | None, loss: Tensor | None
) -> Options:
    """Return a group's options as its next step takes them.

    Args:
        group: of the optimizer.
        rule: the optimizer's, which may anneal weight decay.
        habits: looks at a rate that is known here.
        guard: the optimizer's.
        loss: that was given to the step, for a rule that reads it.

    Raises:
        RuntimeError: weight decay that is annealed, in a step that is captured in a CUDA graph.
    """
    lr: float | Tensor = group["lr"]
    rate: Tensor | None = None
    if _lies_beside(lr, group):
        if not group["steps_taken"]:
            habits.look(group, float(lr))  # before there is a graph, and once: later it would wait at every step
        lr, rate = 1.0, lr.detach().reshape(()).float()
    else:
        lr = float(lr)
        habits.look(group, lr)
    return Options(
        num_steps=group["num_steps"],
        lr=lr,
        decay=lr * ADAMW_LR * _annealed_decay(group, rule),
        sign=-1.0 if group["maximize"] else 1.0,
        guarded=guard is not None,
        loss=loss if rule.reads_loss else None,
        rate=rate,
    )


def _lies_beside(lr: float | Tensor, group: Mapping[str, Any]) -> TypeGuard[Tensor]:
    """Whether a rate lies on the GPU of all of a group's parameters, where it is read without waiting."""
    if not isinstance(lr, Tensor) or lr.device.type not in triton.DEVICES:
        return False
    return all(p.device == lr.device for p in group["params"])


def _annealed_decay(group: Mapping[str, Any], rule: UpdateRule) -> float:
    decay, num_steps = float(group["weight_decay"]), group["num_steps"]
    if not decay or num_steps is None:
        return decay
    if triton.is_captured(group["params"][0].device):
        raise RuntimeError(
            "a captured step must not anneal weight_decay, which its replays would leave as it is; got "
            f"weight_decay={decay:g} and num_steps={num_steps}, use one of them"
        )
    return decay * rule.decay_schedule(min(group["steps_taken"] / float(num_steps), 1.0))
