"""The step of ``mlp`` and ``celo2``, after ``perceptron_sides``: kernels over chunks of many tensors, and over tensors.

    sums        sums of all squared features of each chunk, and whether all is finite
    tensor      a tensor's clock, and its first layer: features' scales folded in, and the clock's features
    directions  sums of squared outputs, where updates are relative to them
    size        of such an update
    update      features, network and update once more; parameters and state are written here alone

Sums are made in the same order every time, so that a step is the same bit for bit. The law is that of
``native/perceptron.h``; every number of it comes by the name that it has in the rule's ``CompiledPerceptron``.
"""

# pyright: reportGeneralTypeIssues=false, reportArgumentType=false

import triton
import triton.language as tl

from l2l_opt.kernels.triton.language import CHUNK, at, between, count_once, tanh, total
from l2l_opt.kernels.triton.perceptron_sides import ALONG, gradient_of, keep_sides, sides_of
from l2l_opt.kernels.triton.recurrent import share

LANES = tl.constexpr(32)
"""Numbers that are left of each chunk: sums of squared features, and in the last NaN where not all is finite."""
NOTHING = tl.constexpr(31)
GOOD, SIZE, BIASES = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
"""What is left of each tensor, a row each: biases of its first layer, and behind them the weights."""


@triton.jit
def features_of(index, chunk_of, tables, kind: tl.constexpr, sizes: tl.constexpr):
    """Return the features of a block of coordinates, the next moments, and zero where all of these are finite.

    ``tables``: tensors, sides, buffers, rule, law and update; the moments: three averages, squares, three of rows.
    """
    tensors, sides, buffers, rule, law, update = tables
    t, count, ok = chunk_of
    clips: tl.constexpr = kind == "celo2"
    param_type: tl.constexpr = sizes[5]
    raw = tl.load(at(tensors.gradient, t, param_type) + index, mask=ok, other=0.0).to(tl.float32)
    p = tl.load(at(tensors.param, t, param_type) + index, mask=ok, other=0.0).to(tl.float32)
    averages, squares = at(tensors.averages, t, tl.float32), at(tensors.squares, t, tl.float32)
    g = gradient_of(raw, law, update, clips)
    beta = tl.load(rule.betas + 3)
    v = beta * tl.load(squares + index, mask=ok, other=0.0) + (1.0 - beta) * g * g
    over = 1.0 / tl.sqrt(v + law.eps)
    moments = ()
    for k in tl.static_range(3):
        beta = tl.load(rule.betas + k)
        before = tl.load(averages + k * count + index, mask=ok, other=0.0)
        moments = moments + (beta * before + (1.0 - beta) * g,)
    rows, columns, of_gradient, of_averages = sides_of(index, t, g, sides, buffers, rule, ok, sizes[6])
    x = (g,)
    if clips:
        x = x + (between(g, -law.clipped, law.clipped),)
    x = x + (p, moments[0], moments[1], moments[2], v)
    x = x + (moments[0] * over, moments[1] * over, moments[2] * over, over)
    x = x + (g * of_gradient[0], g * of_gradient[1], g * of_gradient[2])
    if clips:
        x = x + (g * over,)
    shown = 1.0
    if clips:
        # Of a vector `celo2` reads none of those made of rows and columns.
        shown = tl.where(tl.load(sides.number + 2 * t) > 0, 1.0, 0.0)
    for k in tl.static_range(3):
        x = x + (rows[k] * shown,)
    for k in tl.static_range(3):
        x = x + (columns[k] * shown,)
    for k in tl.static_range(3):
        x = x + (shown / tl.sqrt(rows[k] + 1e-8),)
    for k in tl.static_range(3):
        x = x + (shown / tl.sqrt(columns[k] + 1e-8),)
    for k in tl.static_range(3):
        x = x + (moments[k] * of_averages[k] * shown,)
    # One by one, since a sum of what is finite may not be.
    nothing = g * g * 0.0 + raw * 0.0 + p * 0.0 + v * 0.0
    for k in tl.static_range(3):
        nothing += moments[k] * 0.0 + rows[k] * 0.0 + columns[k] * 0.0
    return x, moments + (v,) + rows, nothing


@triton.jit
def sums_kernel(chunks, tensors, sides, buffers, rule, law, update, kind: tl.constexpr, sizes: tl.constexpr):
    """Sum the square of each feature over a chunk.

    ``sizes``: features, of them and the clock's, units, hidden layers, outputs, dtype of parameters, dtype of places,
    width of a row of heads, coordinates of a block, padded units.
    """
    features: tl.constexpr = sizes[0]
    block: tl.constexpr = sizes[8]
    chunk = tl.program_id(0)
    t, start = tl.load(chunks.tensor + chunk), tl.load(chunks.start + chunk)
    count = tl.load(tensors.length + t)
    tables = (tensors, sides, buffers, rule, law, update)
    zero = tl.zeros([block], tl.float32)
    sums = ()
    for _k in tl.static_range(features):
        sums = sums + (zero,)
    nothing = zero
    for offset in range(0, tl.minimum(count - start, CHUNK).to(tl.int32), block):
        index = start + offset + tl.arange(0, block)
        ok = index < count
        x, _, found = features_of(index, (t, count, ok), tables, kind, sizes)
        added = ()
        for k in tl.static_range(features):
            added = added + (sums[k] + tl.where(ok, x[k] * x[k], 0.0),)
        sums = added
        nothing += tl.where(ok, found, 0.0)
    out = buffers.sums + chunk.to(tl.int64) * LANES
    for k in tl.static_range(features):
        tl.store(out + k, tl.sum(sums[k]))
    tl.store(out + NOTHING, tl.sum(nothing))


@triton.jit
def sums_of_chunks(chunks, buffers, t):
    """Return the sums of a tensor's chunks, ``[LANES]``, in the same order every time."""
    lane, first, last = tl.arange(0, LANES), tl.load(chunks.first + t), tl.load(chunks.first + t + 1)
    summed = tl.zeros([ALONG, LANES], tl.float32)
    for begin in range(first, last, ALONG):
        chunk = begin + tl.arange(0, ALONG)
        places = chunk.to(tl.int64)[:, None] * LANES + lane[None, :]
        summed += tl.load(buffers.sums + places, mask=(chunk < last)[:, None], other=0.0)
    return tl.sum(summed, 0)


@triton.jit
def cosine_from_one(x):
    """``(1 + cos(pi x)) / 2`` for x from 0 to 1: a square of a series, since the library's cosine takes a stack."""
    square = (1.5707963267948966 * x) * (1.5707963267948966 * x)
    cosine = 1.0 - square / 90 * (1.0 - square / 132)
    for k in tl.static_range(4):
        cosine = 1.0 - square / ((8 - 2 * k) * (7 - 2 * k)) * cosine
    return cosine * cosine


@triton.jit
def scheduled(law, steps):
    """Return the root mean square of a step's update, which a cosine with a warm-up sets."""
    size = law.output_scale
    if law.num_steps >= 0:
        begun = tl.minimum((steps + 1.0) / tl.maximum(law.warm_up * law.num_steps, 1.0), 1.0)
        rest = (tl.minimum(steps / law.num_steps, 1.0) - law.warm_up) / (1.0 - law.warm_up)
        size = law.output_scale * begun * cosine_from_one(tl.maximum(rest, 0.0))
    return size


@triton.jit
def tensor_kernel(chunks, tensors, buffers, rule, law, kind: tl.constexpr, sizes: tl.constexpr, guarded: tl.constexpr):
    """One program a tensor: whether it is stepped, its clock, and its first layer, for features as they are."""
    features: tl.constexpr = sizes[0]
    inputs: tl.constexpr = sizes[1]
    t = tl.program_id(0)
    head, lane, unit = buffers.heads + t * sizes[7], tl.arange(0, LANES), tl.arange(0, LANES)
    sums, clock = sums_of_chunks(chunks, buffers, t), at(tensors.step, t, tl.float32)
    steps, nothing = tl.load(clock), 0.0
    if guarded:
        nothing = tl.sum(tl.where(lane == NOTHING, sums, 0.0)) + tl.load(rule.rule_times_zero)
    good = nothing == 0.0
    scales = 1.0 / tl.sqrt(law.input_eps + sums / tl.maximum(tl.load(tensors.length + t), 1).to(tl.float32))
    weight = rule.first + unit[:, None] * inputs + lane[None, :]
    units: tl.constexpr = sizes[2]
    own = (unit < units)[:, None] & (lane < features)[None, :]
    folded = tl.load(weight, mask=own, other=0.0) * scales[None, :]
    tl.store(head + BIASES + units + lane[None, :] * units + unit[:, None], folded, mask=own)
    bias = tl.load(rule.bias + unit, mask=unit < units, other=0.0)
    if inputs > features:
        known = lane < inputs - features
        time = tanh(steps / tl.load(rule.timescales + lane, mask=known, other=1.0) - 1.0)
        own = (unit < units)[:, None] & known[None, :]
        bias += tl.sum(tl.load(weight + features, mask=own, other=0.0) * time[None, :], 1)
    tl.store(head + BIASES + unit, bias, mask=unit < units)
    tl.store(head + GOOD, tl.where(good, 1.0, 0.0))
    if kind == "celo2":
        tl.store(head + SIZE, -scheduled(law, steps))
    tl.store(buffers.marks + t, 0)
    if good:
        tl.store(clock, steps + 1)
    else:
        skipped = at(tensors.skipped, t, tl.int64)
        tl.store(skipped, tl.load(skipped) + 1)


@triton.jit
def hidden_layer(scratch, weights, bias, inputs, units: tl.constexpr, rows: tl.constexpr, block: tl.constexpr):
    """One layer and its rectifier, ``[rows, block]``, from inputs out of memory, so that few registers are taken.

    ``weights``: ``[inputs, units]``.
    """
    unit, coordinates = tl.arange(0, rows), tl.arange(0, block)
    values = tl.load(bias + unit, mask=unit < units, other=0.0)[:, None] + tl.zeros([1, block], tl.float32)
    for k in range(inputs):
        x = tl.load(scratch + k * block + coordinates)
        values += tl.load(weights + k * units + unit, mask=unit < units, other=0.0)[:, None] * x[None, :]
    # Unlike a maximum, it lets NaN pass.
    return tl.where(values < 0, 0.0, values)


@triton.jit
def outputs_of(x, head, scratch, upper, law, sizes: tl.constexpr):
    """Return the network's outputs at a block of coordinates; its layers hand one another rows through memory."""
    features: tl.constexpr = sizes[0]
    units: tl.constexpr = sizes[2]
    layers: tl.constexpr = sizes[3]
    num_outputs: tl.constexpr = sizes[4]
    block: tl.constexpr = sizes[8]
    unit = tl.arange(0, sizes[9])
    tl.debug_barrier()
    for k in tl.static_range(features):
        tl.store(scratch + k * block + tl.arange(0, block), x[k])
    tl.debug_barrier()
    values = hidden_layer(scratch, head + BIASES + units, head + BIASES, law.features, units, sizes[9], block)
    for _layer in tl.static_range(1, layers):
        share(scratch, unit, units, values, block)
        values = hidden_layer(scratch, upper, upper + units * units, law.units, units, sizes[9], block)
        upper += units * (units + 1)
    outputs = ()
    for j in tl.static_range(num_outputs):
        weight = tl.load(upper + unit * num_outputs + j, mask=unit < units, other=0.0)
        outputs = outputs + (tl.sum(weight[:, None] * values, 0) + tl.load(upper + units * num_outputs + j),)
    return outputs


@triton.jit
def directions_kernel(chunks, tensors, sides, buffers, rule, law, update, kind: tl.constexpr, sizes: tl.constexpr):
    """Sum the squared output over each chunk."""
    block: tl.constexpr = sizes[8]
    tables = (tensors, sides, buffers, rule, law, update)
    scratch = buffers.scratch + tl.program_id(0) * LANES * block
    for chunk in range(tl.program_id(0), tl.load(chunks.number), tl.num_programs(0)):
        t, start = tl.load(chunks.tensor + chunk), tl.load(chunks.start + chunk)
        count, head = tl.load(tensors.length + t), buffers.heads + t * sizes[7]
        if tl.load(head + GOOD) > 0:
            squares = tl.zeros([block], tl.float32)
            for offset in range(0, tl.minimum(count - start, CHUNK).to(tl.int32), block):
                index = start + offset + tl.arange(0, block)
                x, _, _ = features_of(index, (t, count, index < count), tables, kind, sizes)
                out = outputs_of(x, head, scratch, rule.upper, law, sizes)
                squares += tl.where(index < count, out[0] * out[0], 0.0)
            tl.store(buffers.squares + chunk, tl.sum(squares))


@triton.jit
def size_kernel(chunks, tensors, buffers, law, width: tl.constexpr):
    """One program a tensor: what its directions are multiplied by."""
    t = tl.program_id(0)
    size = buffers.heads + t * width + SIZE
    mean = total(buffers.squares, chunks, t) / tl.maximum(tl.load(tensors.length + t), 1).to(tl.float32)
    tl.store(size, tl.load(size) / tl.sqrt(law.input_eps + mean))


@triton.jit
def keep_moments(moments, tensors, sides, t, index, count, ok):
    """Write averages, squares, and of a vector its mean squares."""
    averages, state = at(tensors.averages, t, tl.float32), at(sides.state, 2 * t, tl.float32)
    alone = ok & (tl.load(sides.number + 2 * t) == 0)
    for k in tl.static_range(3):
        tl.store(averages + k * count + index, moments[k], mask=ok)
        tl.store(state + k * count + index, moments[4 + k], mask=alone)
    tl.store(at(tensors.squares, t, tl.float32) + index, moments[3], mask=ok)


@triton.jit
def change_of(out, head, law, kind: tl.constexpr):
    """Return the update that outputs stand for."""
    if kind == "celo2":
        change = tl.load(head + SIZE) * out[0]
    else:
        change = -law.output_scale * out[0] * tl.exp(law.magnitude_scale * out[1])
    return change


@triton.jit
def block_step(index, chunk_of, head, scratch, tables, kind: tl.constexpr, sizes: tl.constexpr, guarded: tl.constexpr):
    """Step one block of coordinates, left as it was where what would follow is not finite."""
    tensors, sides, buffers, rule, law, update = tables
    t, count, ok = chunk_of
    param_type: tl.constexpr = sizes[5]
    x, moments, nothing = features_of(index, chunk_of, tables, kind, sizes)
    change = change_of(outputs_of(x, head, scratch, rule.upper, law, sizes), head, law, kind)
    param, rate = at(tensors.param, t, param_type) + index, tl.load(update.rate)
    p = tl.load(param, mask=ok, other=0.0).to(tl.float32)
    p = (p + rate * (update.lr * change - update.decay * p)).to(param_type)
    moves = True
    if guarded:
        moves = tl.sum(tl.where(ok, p.to(tl.float32) * 0.0 + nothing, 0.0)) == 0.0
    # All of the block's state has been read before any of it is written.
    tl.debug_barrier()
    if moves:
        tl.store(param, p, mask=ok)
        keep_moments(moments, tensors, sides, t, index, count, ok)
    else:
        count_once(buffers.marks, tensors, t)


@triton.jit
def update_kernel(
    chunks,
    tensors,
    sides,
    buffers,
    rule,
    law,
    update,
    kind: tl.constexpr,
    sizes: tl.constexpr,
    guarded: tl.constexpr,
):
    """Step chunk after chunk, block after block."""
    block: tl.constexpr = sizes[8]
    tables = (tensors, sides, buffers, rule, law, update)
    scratch = buffers.scratch + tl.program_id(0) * LANES * block
    for chunk in range(tl.program_id(0), tl.load(chunks.number), tl.num_programs(0)):
        t, start = tl.load(chunks.tensor + chunk), tl.load(chunks.start + chunk)
        count, head = tl.load(tensors.length + t), buffers.heads + t * sizes[7]
        if tl.load(head + GOOD) > 0:
            first = tl.load(chunks.first + t)
            keep_sides(sides, buffers, t, chunk - first, tl.load(chunks.first + t + 1) - first)
            for offset in range(0, tl.minimum(count - start, CHUNK).to(tl.int32), block):
                index = start + offset + tl.arange(0, block)
                block_step(index, (t, count, index < count), head, scratch, tables, kind, sizes, guarded)
