"""What all kernels here are written with: functions of a number, addresses out of tables, sums over chunks."""

# pyright: reportArgumentType=false

import triton
import triton.language as tl

CHUNK = tl.constexpr(4096)
"""Coordinates of one tensor that a program takes."""
BLOCK = tl.constexpr(512)
"""Of these, as many at a time as sums are made over."""


@triton.jit
def sigmoid(x):
    """``1 / (1 + e^-x)``."""
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def tanh(x):
    """By the exponential, as on the CPU."""
    return 2.0 / (1.0 + tl.exp(-2.0 * x)) - 1.0


@triton.jit
def root(x):
    """Take the square root, zero of what rounding has made negative; NaN passes through."""
    return tl.sqrt(tl.where(x < 0, 0.0, x))


@triton.jit
def between(x, low, high):
    """Bound x; NaN passes through, as it does not through minimum and maximum."""
    return tl.where(x < low, low, tl.where(x > high, high, x))


@triton.jit
def bias_correction(steps, log_beta):
    """Return ``1 - beta^steps``: a series where steps are few, which would lose digits to the difference."""
    x = -steps * log_beta
    series = x * (1.0 - x / 2 * (1.0 - x / 3 * (1.0 - x / 4 * (1.0 - x / 5 * (1.0 - x / 6 * (1.0 - x / 7))))))
    return tl.where(x < 0.5, series, 1.0 - tl.exp(-x))


@triton.jit
def at(table, index, dtype: tl.constexpr):
    """Return where a tensor lies, out of a table of addresses."""
    return tl.load(table + index).to(tl.pointer_type(dtype))


@triton.jit
def total(partial, chunks, t):
    """Sum over a tensor's chunks, in the same order every time."""
    first, last = tl.load(chunks.first + t), tl.load(chunks.first + t + 1)
    summed = tl.zeros([256], tl.float32)
    for begin in range(first, last, 256):
        index = begin + tl.arange(0, 256)
        summed += tl.load(partial + index, mask=index < last, other=0.0)
    return tl.sum(summed)


@triton.jit
def count_once(marks, tensors, t):
    """Count a step in which some of a tensor's blocks were left out: once, whichever of them comes first."""
    if tl.atomic_xchg(marks + t, 1) == 0:
        skipped = at(tensors.skipped, t, tl.int64)
        tl.store(skipped, tl.load(skipped) + 1)


@triton.jit
def mix(word):
    """Spread what differs in any bit of an uint32 over all."""
    word ^= word >> 16
    word *= 0x85EBCA6B
    word ^= word >> 13
    word *= 0xC2B2AE35
    return word ^ (word >> 16)


@triton.jit
def rounded_at_random(value, step, index):
    """As ``optimizer.rounding`` has it: a float32 of which bfloat16 holds all; ``step``: a float32, from 1."""
    seed = mix(step.to(tl.int32).to(tl.uint32, bitcast=True))
    random = (mix(index.to(tl.uint32) ^ seed) & 0xFFFF).to(tl.int32)
    bits = value.to(tl.int32, bitcast=True)
    bits = tl.where((bits & 0x7FFFFFFF) < 0x7F7F0000, bits + random, bits) & -65536
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def keep_average(first, row, average, step, count, index, dtype: tl.constexpr):
    """Write averages of a block of coordinates, a row that lies at ``first`` and the row-th of all averages."""
    if dtype == tl.bfloat16:
        average = rounded_at_random(average, step, row * count + index)
    tl.store(first + index, average.to(dtype), mask=index < count)
