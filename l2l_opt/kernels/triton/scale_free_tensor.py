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
    RMS_G,
    SIZE,
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
def agreement_of(sums, chunks, t, number):
    """Return the cosine between the gradient now and the average before, both over r."""
    norms = root(total(sums + 4 * number, chunks, t)) * root(total(sums + 5 * number, chunks, t))
    return tl.where(norms > 0, total(sums + 6 * number, chunks, t) / tl.where(norms > 0, norms, 1.0), 0.0)


@triton.jit
def touched_of(before, step, sums, chunks, t, number, law):
    """Return the next average of the share of coordinates that have a gradient."""
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
def size_of(rms, first_rms, variance, touched, fraction, run, length_scale, known, natural, law):
    """Of an update of one, before the network's head."""
    zero = first_rms == 0
    gone = root(rms * rms - variance)
    least = tl.minimum(law.growth, law.least_growth)
    most = tl.maximum(law.growth * touched, least) * first_rms
    reach = tl.where(zero, natural, between(gone, first_rms / least, most))
    annealed = tl.maximum((1.0 - fraction) / (1.0 + law.steepness * fraction), law.least_annealed)
    unplanned = tl.exp(law.unplanned_power * tl.log(1.0 + run / law.unplanned_steps))
    return law.output_scale * tl.where(known, annealed * length_scale, unplanned) / touched * reach


@triton.jit
def tensor_kernel(
    chunks,
    tensors,
    scalars,
    own,
    heads,
    partial,
    sums,
    phi,
    law,
    update,
    num_steps,
    sizes: tl.constexpr,
    guarded: tl.constexpr,
):
    """``sizes``: units of the network and as padded, its outputs less three, as padded, width of a row of heads."""
    units: tl.constexpr = sizes[0]
    padded: tl.constexpr = sizes[1]
    num_biases: tl.constexpr = sizes[2]
    length: tl.constexpr = sizes[3]
    width: tl.constexpr = sizes[4]
    t = tl.program_id(0)
    head, number = heads + t * width, tl.load(chunks.number)
    count = tl.maximum(tl.load(tensors.length + t), 1).to(tl.float32)
    matrix, natural = tl.load(own.is_matrix + t) > 0, tl.load(own.natural_size + t)
    step, first_rms = load_scalar(tensors.step, t), load_scalar(scalars.first_rms, t)
    rms, root_rms = root(total(sums, chunks, t) / count), root(total(sums + number, chunks, t) / count)
    middle = root(total(sums + 2 * number, chunks, t) / count)
    slow = root(total(sums + 3 * number, chunks, t) / count)
    agreement = agreement_of(sums, chunks, t, number)
    # What the gradient's size was at first, is on average, and is now.
    rms_g, first = tl.load(head + RMS_G), load_scalar(scalars.first_gradient, t)
    begins = (step == 0) | (first <= 1.001 * law.tiny)
    first = tl.where(begins, rms_g, first)
    unit = power_of_two_above(first)
    log_g, average = tl.log(rms_g / unit), load_scalar(scalars.gradient, t)
    average = tl.where(begins, log_g, average + (1.0 - law.gradient_beta) * (log_g - average))
    fast, lasting = load_scalar(scalars.agreement_fast, t), load_scalar(scalars.agreement_slow, t)
    fast += (1.0 - law.fast_beta) * (agreement - fast)
    lasting += (1.0 - law.slow_beta) * (agreement - lasting)
    # Where in its run it is.
    known = num_steps >= 0
    fraction = tl.where(known, tl.minimum(step / tl.where(known, num_steps, 1.0), 1.0), 0.0)
    run = tl.where(known, num_steps, step)
    length_scale = tl.where(known, tl.sqrt(law.usual_run / tl.maximum(run, law.usual_run / 4)), 1.0)
    zero = first_rms == 0
    growth = tl.log(tl.maximum(rms / tl.where(zero, 1.0, first_rms), 1e-2))
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
        2.0 * slow - 1.0,
        2.0 * middle - 1.0,
        2.0 * fast / bias_correction(step + 1.0, law.log_fast_beta),
        4.0 * lasting / bias_correction(step + 1.0, law.log_slow_beta),
        between((average - tl.log(first / unit)) / 2.0, -3.0, 1.0),
        between(log_g - average, -2.0, 2.0),
    )
    out = network(numbers_of(context, 16, 16), phi, num_biases, units, length, padded)
    surplus = agreement + law.agreement_margin
    change = tl.where(surplus > 0, law.step_scale_rise, law.step_scale_fall) * surplus
    log_scale = load_scalar(scalars.log_step_scale, t) + length_scale * change
    log_scale = between(log_scale, law.least_log_step_scale, law.most_log_step_scale)
    average_touched = touched_of(load_scalar(scalars.touched_fraction, t), step, sums, chunks, t, number, law)
    touched, variance = tl.maximum(average_touched, law.least_touched), load_scalar(scalars.random_walk_variance, t)
    size = size_of(rms, first_rms, variance, touched, fraction, run, length_scale, known, natural, law)
    size *= tl.exp(3.0 * tanh(pick(out, num_biases, length) / 3.0) + log_scale)
    share = tl.where(matrix, sigmoid(pick(out, num_biases + 1, length) + 3.6), 0.0)
    power = sigmoid(pick(out, num_biases + 2, length) + tl.where(matrix, 2.0, -2.0))
    variance += tl.where(matrix, law.random_walk_matrix, law.random_walk_vector) * size * size * touched
    good = True
    if guarded:
        everything = total(partial, chunks, t) + rms + root_rms + middle + slow + agreement + size + power + share
        good = (everything + tl.sum(out) + variance + average) * 0.0 == 0.0
    tl.store(head + GOOD, tl.where(good, 1.0, 0.0))
    tl.store(head + SIZE, size)
    tl.store(head + POWER, power)
    tl.store(head + OVER_RMS, 1.0 / tl.maximum(rms, law.tiny))
    tl.store(head + OVER_ROOT_RMS, 1.0 / tl.maximum(root_rms, law.tiny))
    tl.store(head + EVEN, -update.lr * size * share * tl.load(own.even_scale + t))
    tl.store(head + PLAIN, -update.lr * size * (1.0 - share))
    places = tl.arange(0, length)
    tl.store(head + BIASES + places, out, mask=places < num_biases)
    if good:
        store_scalar(tensors.step, t, step + 1.0)
        store_scalar(scalars.agreement_fast, t, fast)
        store_scalar(scalars.agreement_slow, t, lasting)
        store_scalar(scalars.first_gradient, t, first)
        store_scalar(scalars.gradient, t, average)
        store_scalar(scalars.log_step_scale, t, log_scale)
        store_scalar(scalars.touched_fraction, t, average_touched)
        store_scalar(scalars.random_walk_variance, t, variance)
    else:
        skipped = at(tensors.skipped, t, tl.int64)
        tl.store(skipped, tl.load(skipped) + 1)
