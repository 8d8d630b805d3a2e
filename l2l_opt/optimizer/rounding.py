"""Moving averages kept in bfloat16: rounded at random, so that no step of a slow one is lost, and always alike."""

import math

import torch
from torch import Tensor

from l2l_opt.optimizer.local_parameters import LocalParameter
from l2l_opt.rules.base import UpdateRule

WORD = 0xFFFFFFFF
"""Numbers of 32 bits are computed in int64, which has no sign to mind, and products are cut."""
LARGEST = 0x7F7F0000
"""Bits of the largest number of bfloat16; what is larger, infinite or no number is cut rather than rounded."""


def as_kept(rule: UpdateRule, state: dict[str, Tensor], param: LocalParameter) -> dict[str, Tensor]:
    """Return a state after a step as it is kept: its moving averages rounded where they are kept in bfloat16.

    Args:
        rule: whose state; rows of its averages are counted on from one to the next, in the order of their declaration.
        state: as the rule's forward pass returned it, with the clock after the step.
        param: whose, or some of its coordinates.
    """
    kept, first_row = dict(state), 0
    for key in rule.moving_averages:
        if key not in state:
            continue
        if param.state[key].dtype == torch.bfloat16:
            kept[key] = _rounded_average(state[key], state["step"], param, first_row)
        first_row += state[key].shape[0]
    return kept


def _rounded_average(average: Tensor, step: Tensor, param: LocalParameter, first_row: int) -> Tensor:
    """Round some rows of a parameter's averages, ``[rows, *shape]``."""
    shape, first = param.within
    index = torch.zeros((), dtype=torch.int64, device=average.device)
    for axis, size in enumerate(average.shape[1:]):
        along = torch.arange(first[axis], first[axis] + size, device=average.device) * math.prod(shape[axis + 1 :])
        index = index.unsqueeze(-1) + along
    count = math.prod(shape)
    return torch.stack(
        [rounded_at_random(own, step, index + (first_row + row) * count) for row, own in enumerate(average)]
    )


def rounded_at_random(value: Tensor, step: Tensor, index: Tensor) -> Tensor:
    """Round to bfloat16, up or down at random, so that what is kept is right in expectation.

    With a decay of .99 an average moves by a hundredth of what it lacks, and bfloat16 has 8 bits: rounded to nearest,
    changes below 1/256 of an average are lost, step after step. So it is rounded to the one or the other neighbour
    a < x < b, with probability (x - a) / (b - a) to b, of which the mean is x. Random bits are made of the step and of
    where a number lies, so that there is no generator to save, and kernels everywhere make the same:

        bits(y) = bits(x) + (mix(i xor mix(t)) mod 2^16), without the lower 16 bits
        mix(z): z ^= z >> 16, z *= 0x85ebca6b, z ^= z >> 13, z *= 0xc2b2ae35, z ^= z >> 16, in 32 bits

    What bfloat16 holds stays as it is, zero too.

    Args:
        value: of any shape and precision.
        step: 0-dim, t, the number of the step after which this is kept; 1 for the first.
        index: of ``value.shape``, int64: i, where each number lies among all of its parameter's averages,
            ``row * coordinates + coordinate``, as far as they lie on this device.

    Source: rounding: arXiv 1502.02551, section 3.1; for what is added up in bfloat16: arXiv 2010.06192, section 4.1;
    bits by a count rather than a generator: Salmon et al., SC 2011; mix: the last lines of MurmurHash3 (Appleby, 2011).
    """
    random = _mix(index & WORD ^ _mix(step.to(torch.int64) & WORD)) & 0xFFFF
    exact = value.to(torch.float32)
    bits = exact.view(torch.int32).to(torch.int64)
    bits = torch.where(bits & 0x7FFFFFFF < LARGEST, bits + random, bits) & ~0xFFFF
    return bits.to(torch.int32).view(torch.float32).to(torch.bfloat16)


def _mix(word: Tensor) -> Tensor:
    word = word ^ word >> 16
    word = word * 0x85EBCA6B & WORD
    word = word ^ word >> 13
    word = word * 0xC2B2AE35 & WORD
    return word ^ word >> 16
