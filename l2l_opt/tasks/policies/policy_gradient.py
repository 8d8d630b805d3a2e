"""Policy gradients: what is differentiated, once or twice, in place of an expected return."""

import torch
from torch import Tensor


def returns_to_go(rewards: Tensor, *, discount: float) -> Tensor:
    """``G_t = sum_{k >= t} discount^(k - t) r_k``, of ``[..., H]``, likewise."""
    return rewards @ _powers(discount, rewards)


def advantages_over_others(returns: Tensor, alive: Tensor) -> Tensor:
    """Each episode's returns-to-go beside the mean of the *other* episodes that are alive at the same time.

    Other episodes are independent of this one's actions, so the baseline adds no bias to derivatives of any
    order; a mean that counts the episode itself would shrink them by 1 / E.

    Args:
        returns: ``[E, H]``, in units of reward.
        alive: ``[E, H]``, 1 before an episode's end and 0 after it.

    Returns:
        ``[E, H]``, 0 after an episode's end.
    """
    total, count = (returns * alive).sum(0), alive.sum(0)
    others = (total - returns * alive) / (count - alive).clamp(min=1)
    return (returns - others) * alive


def surrogate(log_probabilities: Tensor, advantages: Tensor, *, memory: float) -> Tensor:
    """Minus the expected return but for a constant, to be differentiated once or twice.

        w_t = memory * w_{t-1} + log pi(a_t | s_t),    box(w) = exp(w - stop(w))
        L   = -1 / E sum_episodes sum_t (box(w_t) - box(memory * w_{t-1})) stop(A_t)

    The first derivative is REINFORCE's, ``-sum_t A_t d log pi_t``, whatever the memory. MAML needs the second as well,
    since its inner update changes the distribution that episodes come from. With memory 1 (DiCE) it has the Hessian of
    the expected return as its expectation; with memory 0 the products of different steps' scores are missing, which are
    most of its variance (the low-variance curvature of ProMP): biased, except where A_t does not depend on what
    happened before t. Between them bias is traded for variance.

    Args:
        log_probabilities: ``[E, H]``, in nats, 0 where an episode has ended.
        advantages: ``[E, H]``, taken as constants.
        memory: dimensionless, in [0, 1].

    Returns:
        0-dim; its value is 0.

    Source: arXiv 1802.05098 (the magic box), arXiv 1909.10549 (advantages and memory), arXiv 1810.06784, section 5.
    """
    weights = log_probabilities @ _powers(memory, log_probabilities).T
    before = weights - log_probabilities
    effect = _box(weights) - _box(before)
    return -(effect * advantages.detach()).sum(-1).mean()


def _box(weights: Tensor) -> Tensor:
    return (weights - weights.detach()).exp()


def _powers(base: float, like: Tensor) -> Tensor:
    """``[H, H]``: ``base^(row - column)`` on and below the diagonal, 0 above it."""
    times = torch.arange(like.shape[-1], device=like.device)
    apart = (times.unsqueeze(1) - times).clamp(min=0)
    return (torch.full((), base, dtype=like.dtype, device=like.device) ** apart).tril()
