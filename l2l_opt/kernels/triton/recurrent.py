"""The step of rules that read gradients alone, ``lstm`` and ``rnnprop``: kernels over chunks of many tensors.

A tile is ``[units, coordinates]``; sizes are padded to what products of tiles take, and what is padded is zero.
"""

# pyright: reportGeneralTypeIssues=false, reportArgumentType=false

import triton
import triton.language as tl

from l2l_opt.kernels.triton.language import (
    BLOCK,
    CHUNK,
    at,
    bias_correction,
    count_once,
    keep_average,
    sigmoid,
    tanh,
    total,
)

GOOD, CORRECTION, NUM_HEADS = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
"""What ``clock_kernel`` leaves of each tensor."""


@triton.jit
def find_kernel(chunks, tensors, buffers, squared: tl.constexpr, dtype: tl.constexpr):
    """Zero for each chunk whose gradients (their squares) are all finite, NaN for others."""
    chunk = tl.program_id(0)
    t, start = tl.load(chunks.tensor + chunk), tl.load(chunks.start + chunk)
    count, gradient = tl.load(tensors.length + t), at(tensors.gradient, t, dtype)
    nothing = tl.zeros([BLOCK], tl.float32)
    for offset in range(0, tl.minimum(count - start, CHUNK).to(tl.int32), BLOCK):
        index = start + offset + tl.arange(0, BLOCK)
        g = tl.load(gradient + index, mask=index < count, other=0.0).to(tl.float32)
        if squared:
            g *= g
        nothing += g * 0.0
    tl.store(buffers.found + chunk, tl.sum(nothing))


@triton.jit
def clock_kernel(chunks, tensors, buffers, rule_times_zero, log_beta, guarded: tl.constexpr):
    """One program a tensor: whether it is stepped, its clock, and what its moments are divided by."""
    t = tl.program_id(0)
    clock, skipped = at(tensors.step, t, tl.float32), at(tensors.skipped, t, tl.int64)
    steps = tl.load(clock) + 1
    nothing = 0.0
    if guarded:
        nothing = total(buffers.found, chunks, t) + tl.load(rule_times_zero)
    good = nothing == 0.0
    tl.store(buffers.heads + t * NUM_HEADS + GOOD, tl.where(good, 1.0, 0.0))
    tl.store(buffers.heads + t * NUM_HEADS + CORRECTION, 1.0 / bias_correction(steps, log_beta))
    tl.store(buffers.marks + t, 0)
    if good:
        tl.store(clock, steps)
    else:
        tl.store(skipped, tl.load(skipped) + 1)


@triton.jit
def ratios(law, g, average, square, correction, rows, units: tl.constexpr):
    """Embed RNNProp's two ratios, ``[units, coordinates]``."""
    over_root = 1.0 / tl.sqrt(square * correction + law.eps_squared)
    ok = rows < units
    first = tl.load(law.embedding_weight + 2 * rows, mask=ok, other=0.0)
    second = tl.load(law.embedding_weight + 2 * rows + 1, mask=ok, other=0.0)
    bias = tl.load(law.embedding_bias + rows, mask=ok, other=0.0)
    x = first[:, None] * (g * over_root)[None, :] + second[:, None] * (average * correction * over_root)[None, :]
    x += bias[:, None]
    return tl.where(x > 0, x, tl.exp(tl.minimum(x, 0.0)) - 1.0)


@triton.jit
def log_sign(law, g, rows):
    """Return two features, in the first rows of a tile."""
    size = tl.abs(g)
    logarithm = tl.maximum(tl.log(tl.maximum(size, law.exp_minus_p)) / law.p, -1.0)
    sign = tl.where(size >= law.exp_minus_p, tl.where(g > 0, 1.0, -1.0), g * law.exp_p)
    return tl.where((rows == 0)[:, None], logarithm[None, :], sign[None, :])


@triton.jit
def add_products(gates, values, stride, ok, weights, num_values, units: tl.constexpr):
    """Add ``W x`` to a layer's four gates: a row of x at a time, out of memory, so that few registers are taken.

    ``values``: addresses of the first row's coordinates; ``weights``: ``[num_values, 4 * units]``.
    """
    entering, forget, candidate, output = gates
    rows = tl.arange(0, entering.shape[0])
    for k in range(num_values):
        x = tl.load(values + k * stride, mask=ok, other=0.0).to(tl.float32)[None, :]
        own = weights + k * 4 * units + rows
        entering += tl.load(own, mask=rows < units, other=0.0)[:, None] * x
        forget += tl.load(own + units, mask=rows < units, other=0.0)[:, None] * x
        candidate += tl.load(own + 2 * units, mask=rows < units, other=0.0)[:, None] * x
        output += tl.load(own + 3 * units, mask=rows < units, other=0.0)[:, None] * x
    return entering, forget, candidate, output


@triton.jit
def bias_of(biases, which: tl.constexpr, rows, units: tl.constexpr, block: tl.constexpr):
    """Return the biases of one gate, for each coordinate of a block."""
    bias = tl.load(biases + which * units + rows, mask=rows < units, other=0.0)
    return bias[:, None] + tl.zeros([1, block], tl.float32)


@triton.jit
def share(scratch, rows, num_rows, tile, block: tl.constexpr):
    """Leave a tile where every thread of the program can read its rows."""
    tl.debug_barrier()
    coordinates = tl.arange(0, block)
    places = rows[:, None] * block + coordinates[None, :]
    tl.store(scratch + places, tile, mask=(rows < num_rows)[:, None] & (coordinates >= 0)[None, :])
    tl.debug_barrier()


@triton.jit
def layer_step(below, hidden_at, cell, place, weights, biases, num_inputs: tl.constexpr, units: tl.constexpr):
    """One layer's next hidden and cell state.

    ``below``: its inputs, a tile; ``hidden_at``: of its own hidden state's coordinates; ``place``: memory of this
    program's own, a row's length there, which of its coordinates there are, and the number of these of the tensor.
    """
    scratch, block, ok, count = place
    rows = tl.arange(0, below.shape[0])
    share(scratch, rows, num_inputs, below, below.shape[1])
    gates = (
        bias_of(biases, 0, rows, units, below.shape[1]),
        bias_of(biases, 1, rows, units, below.shape[1]),
        bias_of(biases, 2, rows, units, below.shape[1]),
        bias_of(biases, 3, rows, units, below.shape[1]),
    )
    gates = add_products(gates, scratch + block, below.shape[1], ok, weights, num_inputs, units)
    gates = add_products(gates, hidden_at, count, ok, weights + 4 * units * num_inputs, units, units)
    cell = sigmoid(gates[1]) * cell + sigmoid(gates[0]) * tanh(gates[2])
    return sigmoid(gates[3]) * tanh(cell), cell


@triton.jit
def features_of(g, averages, squares, index, ok, correction, law, rows, kind: tl.constexpr, units: tl.constexpr):
    """Return the inputs of the network, a tile, and the next averages, of rules that keep some."""
    average, square = g, g
    if kind == "ratios":
        average = law.beta * tl.load(averages + index, mask=ok, other=0.0).to(tl.float32) + (1.0 - law.beta) * g
        square = law.beta * tl.load(squares + index, mask=ok, other=0.0).to(tl.float32) + (1.0 - law.beta) * g * g
        features = ratios(law, g, average, square, correction, rows, units)
    else:
        features = log_sign(law, g, rows)
    return features, average, square


@triton.jit
def block_step(t, index, tensors, buffers, body, law, update, kind, sizes, guarded: tl.constexpr):
    """Features, network, update and state of one block of coordinates, left as it was where it is not finite."""
    units: tl.constexpr = sizes[0]
    num_layers: tl.constexpr = sizes[1]
    param_type: tl.constexpr = sizes[4]
    state_type: tl.constexpr = sizes[5]
    averages_type: tl.constexpr = sizes[7]
    count, correction = tl.load(tensors.length + t), tl.load(buffers.heads + t * NUM_HEADS + CORRECTION)
    param, gradient = at(tensors.param, t, param_type) + index, at(tensors.gradient, t, param_type) + index
    hidden_at, cell_at = at(tensors.hidden, t, state_type), at(tensors.cell, t, state_type)
    averages, squares = at(tensors.averages, t, averages_type), at(tensors.squares, t, averages_type)
    rows, ok = tl.arange(0, sizes[2]), index < count
    own_rows = (rows < units)[:, None] & ok[None, :]
    g = tl.load(gradient, mask=ok, other=0.0).to(tl.float32) * update.sign
    below, average, square = features_of(g, averages, squares, index, ok, correction, law, rows, kind, units)
    place = (buffers.scratch + tl.program_id(0) * sizes[2] * sizes[3], tl.arange(0, sizes[3]), ok, count)
    nothing = g * 0.0
    hiddens = ()
    cells = ()
    weights, biases, num_inputs = body.weights, body.biases, sizes[6]
    for layer in tl.static_range(num_layers):
        places = (layer * units + rows)[:, None] * count + index[None, :]
        cell = tl.load(cell_at + places, mask=own_rows, other=0.0).to(tl.float32)
        own = hidden_at + layer * units * count + index
        below, cell = layer_step(below, own, cell, place, weights, biases, num_inputs, units)
        weights += 4 * units * (num_inputs + units)
        biases += 4 * units
        num_inputs = units
        hiddens = hiddens + (below,)
        cells = cells + (cell,)
        nothing += tl.sum(tl.where(own_rows, (below + cell) * 0.0, 0.0), 0)
    readout = tl.load(body.readout + rows, mask=rows < units, other=0.0)
    out = tl.sum(readout[:, None] * below, 0) + tl.load(biases)
    if kind == "ratios":
        out = -tanh(out)
    p = tl.load(param, mask=ok, other=0.0).to(tl.float32)
    rate = tl.load(update.rate)
    p = (p + rate * (update.lr * law.output_scale * out - update.decay * p)).to(param_type)
    nothing += tl.where(ok, (p.to(tl.float32) + average + square) * 0.0, 0.0)
    moves = True
    if guarded:
        moves = tl.sum(nothing) == 0.0
    # All of the block's state has been read before any of it is written.
    tl.debug_barrier()
    if moves:
        tl.store(param, p, mask=ok)
        if kind == "ratios":
            step = tl.load(at(tensors.step, t, tl.float32))
            keep_average(averages, 0, average, step, count, index, averages_type)
            keep_average(squares, 1, square, step, count, index, averages_type)
        for layer in tl.static_range(num_layers):
            places = (layer * units + rows)[:, None] * count + index[None, :]
            tl.store(hidden_at + places, hiddens[layer].to(state_type), mask=own_rows)
            tl.store(cell_at + places, cells[layer].to(state_type), mask=own_rows)
    else:
        count_once(buffers.marks, tensors, t)


@triton.jit
def step_kernel(
    chunks, tensors, buffers, body, law, update, kind: tl.constexpr, sizes: tl.constexpr, guarded: tl.constexpr
):
    """Step chunk after chunk, block after block; a program's layers hand one another rows through its own scratch.

    ``sizes``: units, layers, padded units, coordinates of a block, dtypes of parameters and of the recurrent state,
    inputs of the first layer, dtype of averages.
    """
    block: tl.constexpr = sizes[3]
    for chunk in range(tl.program_id(0), tl.load(chunks.number), tl.num_programs(0)):
        t, start = tl.load(chunks.tensor + chunk), tl.load(chunks.start + chunk)
        if tl.load(buffers.heads + t * NUM_HEADS + GOOD) > 0:
            for offset in range(0, tl.minimum(tl.load(tensors.length + t) - start, CHUNK).to(tl.int32), block):
                index = start + offset + tl.arange(0, block)
                block_step(t, index, tensors, buffers, body, law, update, kind, sizes, guarded)
