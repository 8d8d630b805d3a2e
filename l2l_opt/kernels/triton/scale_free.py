"""The step of the ``scale-free`` rule: kernels over chunks of many tensors, and over tensors.

    squares      sums of g^2 of each chunk, where a tensor's usual gradient is not known yet
    begin        a tensor's clock, and r's least, which is relative to its usual gradient
    sums         all sums of each chunk
    tensor       what a tensor shows, its network, its scalars, the size of its step
    coordinates  averages, network, directions; vectors are stepped here
    apply        adds updates of matrices, which are made of directions between the last two

Sums are made in the same order every time, so that a step is the same bit for bit. The law is that of
``native/scale_free.h``; every number of it comes by the name that it has in the rule's ``CompiledStep``.
"""

# pyright: reportGeneralTypeIssues=false, reportArgumentType=false

import triton
import triton.language as tl

from l2l_opt.kernels.triton.language import (
    BLOCK,
    CHUNK,
    at,
    between,
    bias_correction,
    count_once,
    keep_average,
    root,
    sigmoid,
    tanh,
    total,
)

GOOD, SIZE, POWER, LEAST_ROOT, OVER_RMS, OVER_ROOT_RMS = (tl.constexpr(place) for place in range(6))
EVEN, PLAIN, OVER_CORRECTIONS, BIASES = tl.constexpr(6), tl.constexpr(7), tl.constexpr(8), tl.constexpr(12)
"""What is left of each tensor between kernels, a row each: EVEN and PLAIN, factors of a whitened direction and of it
itself in what is added to the parameter; four OVER_CORRECTIONS; biases of its coordinates' network."""
NUM_SUMS = tl.constexpr(10)


@triton.jit
def power_of_two_above(x):
    """As frexp has it: what is relative to it keeps its bits if all gradients are 2^k times as large."""
    bits = x.to(tl.int32, bitcast=True)
    return ((((bits >> 23) & 255) + 1) << 23).to(tl.float32, bitcast=True)


@triton.jit
def begins(step, first, law):
    """Whether a tensor, of whose gradients this is the size at first, has had none yet but zeros."""
    return (step == 0) | (first <= 1.001 * law.tiny)


@triton.jit
def squares_kernel(chunks, tensors, scalars, buffers, law, dtype: tl.constexpr):
    """Sum g^2 over each chunk of a tensor that begins; later gradients are not read for it."""
    chunk = tl.program_id(0)
    t, start = tl.load(chunks.tensor + chunk), tl.load(chunks.start + chunk)
    step, first = tl.load(at(tensors.step, t, tl.float32)), tl.load(at(scalars.first_gradient, t, tl.float32))
    if not begins(step, first, law):
        return
    count, gradient = tl.load(tensors.length + t), at(tensors.gradient, t, dtype)
    squares = tl.zeros([BLOCK], tl.float32)
    for offset in range(0, tl.minimum(count - start, CHUNK).to(tl.int32), BLOCK):
        index = start + offset + tl.arange(0, BLOCK)
        g = tl.load(gradient + index, mask=index < count, other=0.0).to(tl.float32)
        squares += g * g
    tl.store(buffers.squares + chunk, tl.sum(squares))


@triton.jit
def begin_kernel(chunks, tensors, scalars, buffers, law, width: tl.constexpr):
    """Find a tensor's least r, relative to its usual gradient, and what its averages are divided by."""
    t = tl.program_id(0)
    head, count = buffers.heads + t * width, tl.maximum(tl.load(tensors.whole + t), 1).to(tl.float32)
    step, first = tl.load(at(tensors.step, t, tl.float32)), tl.load(at(scalars.first_gradient, t, tl.float32))
    usual = power_of_two_above(first) * tl.exp(tl.load(at(scalars.gradient, t, tl.float32)))
    if begins(step, first, law):
        rms_g = root(total(buffers.squares, chunks, t) / count)
        usual = tl.where(rms_g < law.tiny, law.tiny, rms_g)
    tl.store(head + LEAST_ROOT, law.relative_eps * usual)
    for k in tl.static_range(4):
        tl.store(head + OVER_CORRECTIONS + k, 1.0 / bias_correction(step + 1, law.log_betas[k]))
    tl.store(buffers.marks + t, 0)


@triton.jit
def sums_kernel(
    chunks,
    tensors,
    buffers,
    law,
    update,
    width: tl.constexpr,
    param_type: tl.constexpr,
    averages_type: tl.constexpr,
):
    """Sum over each chunk all that a tensor is to show.

    p^2, r^2, (m_.9 / r)^2, (m_.99 / r)^2, (g / r)^2, (m_.9 before / r)^2, the product of the last two, one where g is
    not 0, one where v is not 0, g^2.
    """
    chunk = tl.program_id(0)
    t, start = tl.load(chunks.tensor + chunk), tl.load(chunks.start + chunk)
    count, head = tl.load(tensors.length + t), buffers.heads + t * width
    least = tl.load(head + LEAST_ROOT)
    over_middle, over_slow = tl.load(head + OVER_CORRECTIONS + 1), tl.load(head + OVER_CORRECTIONS + 2)
    over_square = tl.load(head + OVER_CORRECTIONS + 3)
    param, gradient = at(tensors.param, t, param_type), at(tensors.gradient, t, param_type)
    averages, squares = at(tensors.averages, t, averages_type), at(tensors.squares, t, averages_type)
    zero = tl.zeros([BLOCK], tl.float32)
    s0, s1, s2, s3, s4, s5, s6, s7, s8, s9 = zero, zero, zero, zero, zero, zero, zero, zero, zero, zero
    for offset in range(0, tl.minimum(count - start, CHUNK).to(tl.int32), BLOCK):
        index = start + offset + tl.arange(0, BLOCK)
        ok = index < count
        g = tl.load(gradient + index, mask=ok, other=0.0).to(tl.float32) * update.sign
        p = tl.load(param + index, mask=ok, other=0.0).to(tl.float32)
        before = tl.load(averages + count + index, mask=ok, other=0.0).to(tl.float32)
        slow = tl.load(averages + 2 * count + index, mask=ok, other=0.0).to(tl.float32)
        v = tl.load(squares + index, mask=ok, other=0.0).to(tl.float32)
        v = law.betas[3] * v + (1.0 - law.betas[3]) * g * g
        r = root(v * over_square) + least
        over = 1.0 / r
        middle = (law.betas[1] * before + (1.0 - law.betas[1]) * g) * over_middle * over
        slow = (law.betas[2] * slow + (1.0 - law.betas[2]) * g) * over_slow * over
        ratio, past = g * over, before * over
        s0 += p * p
        s1 += tl.where(ok, r * r, 0.0)
        s2 += middle * middle
        s3 += slow * slow
        s4 += ratio * ratio
        s5 += past * past
        s6 += ratio * past
        s7 += tl.where(g != 0, 1.0, 0.0)
        s8 += tl.where(v > 0, 1.0, 0.0)
        s9 += g * g
    out, number = buffers.sums + chunk, tl.load(chunks.number)
    tl.store(out, tl.sum(s0))
    tl.store(out + number, tl.sum(s1))
    tl.store(out + 2 * number, tl.sum(s2))
    tl.store(out + 3 * number, tl.sum(s3))
    tl.store(out + 4 * number, tl.sum(s4))
    tl.store(out + 5 * number, tl.sum(s5))
    tl.store(out + 6 * number, tl.sum(s6))
    tl.store(out + 7 * number, tl.sum(s7))
    tl.store(out + 8 * number, tl.sum(s8))
    tl.store(out + 9 * number, tl.sum(s9))


@triton.jit
def coordinate_network(biases, body, x, hidden, cell, units: tl.constexpr, remembers: tl.constexpr):
    """One LSTM layer of so many units, and three outputs, unit by unit: a thread keeps all of a coordinate's.

    Unless it remembers, hidden and cell are taken to be zero.
    """
    hiddens = ()
    cells = ()
    for u in tl.static_range(units):
        entering, output = tl.load(biases + u) + 0.0 * x[0], tl.load(biases + 3 * units + u) + 0.0 * x[0]
        candidate = tl.load(biases + 2 * units + u) + 0.0 * x[0]
        for k in tl.static_range(6):
            own = body.weights + u * 6 + k
            entering += tl.load(own) * x[k]
            candidate += tl.load(own + 2 * units * 6) * x[k]
            output += tl.load(own + 3 * units * 6) * x[k]
        if remembers:
            forget = tl.load(biases + units + u) + 0.0 * x[0]
            for k in tl.static_range(6):
                forget += tl.load(body.weights + (units + u) * 6 + k) * x[k]
            for k in tl.static_range(units):
                own = body.weights + 4 * units * 6 + u * units + k
                entering += tl.load(own) * hidden[k]
                forget += tl.load(own + units * units) * hidden[k]
                candidate += tl.load(own + 2 * units * units) * hidden[k]
                output += tl.load(own + 3 * units * units) * hidden[k]
            next_cell = sigmoid(forget) * cell[u] + sigmoid(entering) * tanh(candidate)
        else:
            next_cell = sigmoid(entering) * tanh(candidate)
        cells = cells + (next_cell,)
        hiddens = hiddens + (sigmoid(output) * tanh(next_cell),)
    outputs = ()
    for j in tl.static_range(3):
        out = tl.load(biases + 4 * units + j) + 0.0 * x[0]
        for u in tl.static_range(units):
            out += tl.load(body.readout + j * units + u) * hiddens[u]
        outputs = outputs + (tanh(out),)
    return outputs, hiddens, cells


@triton.jit
def direction_of(outputs, momenta, log_root, power):
    """Return a coordinate's direction, of the network's outputs after tanh."""
    brief = (1.0 + outputs[0]) * 0.5
    lasting = 1.0 - brief
    mixed = (brief * brief + outputs[2]) * momenta[0] + 2.0 * brief * lasting * momenta[1]
    mixed += (lasting * lasting - outputs[2]) * momenta[2]
    return between(mixed, -3.0, 3.0) * tl.exp(power * tl.minimum(log_root, 3.0) + 1.5 * outputs[1])


@triton.jit
def averages_of(g, averages, squares, index, count, head, law):
    """Return the next averages of g and of g^2, the former over r, and r, of a block of coordinates."""
    ok = index < count
    v = law.betas[3] * tl.load(squares + index, mask=ok, other=0.0).to(tl.float32) + (1.0 - law.betas[3]) * g * g
    r = root(v * tl.load(head + OVER_CORRECTIONS + 3)) + tl.load(head + LEAST_ROOT)
    moments = ()
    momenta = ()
    for k in tl.static_range(3):
        before = tl.load(averages + k * count + index, mask=ok, other=0.0).to(tl.float32)
        m = law.betas[k] * before + (1.0 - law.betas[k]) * g
        moments = moments + (m,)
        momenta = momenta + (m * tl.load(head + OVER_CORRECTIONS + k) / r,)
    return moments, momenta, v, r


@triton.jit
def rows_of(at_first, count, index, num_rows: tl.constexpr):
    """Return so many numbers of each coordinate of a block, in float32."""
    rows = ()
    for u in tl.static_range(num_rows):
        rows = rows + (tl.load(at_first + u * count + index, mask=index < count, other=0.0).to(tl.float32),)
    return rows


@triton.jit
def keep_rows(at_first, count, index, rows, num_rows: tl.constexpr, dtype: tl.constexpr):
    """Write what ``rows_of`` reads."""
    for u in tl.static_range(num_rows):
        tl.store(at_first + u * count + index, rows[u].to(dtype), mask=index < count)


@triton.jit
def times_zero(rows, num_rows: tl.constexpr):
    """Return NaN where one of these is not finite, else zero."""
    nothing = rows[0] * 0.0
    for u in tl.static_range(1, num_rows):
        nothing += rows[u] * 0.0
    return nothing


@triton.jit
def coordinates_kernel(chunks, tensors, own, buffers, body, law, update, sizes: tl.constexpr, guarded: tl.constexpr):
    """Bring state up to date, step vectors, and leave directions of matrices.

    ``sizes``: units, width of a row of heads, coordinates of a block, dtypes of parameters and of the network's own
    state, whether there is one, and the dtype of averages.
    """
    units: tl.constexpr = sizes[0]
    param_type: tl.constexpr = sizes[3]
    state_type: tl.constexpr = sizes[4]
    remembers: tl.constexpr = sizes[5]
    averages_type: tl.constexpr = sizes[6]
    chunk = tl.program_id(0)
    t, start = tl.load(chunks.tensor + chunk), tl.load(chunks.start + chunk)
    count, head = tl.load(tensors.length + t), buffers.heads + t * sizes[1]
    if tl.load(head + GOOD) == 0:
        return
    size, power = tl.load(head + SIZE), tl.load(head + POWER)
    over_rms, over_root_rms = tl.load(head + OVER_RMS), tl.load(head + OVER_ROOT_RMS)
    param, gradient = at(tensors.param, t, param_type), at(tensors.gradient, t, param_type)
    averages, squares = at(tensors.averages, t, averages_type), at(tensors.squares, t, averages_type)
    step = tl.load(at(tensors.step, t, tl.float32))
    hidden_at, cell_at = at(tensors.hidden, t, state_type), at(tensors.cell, t, state_type)
    direction_at, is_matrix = at(own.direction, t, tl.float32), tl.load(own.is_matrix + t) > 0
    rate = tl.load(update.rate)
    lr, decay = rate * update.lr, rate * update.decay
    for offset in range(0, tl.minimum(count - start, CHUNK).to(tl.int32), sizes[2]):
        index = start + offset + tl.arange(0, sizes[2])
        ok = index < count
        g = tl.load(gradient + index, mask=ok, other=0.0).to(tl.float32) * update.sign
        p = tl.load(param + index, mask=ok, other=0.0).to(tl.float32)
        moments, momenta, v, r = averages_of(g, averages, squares, index, count, head, law)
        log_root = tl.log(r * over_root_rms + 1e-3)
        x = (between(g / r, -5.0, 5.0),)
        for k in tl.static_range(3):
            x = x + (between(momenta[k], -5.0, 5.0),)
        x = x + (between(p * over_rms, -5.0, 5.0), log_root)
        hidden, cell = (), ()
        if remembers:
            hidden, cell = rows_of(hidden_at, count, index, units), rows_of(cell_at, count, index, units)
        outputs, hidden, cell = coordinate_network(head + BIASES, body, x, hidden, cell, units, remembers)
        direction = direction_of(outputs, momenta, log_root, power)
        p = (p - decay * p - lr * size * direction).to(param_type)
        nothing = v * 0.0 + times_zero(moments, 3) + times_zero(hidden, units) + times_zero(cell, units)
        nothing += tl.where(is_matrix, direction, p.to(tl.float32)) * 0.0
        moves = True
        if guarded:
            moves = tl.sum(tl.where(ok, nothing, 0.0)) == 0.0
        if is_matrix:
            tl.store(direction_at + index, tl.where(moves, direction, 0.0), mask=ok)
        elif moves:
            tl.store(param + index, p, mask=ok)
        if moves:
            for k in tl.static_range(3):
                keep_average(averages + k * count, k, moments[k], step, count, index, averages_type)
            keep_average(squares, 3, v, step, count, index, averages_type)
            if remembers:
                keep_rows(hidden_at, count, index, hidden, units, state_type)
                keep_rows(cell_at, count, index, cell, units, state_type)
        else:
            count_once(buffers.marks, tensors, t)


@triton.jit
def apply_kernel(
    chunks, tensors, buffers, changes, update, width: tl.constexpr, dtype: tl.constexpr, guarded: tl.constexpr
):
    """Add changes to tensors of one shape, whose changes lie one after the other."""
    chunk = tl.program_id(0)
    t, start = tl.load(chunks.tensor + chunk), tl.load(chunks.start + chunk)
    count = tl.load(tensors.length + t)
    if tl.load(buffers.heads + t * width + GOOD) == 0:
        return
    decay = tl.load(update.rate) * update.decay
    param, change = at(tensors.param, t, dtype), changes + (t - tl.load(chunks.tensor)) * count
    for offset in range(0, tl.minimum(count - start, CHUNK).to(tl.int32), BLOCK):
        index = start + offset + tl.arange(0, BLOCK)
        ok = index < count
        p = tl.load(param + index, mask=ok, other=0.0).to(tl.float32)
        p = (p - decay * p + tl.load(change + index, mask=ok, other=0.0)).to(dtype)
        moves = True
        if guarded:
            moves = tl.sum(p.to(tl.float32) * 0.0) == 0.0
        if moves:
            tl.store(param + index, p, mask=ok)
        else:
            count_once(buffers.marks, tensors, t)
