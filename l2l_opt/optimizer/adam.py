"""Adam, with which ``LearnedOptimizer(guard="fallback")`` goes on where its rule has diverged."""

from collections.abc import Sequence

import torch

from l2l_opt.optimizer import sharding
from l2l_opt.optimizer.local_parameters import LocalParameter, finite_over_shards, in_order, is_finite, widened
from l2l_opt.optimizer.stepping import Options
from l2l_opt.rules.sharded_sums import Reduce

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


def adam_step(
    params: Sequence[LocalParameter], options: Options, *, rate: float, num_steps: int, reduce: Reduce | None
) -> None:
    """One step of Adam, in place; a tensor whose gradient or new value is not finite is left as it is.

    Args:
        params: their moments lie in the last two of ``own["fallback"]``, ``[3, *shape]``.
        options: of their group.
        rate: Adam's, as a multiple of the group's lr.
        num_steps: that Adam took before; of a parameter that began later it counts its own.
        reduce: sums over the parameters' shards; None where they are whole.

    Source: arXiv 1412.6980, algorithm 1.
    """
    for param in params:
        steps = param.state["step"].clamp(max=num_steps) + 1
        gradient = widened(param.grad) * options.sign
        kept = in_order(sharding.local(param.own["fallback"]), param.order)
        moments = torch.stack(
            [torch.lerp(kept[1], gradient, 1 - BETA1), torch.lerp(kept[2], gradient * gradient, 1 - BETA2)]
        )
        root = (moments[1] / (1 - BETA2**steps)).sqrt() + EPS
        value = widened(param.value)
        change = options.lr * rate * moments[0] / (1 - BETA1**steps) / root + options.decay * value
        change = change if options.rate is None else change * options.rate
        new = (value - change).to(param.value.dtype)
        (finite,) = finite_over_shards([is_finite([new, moments])], reduce)
        param.value.copy_(torch.where(finite, new, param.value))
        kept[1:].copy_(torch.where(finite, moments, kept[1:]))
        param.state["step"] += finite
        param.own["skipped"] += ~finite
