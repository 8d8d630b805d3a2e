"""One program a tensor: what it shows, its small network, its scalars and the size of its step (``scale_free.h``)."""

# pyright: reportGeneralTypeIssues=false, reportArgumentType=false

import triton
import triton.language as tl

from l2l_opt.kernels.triton.language import at, between, bias_correction, root, sigmoid, tanh, total
from l2l_opt.kernels.triton.scale_free import (
    BIASES,
    EVEN,
    GOOD,
    OVER_RMS,
    OVER_ROOT_RMS,
    PLAIN,
    POWER,
    SIZE,
    begins,
    power_of_two_above,
)


@triton.jit
def load_scalar(table, t):
    """Read a tensor's 0-dim state."""
    return tl.load(at(table, t, tl.float32))


@triton.jit
def store_scalar(table, t, value):
    """Write a tensor's 0-dim state."""
    tl.store(at(table, t, tl.float32), value)


@triton.jit
def numbers_of(values, num_values: tl.constexpr, length: tl.constexpr):
    """So many numbers as one block, zero behind them."""
    places = tl.arange(0, length)
    block = tl.zeros([length], tl.float32)
    for k in tl.static_range(num_values):
        block = tl.where(places == k, values[k], block)
    return block


@triton.jit
def agreement_of(sums, chunks, t):
    """Return the cosine between the gradient now and the average before, both over r."""
    number = tl.load(chunks.number)
    norms = root(total(sums + 4 * number, chunks, t)) * root(total(sums + 5 * number, chunks, t))
    return tl.where(norms > 0, total(sums + 6 * number, chunks, t) / tl.where(norms > 0, norms, 1.0), 0.0)


@triton.jit
def touched_of(before, step, sums, chunks, t, law):
    """Return the next average of the share of coordinates that have a gradient."""
    number = tl.load(chunks.number)
    ever = total(sums + 8 * number, chunks, t)
    now = tl.minimum(total(sums + 7 * number, chunks, t) / tl.maximum(ever, 1.0), 1.0)
    average = before + (1.0 - law.touched_beta) * (tl.where(ever > 0, now, 1.0) - before)
    return tl.where(step < law.touched_steps, average, tl.maximum(average, before))


@triton.jit
def network(context, phi, num_biases: tl.constexpr, units: tl.constexpr, length: tl.constexpr, padded: tl.constexpr):
    """Biases of the coordinates' network, then its three heads, ``[length]``."""
    u, j, k = tl.arange(0, padded), tl.arange(0, length), tl.arange(0, 16)
    inputs = tl.load(phi.tensor_weight + u[:, None] * 16 + k[None, :], mask=(u < units)[:, None], other=0.0)
    hidden = tanh(tl.sum(inputs * context[None, :], 1) + tl.load(phi.tensor_bias + u, mask=u < units, other=0.0))
    own = (j < num_biases + 3)[:, None] & (u < units)[None, :]
    weights = tl.load(phi.head_weight + j[:, None] * units + u[None, :], mask=own, other=0.0)
    heads = tl.sum(weights * hidden[None, :], 1) + tl.load(phi.head_bias + j, mask=j < num_biases + 3, other=0.0)
    return heads + tl.load(phi.biases + j, mask=j < num_biases, other=0.0)


@triton.jit
def pick(block, place: tl.constexpr, length: tl.constexpr):
    """Return one number of a block."""
    return tl.sum(tl.where(tl.arange(0, length) == place, block, 0.0))


@triton.jit
def progress_of(step, law):
    """Return whether a run's length is known, how much of it is over, its steps, and their length_scale."""
    known = law.num_steps >= 0
    fraction = tl.where(known, tl.minimum(step / tl.where(known, law.num_steps, 1.0), 1.0), 0.0)
    run = tl.where(known, law.num_steps, step)
    scale = tl.minimum(tl.sqrt(law.usual_run / tl.maximum(run, 1.0)), law.largest_scale)
    length_scale = tl.where(known, scale, 1.0)
    return known, fraction, run, length_scale


@triton.jit
def gradient_scale_of(rms_g, first, average, step, law):
    """Return the gradient's size at first, its logarithm then and now over a power of two, and the average of these."""
    begin = begins(step, first, law)
    first = tl.where(begin, rms_g, first)
    unit = power_of_two_above(first)
    log_g = tl.log(rms_g / unit)
    average = tl.where(begin, log_g, average + (1.0 - law.gradient_beta) * (log_g - average))
    return first, tl.log(first / unit), log_g, average


@triton.jit
def context_of(step, count, matrix, sizes, noises, agreements, gradient, progress, law):
    """Return the features of a tensor, as ``ScaleFreeRule`` lists them.

    ``sizes``: root mean squares of the parameter now and at first; ``noises``: of m_.99 / r and m_.9 / r;
    ``agreements``: the fast and the slow average.
    """
    known, fraction, run, _ = progress
    _, log_first, log_g, average = gradient
    zero = sizes[1] == 0
    growth = tl.log(tl.maximum(sizes[0] / tl.where(zero, 1.0, sizes[1]), 1e-2))
    context = (
        fraction,
        fraction * fraction,
        root(fraction),
        tanh(step / 10.0 - 1.0),
        tl.where(known, tl.log(between(run / 500.0, 0.1, 10.0)) / 2.0, 0.0),
        tl.where(known, 1.0, 0.0),
        tl.where(zero, 0.0, between(growth, -2.0, 2.0)),
        tl.where(zero, 1.0, 0.0),
        tl.where(matrix, 0.0, 1.0),
        between(tl.log(count) / 5.0 - 1.0, -1.0, 2.0),
        2.0 * noises[0] - 1.0,
        2.0 * noises[1] - 1.0,
        2.0 * agreements[0] / bias_correction(step + 1.0, law.log_fast_beta),
        4.0 * agreements[1] / bias_correction(step + 1.0, law.log_slow_beta),
        between((average - log_first) / 2.0, -3.0, 1.0),
        between(log_g - average, -2.0, 2.0),
    )
    return numbers_of(context, 16, 16)


@triton.jit
def size_of(rms, first_rms, variance, touched, progress, shape, law):
    """Return the size of an update of one, before the network's head.

    ``shape``: whether the tensor is a matrix, and its natural size.
    """
    matrix, natural = shape
    known, fraction, run, length_scale = progress
    zero = first_rms == 0
    gone = root(rms * rms - variance)
    least = tl.minimum(law.growth, law.least_growth)
    start = tl.where(zero, law.zero_start * natural, first_rms)
    floor = tl.where(zero, start, start / least)
    base = tl.maximum(tl.maximum(start, law.natural_share * natural), law.tiny)
    times = tl.exp(law.growth_power * tl.log(tl.maximum(gone / base, 1.0)))
    grown = base * tl.minimum(times, tl.maximum(law.growth * touched, least))
    smaller = tl.exp(law.small_power * tl.log(tl.maximum(tl.maximum(gone, start) / base, law.tiny)))
    below = base * smaller * tl.minimum(tl.maximum(gone, floor) / tl.maximum(start, law.tiny), 1.0)
    reach = tl.where(gone > base, grown, below)
    reach = tl.where(zero & (matrix | (law.zero_start == 0)), natural, reach)
    annealed = tl.maximum((1.0 - fraction) / (1.0 + law.steepness * fraction), law.least_annealed)
    unplanned = tl.exp(law.unplanned_power * tl.log(1.0 + run / law.unplanned_steps))
    return law.output_scale * tl.where(known, annealed * length_scale, unplanned) / touched * reach


@triton.jit
def tensor_kernel(chunks, tensors, scalars, own, buffers, phi, law, update, sizes: tl.constexpr, guarded: tl.constexpr):
    """Find what the coordinates of a tensor are stepped with, and bring its scalars up to date.

    ``sizes``: units of the network and as padded, its outputs less three, as padded, width of a row of heads.
    """
    num_biases: tl.constexpr = sizes[2]
    length: tl.constexpr = sizes[3]
    t = tl.program_id(0)
    head, sums, number = buffers.heads + t * sizes[4], buffers.sums, tl.load(chunks.number)
    count, matrix = tl.maximum(tl.load(tensors.whole + t), 1).to(tl.float32), tl.load(own.is_matrix + t) > 0
    step, first_rms = load_scalar(tensors.step, t), load_scalar(scalars.first_rms, t)
    rms, root_rms = root(total(sums, chunks, t) / count), root(total(sums + number, chunks, t) / count)
    noises = (root(total(sums + 3 * number, chunks, t) / count), root(total(sums + 2 * number, chunks, t) / count))
    progress, agreement = progress_of(step, law), agreement_of(sums, chunks, t)
    before = (load_scalar(scalars.first_gradient, t), load_scalar(scalars.gradient, t))
    squares = total(sums + 9 * number, chunks, t)
    rms_g = root(squares / count)
    gradient = gradient_scale_of(tl.where(rms_g < law.tiny, law.tiny, rms_g), before[0], before[1], step, law)
    fast, slow = load_scalar(scalars.agreement_fast, t), load_scalar(scalars.agreement_slow, t)
    fast += (1.0 - law.fast_beta) * (agreement - fast)
    slow += (1.0 - law.slow_beta) * (agreement - slow)
    context = context_of(step, count, matrix, (rms, first_rms), noises, (fast, slow), gradient, progress, law)
    out = network(context, phi, num_biases, sizes[0], length, sizes[1])
    surplus = agreement + law.agreement_margin
    opposed = tl.minimum(agreement + law.fall_margin, 0.0)
    change = tl.where(surplus > 0, law.step_scale_rise * surplus, law.step_scale_fall * opposed)
    log_step_scale = load_scalar(scalars.log_step_scale, t) + progress[3] * change
    log_step_scale = between(log_step_scale, law.least_log_step_scale, law.most_log_step_scale)
    average_touched = touched_of(load_scalar(scalars.touched_fraction, t), step, sums, chunks, t, law)
    touched, variance = tl.maximum(average_touched, law.least_touched), load_scalar(scalars.random_walk_variance, t)
    shape = (matrix, tl.load(own.natural_size + t))
    size = size_of(rms, first_rms, variance, touched, progress, shape, law)
    shortness = tl.minimum(progress[2] / tl.maximum(law.cautious_run, 1.0), 1.0)
    caution = tl.where(progress[0] & (law.cautious_run > 0), shortness, 1.0)
    brake = tl.minimum(law.braking * (gradient[3] - gradient[1] - law.brake_from), 0.0)
    size *= tl.exp(3.0 * tanh(pick(out, num_biases, length) / 3.0) + caution * log_step_scale + brake)
    share = tl.where(matrix, sigmoid(pick(out, num_biases + 1, length) + 3.6), 0.0)
    power = sigmoid(pick(out, num_biases + 2, length) + tl.where(matrix, 2.0, -2.0))
    variance += tl.where(matrix, law.random_walk_matrix, law.random_walk_vector) * size * size * touched
    good = True
    if guarded:
        everything = squares + rms + root_rms + noises[0] + noises[1] + agreement + size
        good = (everything + power + share + tl.sum(out) + variance + gradient[3]) * 0.0 == 0.0
    tl.store(head + GOOD, tl.where(good, 1.0, 0.0))
    tl.store(head + SIZE, size)
    tl.store(head + POWER, power)
    tl.store(head + OVER_RMS, 1.0 / tl.maximum(rms, law.tiny))
    tl.store(head + OVER_ROOT_RMS, 1.0 / tl.maximum(root_rms, law.tiny))
    lr = tl.load(update.rate) * update.lr
    tl.store(head + EVEN, -lr * size * share * tl.load(own.even_scale + t))
    tl.store(head + PLAIN, -lr * size * (1.0 - share))
    places = tl.arange(0, length)
    tl.store(head + BIASES + places, out, mask=places < num_biases)
    if good:
        store_scalar(tensors.step, t, step + 1.0)
        store_scalar(scalars.agreement_fast, t, fast)
        store_scalar(scalars.agreement_slow, t, slow)
        store_scalar(scalars.first_gradient, t, gradient[0])
        store_scalar(scalars.gradient, t, gradient[3])
        store_scalar(scalars.log_step_scale, t, log_step_scale)
        store_scalar(scalars.touched_fraction, t, average_touched)
        store_scalar(scalars.random_walk_variance, t, variance)
    else:
        skipped = at(tensors.skipped, t, tl.int64)
        tl.store(skipped, tl.load(skipped) + 1)
