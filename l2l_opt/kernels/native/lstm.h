// The coordinatewise LSTM on tiles of coordinates. A tile is rows of TILE floats, one row a feature.
//
// Weights of a unit lie together, [inputs][4 gates]; a unit's four gates stay in registers until they are its state.
#pragma once

#include "packed.h"
#include "simd.h"
#include "threads.h"

namespace l2l_opt::ISA {

constexpr int TILE = W * V;
constexpr int WIDE = V < 4 ? 2 : 4;  // columns of products that fit into the registers beside four rows

// Rows from the first on into a tile; beyond its coordinates a tile is zero, and so is one from nowhere.
template <typename T>
TARGET static void gather(float* tile, const Rows& source, int64_t first, int rows, const Spot& spot) {
    const T* from = source.at<T>(spot.particle, first, spot.at);
    if (from == nullptr) {
        std::memset(tile, 0, sizeof(float) * rows * TILE);
        return;
    }
    T part[TILE] = {};
    for (int row = 0; row < rows; ++row, tile += TILE, from += source.stride) {
        if (spot.n < TILE) std::memcpy(part, from, sizeof(T) * spot.n);
        const T* whole = spot.n < TILE ? part : from;
        for (int v = 0; v < V; ++v) store(tile + v * W, load(whole + v * W));
    }
}

// Asks for the same rows of the next tile ahead of time: they lie in as many pages, more than a processor foresees by itself.
template <typename T>
INLINE void ask_for_next(const Rows& source, int64_t first, int rows, const Spot& spot) {
    if (spot.n < TILE || source.address == nullptr) return;
    for (int row = 0; row < rows; ++row) {
        const char* from = reinterpret_cast<const char*>(source.at<T>(spot.particle, first + row, spot.at + TILE));
        for (size_t byte = 0; byte < TILE * sizeof(T); byte += 64) __builtin_prefetch(from + byte, 1, 2);
    }
}

// Rows of a tile back to where they lie; nothing is kept nowhere.
template <typename T>
TARGET static void scatter(const Rows& target, int64_t first, const float* tile, int rows, const Spot& spot) {
    T* to = target.at<T>(spot.particle, first, spot.at);
    if (to == nullptr) return;
    T part[TILE];
    for (int row = 0; row < rows; ++row, tile += TILE, to += target.stride) {
        T* whole = spot.n < TILE ? part : to;
        for (int v = 0; v < V; ++v) store(whole + v * W, load(tile + v * W));
        if (spot.n < TILE) std::memcpy(to, part, sizeof(T) * spot.n);
    }
}

// The four gates of one unit before their nonlinearities, times GATE_SCALES as the weights are; bias points at the unit's first, gates are `hidden` apart.
INLINE void unit_gates(
    vec (&gates)[4][V], const float* packed, const float* bias, int hidden, const float* in, int inputs
) {
    for (int g = 0; g < 4; ++g)
        for (int v = 0; v < V; ++v) gates[g][v] = all(bias[g * hidden] * GATE_SCALES[g]);
    for (int k = 0; k < inputs; ++k)
        for (int g = 0; g < 4; ++g)
            for (int v = 0; v < V; ++v) gates[g][v] += packed[4 * k + g] * load(in + k * TILE + v * W);
}

// One layer forward. in: rows of the layer below, then of its own hidden state, of which the first `given` are not zero. cell
// is replaced.
TARGET static void forward_layer(
    const float* packed, const float* bias, int hidden, const float* in, int inputs, int given, float* cell,
    float* next_hidden
) {
    for (int j = 0; j < hidden; ++j) {
        vec gates[4][V];
        unit_gates(gates, packed + 4 * j * inputs, bias + j, hidden, in, given);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
            float* c = cell + j * TILE + v * W;
            vec i = sigmoid_denominator(gates[0][v]), f = sigmoid_denominator(gates[1][v]);
            vec o = sigmoid_denominator(gates[3][v]);
            Ratio g = tanh_ratio(gates[2][v]);
            vec ig = i * g.bottom, reciprocal = 1.0f / (ig * f);
            vec next = load(c) * (ig * reciprocal) + g.top * (f * reciprocal);
            Ratio t = tanh_ratio(next);
            store(c, next);
            store(next_hidden + j * TILE + v * W, t.top / (t.bottom * o));
        }
    }
}

TARGET static void forward_readout(
    const float* weight, const float* bias, int hidden, int outputs, const float* in, float* out
) {
    for (int o = 0; o < outputs; ++o) {
        vec total[V];
        for (int v = 0; v < V; ++v) total[v] = all(bias[o]);
        for (int j = 0; j < hidden; ++j)
            for (int v = 0; v < V; ++v) total[v] += weight[o * hidden + j] * load(in + j * TILE + v * W);
        for (int v = 0; v < V; ++v) store(out + o * TILE + v * W, total[v]);
    }
}

struct Activated {
    vec i, f, g, o;
};

// One division for four: the reciprocal of all denominators times the other ones.
INLINE Activated activated(vec i, vec f, vec g, vec o) {
    vec i_bottom = sigmoid_denominator(i), f_bottom = sigmoid_denominator(f), o_bottom = sigmoid_denominator(o);
    Ratio g_ratio = tanh_ratio(g);
    vec i_f = i_bottom * f_bottom, o_g = o_bottom * g_ratio.bottom, reciprocal = 1.0f / (i_f * o_g);
    return {reciprocal * o_g * f_bottom, reciprocal * o_g * i_bottom, reciprocal * i_f * o_bottom * g_ratio.top,
            reciprocal * i_f * g_ratio.bottom};
}

// Derivatives of one unit's gates before their nonlinearities, put into d; returns that of the old cell.
INLINE vec unit_derivative(const Activated& a, vec cell, vec tanh_cell, vec d_hidden, vec d_next_cell, float* d) {
    vec d_c = d_next_cell + d_hidden * a.o * (1.0f - tanh_cell * tanh_cell);
    store(d, d_c * a.g * a.i * (1.0f - a.i));
    store(d + TILE, d_c * cell * a.f * (1.0f - a.f));
    store(d + 2 * TILE, d_c * a.i * (1.0f - a.g * a.g));
    store(d + 3 * TILE, d_hidden * tanh_cell * a.o * (1.0f - a.o));
    return d_c * a.f;
}

// One layer forward that keeps what its derivative needs: gates [4 * hidden rows, gate fastest] and tanh of the next cell.
TARGET static void forward_layer_kept(
    const float* packed, const float* bias, int hidden, const float* in, int inputs, const float* cell, float* next_cell,
    float* next_hidden, float* kept_gates, float* kept_tanh
) {
    for (int j = 0; j < hidden; ++j) {
        vec gates[4][V];
        unit_gates(gates, packed + 4 * j * inputs, bias + j, hidden, in, inputs);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
            const int at = j * TILE + v * W;
            Activated a = activated(gates[0][v], gates[1][v], gates[2][v], gates[3][v]);
            vec next = a.f * load(cell + at) + a.i * a.g, t = tanh(next);
            float* kept = kept_gates + 4 * j * TILE + v * W;
            store(kept, a.i);
            store(kept + TILE, a.f);
            store(kept + 2 * TILE, a.g);
            store(kept + 3 * TILE, a.o);
            store(kept_tanh + at, t);
            store(next_cell + at, next);
            store(next_hidden + at, a.o * t);
        }
    }
}

// Its derivative: kept gates become derivatives before the nonlinearities; d_cell, of the next cell, that of the old. d_hidden
// is of the next state.
TARGET static void backward_layer_kept(
    int hidden, const float* cell, const float* kept_tanh, const float* d_hidden, float* d_cell, float* kept_gates
) {
    for (int j = 0; j < hidden; ++j)
        for (int v = 0; v < V; ++v) {
            const int at = j * TILE + v * W;
            float* d = kept_gates + 4 * j * TILE + v * W;
            const Activated a{load(d), load(d + TILE), load(d + 2 * TILE), load(d + 3 * TILE)};
            store(d_cell + at, unit_derivative(a, load(cell + at), load(kept_tanh + at), load(d_hidden + at), load(d_cell + at), d));
        }
}

// d_in[k] = sum over gates of weight[gate][k] d_gates[gate], of the first inputs; weights lie as [inputs / 4][4 * hidden]
// [4 inputs], and so do inputs: the layer's own hidden state, then the layer below.
TARGET static void backward_inputs(
    const float* by_input, int hidden, int inputs, const float* d_gates, float* d_in
) {
    for (int k = 0; k < inputs; k += 4, by_input += 16 * hidden) {
        vec total[4][V] = {};
        for (int r = 0; r < 4 * hidden; ++r)
            for (int column = 0; column < 4; ++column)
                for (int v = 0; v < V; ++v) total[column][v] += by_input[4 * r + column] * load(d_gates + r * TILE + v * W);
        for (int column = 0; column < 4 && k + column < inputs; ++column)
            for (int v = 0; v < V; ++v) store(d_in + (k + column) * TILE + v * W, total[column][v]);
    }
}

// total[left][right] += the products of all pairs of rows, lane by lane, over a block of tiles that lie `step` apart.
// The totals keep their lanes; `rights` is a multiple of 4 that the rows of right are padded to.
TARGET static void add_products(
    float* total, const float* left, int lefts, int64_t left_step, const float* right, int rights, int64_t right_step,
    int tiles
) {
    for (int row = 0; row < lefts; row += 4)
        for (int column = 0; column < rights; column += WIDE) {
            float* corner = total + (static_cast<int64_t>(row) * rights + column) * W;
            vec sums[4][WIDE];
            for (int a = 0; a < 4; ++a)
                for (int b = 0; b < WIDE; ++b) sums[a][b] = load(corner + (a * rights + b) * W);
            for (int tile = 0; tile < tiles; ++tile) {
                const float* l = left + tile * left_step + row * TILE;
                const float* r = right + tile * right_step + column * TILE;
                for (int v = 0; v < TILE; v += W)
                    for (int a = 0; a < 4; ++a)
                        for (int b = 0; b < WIDE; ++b) sums[a][b] += load(l + a * TILE + v) * load(r + b * TILE + v);
            }
            for (int a = 0; a < 4; ++a)
                for (int b = 0; b < WIDE; ++b) store(corner + (a * rights + b) * W, sums[a][b]);
        }
}

TARGET static void add_row_sums(float* total, const float* tile, int rows) {
    for (int row = 0; row < rows; ++row) {
        vec sums = load(total + row * W);
        for (int v = 0; v < V; ++v) sums += load(tile + row * TILE + v * W);
        store(total + row * W, sums);
    }
}

TARGET static void add_rows(float* to, const float* rows, int count) {
    for (int at = 0; at < count * TILE; at += W) store(to + at, load(to + at) + load(rows + at));
}

TARGET static void add_readout_gradient(
    const float* weight, int hidden, int outputs, const float* d_out, float* d_hidden
) {
    for (int o = 0; o < outputs; ++o)
        for (int j = 0; j < hidden; ++j)
            for (int v = 0; v < TILE; v += W)
                store(
                    d_hidden + j * TILE + v, load(d_hidden + j * TILE + v) + weight[o * hidden + j] * load(d_out + o * TILE + v)
                );
}

}  // namespace l2l_opt::ISA
