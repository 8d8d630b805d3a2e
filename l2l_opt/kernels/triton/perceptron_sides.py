"""Mean squares of gradients by row and by column, of many tensors: what ``mlp`` and ``celo2`` keep of whole tensors.

    sides       sums of g^2 by row and by column, of each piece of an axis
    following   the next mean squares by row and by column, and what rows are divided by

What follows is written to the state with all else, by the kernels of ``perceptron``. As ``native/factored.h`` has it.
"""

# pyright: reportGeneralTypeIssues=false, reportArgumentType=false

import triton
import triton.language as tl

from l2l_opt.kernels.triton.language import BLOCK, at, between

ACROSS, ALONG = tl.constexpr(64), tl.constexpr(32)
"""Of a tile of squares: sums, and coordinates of the axis."""
GROUP = tl.constexpr(256)
"""Rows of which a mean is made at a time."""
LEAST_SQUARE, LEAST_MEAN = tl.constexpr(1e-30), tl.constexpr(1e-9)


@triton.jit
def gradient_of(values, law, update, clips: tl.constexpr):
    """Return gradients as the rule takes them."""
    g = values.to(tl.float32) * update.sign
    if clips:
        g = between(g, -law.most_gradient, law.most_gradient)
    return g


@triton.jit
def sum_tiles(gradient, first, stride, begin, end, known, law, update, axis: tl.constexpr, clips: tl.constexpr):
    """Sum squares from ``begin`` to ``end`` along an axis; coordinates along ``axis`` of a tile lie side by side."""
    squares = tl.zeros([ACROSS], tl.float32)
    for place in range(begin, end, ALONG):
        along = place + tl.arange(0, ALONG)
        if axis == 1:
            places = first[:, None] + along[None, :] * stride
            ok = known[:, None] & (along < end)[None, :]
        else:
            places = first[None, :] + along[:, None] * stride
            ok = known[None, :] & (along < end)[:, None]
        g = gradient_of(tl.load(gradient + places, mask=ok, other=0.0), law, update, clips)
        squares += tl.sum(g * g, axis)
    return squares


@triton.jit
def sides_kernel(pieces, sides, tensors, buffers, law, update, clips: tl.constexpr, dtype: tl.constexpr):
    """Sum g^2 over one piece of the axis of a side, for some of its rows or columns."""
    own = tl.program_id(0)
    side, piece = tl.load(pieces.side + own), tl.load(pieces.piece + own)
    length, stride, count = tl.load(sides.length + side), tl.load(sides.stride + side), tl.load(sides.number + side)
    gradient, span = at(tensors.gradient, tl.load(sides.tensor + side), dtype), tl.load(sides.span + side)
    sums = tl.load(pieces.block + own) * ACROSS + tl.arange(0, ACROSS)
    first, known = sums // stride * (length * stride) + sums % stride, sums < count
    begin, end = piece * span, tl.minimum((piece + 1) * span, length)
    out = buffers.partial + tl.load(sides.partial + side) + piece * count + sums
    if stride == 1:
        tl.store(out, sum_tiles(gradient, first, stride, begin, end, known, law, update, 1, clips), mask=known)
    else:
        tl.store(out, sum_tiles(gradient, first, stride, begin, end, known, law, update, 0, clips), mask=known)


@triton.jit
def mean_square(buffers, sides, side, places, known):
    """Return the mean of g^2 of some rows or columns, from sums of all pieces of their axis."""
    count, pieces = tl.load(sides.number + side), tl.load(sides.pieces + side)
    partial = buffers.partial + tl.load(sides.partial + side)
    summed = tl.zeros([places.shape[0]], tl.float32)
    for piece in range(pieces):
        summed += tl.load(partial + piece * count + places, mask=known, other=0.0)
    return summed / tl.load(sides.length + side).to(tl.float32) + LEAST_SQUARE


@triton.jit
def average_side(buffers, sides, side, rule, places, known):
    """Write the next mean squares of some rows or columns, three each, and return their sums."""
    count, following = tl.load(sides.number + side), buffers.following + tl.load(sides.following + side)
    mean, state = mean_square(buffers, sides, side, places, known), at(sides.state, side, tl.float32)
    sums = ()
    for k in tl.static_range(3):
        beta = tl.load(rule.betas + 4 + k)
        before = tl.load(state + k * count + places, mask=known, other=0.0)
        squares = beta * before + (1.0 - beta) * mean
        tl.store(following + k * count + places, squares, mask=known)
        sums = sums + (tl.sum(tl.where(known, squares, 0.0)),)
    return sums


@triton.jit
def following_kernel(pieces, sides, buffers, rule):
    """Find the next mean squares of some columns, or of a group of rows along the shorter axis, and their factors."""
    own = tl.program_id(0)
    side, block = tl.load(pieces.side + own), tl.load(pieces.block + own)
    count = tl.load(sides.number + side)
    if side % 2 == 1:
        places = block * ACROSS + tl.arange(0, ACROSS)
        average_side(buffers, sides, side, rule, places, places < count)
    else:
        inner, shorter = tl.load(sides.inner + side), tl.load(sides.length + side + 1)
        first = block // inner * (shorter * inner) + block % inner
        sum0, sum1, sum2 = 0.0, 0.0, 0.0
        for begin in range(0, shorter, GROUP):
            row = begin + tl.arange(0, GROUP)
            sums = average_side(buffers, sides, side, rule, first + row * inner, row < shorter)
            sum0 += sums[0]
            sum1 += sums[1]
            sum2 += sums[2]
        # What was written is read again, perhaps by other threads.
        tl.debug_barrier()
        over = 1.0 / shorter.to(tl.float32)
        following = buffers.following + tl.load(sides.following + side)
        for begin in range(0, shorter, GROUP):
            row = begin + tl.arange(0, GROUP)
            places = first + row * inner
            write_factors(following, following + 3 * count, places, row < shorter, sum0 * over)
            write_factors(following + count, following + 4 * count, places, row < shorter, sum1 * over)
            write_factors(following + 2 * count, following + 5 * count, places, row < shorter, sum2 * over)


@triton.jit
def write_factors(squares, factors, places, known, mean):
    """Write what rows' gradients are multiplied by."""
    relative = tl.load(squares + places, mask=known, other=1.0) / (mean + LEAST_MEAN)
    tl.store(factors + places, over_root_of(relative), mask=known)


@triton.jit
def over_root_of(squares):
    """One over the root; NaN passes through."""
    return 1.0 / tl.sqrt(tl.where(squares < LEAST_MEAN, LEAST_MEAN, squares))


@triton.jit
def place_of(index, sides, side, index_type: tl.constexpr):
    """Return where coordinates have their rows' numbers, or their columns'."""
    stride = tl.load(sides.stride + side).to(index_type)
    block = tl.load(sides.length + side).to(index_type) * stride
    index = index.to(index_type)
    return index // block * stride + index % stride


@triton.jit
def sides_of(index, t, g, sides, buffers, rule, known, index_type: tl.constexpr):
    """Return mean squares by row and by column, and factors of gradients and of averages, three each.

    Of a vector all are of each coordinate, with a state of its own.
    """
    side, squared = 2 * t, g * g + LEAST_SQUARE
    num_rows, num_columns = tl.load(sides.number + side), tl.load(sides.number + side + 1)
    factored = num_rows > 0
    row, column = place_of(index, sides, side, index_type), place_of(index, sides, side + 1, index_type)
    own, of_sides = known & (num_rows == 0), known & factored
    state, length = at(sides.state, side, tl.float32), tl.load(sides.length + side)
    at_rows = buffers.following + tl.load(sides.following + side) + row
    at_columns = buffers.following + tl.load(sides.following + side + 1) + column
    rows = ()
    columns = ()
    of_gradient = ()
    of_averages = ()
    for k in tl.static_range(3):
        beta = tl.load(rule.betas + 4 + k)
        alone = beta * tl.load(state + k * length + index, mask=own, other=0.0) + (1.0 - beta) * squared
        r = tl.where(factored, tl.load(at_rows + k * num_rows, mask=of_sides, other=0.0), alone)
        c = tl.where(factored, tl.load(at_columns + k * num_columns, mask=of_sides, other=0.0), alone)
        both = tl.load(at_rows + (3 + k) * num_rows, mask=of_sides, other=0.0) * over_root_of(c)
        rows = rows + (r,)
        columns = columns + (c,)
        of_gradient = of_gradient + (tl.where(factored, both, 1.0 / tl.sqrt(r + LEAST_MEAN)),)
        of_averages = of_averages + (tl.where(factored, both, 1.0 / tl.sqrt(r + 1e-6)),)
    return rows, columns, of_gradient, of_averages


@triton.jit
def keep_sides(sides, buffers, t, part, parts):
    """Write one of so many parts of a tensor's next mean squares by row and by column to its state."""
    for which in tl.static_range(2):
        side = 2 * t + which
        number, state = 3 * tl.load(sides.number + side), at(sides.state, side, tl.float32)
        following = buffers.following + tl.load(sides.following + side)
        for begin in range(part * BLOCK, number, parts * BLOCK):
            place = begin + tl.arange(0, BLOCK)
            tl.store(state + place, tl.load(following + place, mask=place < number, other=0.0), mask=place < number)
