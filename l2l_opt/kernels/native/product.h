// Products of matrices at the speed of the machine: operands are copied into panels that stay in a cache, and tiles of the
// result into registers.
#pragma once

#include <cmath>
#include <memory>

#include "simd.h"
#include "threads.h"

namespace l2l_opt::ISA {

constexpr int HEIGHT = V < 4 ? 6 : 12, WIDTH = 2 * W;  // of a tile, as many as there are registers for
constexpr int64_t DEPTH = 256, PANEL_ROWS = 16 * HEIGHT, PANEL_COLUMNS = 24 * WIDTH;

constexpr int64_t in_multiples(int64_t count, int64_t of) { return (count + of - 1) / of * of; }

// Memory that is not cleared, at the start of a cache line.
class Uncleared {
public:
    float* of(int64_t floats) {
        if (floats > size_) {
            memory_.reset(new float[floats + 16]);
            size_ = floats;
        }
        const auto address = reinterpret_cast<uintptr_t>(memory_.get());
        return memory_.get() + (64 - address % 64) % 64 / sizeof(float);
    }

private:
    std::unique_ptr<float[]> memory_;
    int64_t size_ = 0;
};

// Numbers by two indices: (k, i) lies at k * stride + i, or at i * stride + k where it is transposed.
struct View {
    const float* at;
    int64_t stride;
    bool transposed;
};

// C[rows][columns] = sum over k of a(k, i) b(k, j), added to C where it `adds`. C has room for whole tiles. lower: tiles above
// the diagonal are left out. rounds: a and b to bfloat16; sums are of floats all the same.
struct Product {
    float* c;
    int64_t stride;
    View a, b;
    int64_t rows, columns, depth;
    bool adds, lower, rounds;
};

typedef float quad __attribute__((vector_size(16)));
#if defined(__clang__)
#define SHUFFLED(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
typedef int32_t iquad __attribute__((vector_size(16)));
#define SHUFFLED(a, b, i, j, k, l) __builtin_shuffle(a, b, iquad{i, j, k, l})
#endif

// Four rows of four as four columns.
INLINE void transpose(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
    quad r[4];
    for (int k = 0; k < 4; ++k) std::memcpy(&r[k], from + k * from_stride, sizeof r[k]);
    const quad a = SHUFFLED(r[0], r[1], 0, 4, 1, 5), b = SHUFFLED(r[2], r[3], 0, 4, 1, 5);
    const quad c = SHUFFLED(r[0], r[1], 2, 6, 3, 7), d = SHUFFLED(r[2], r[3], 2, 6, 3, 7);
    const quad columns[4] = {
        SHUFFLED(a, b, 0, 1, 4, 5), SHUFFLED(a, b, 2, 3, 6, 7), SHUFFLED(c, d, 0, 1, 4, 5), SHUFFLED(c, d, 2, 3, 6, 7)
    };
    for (int k = 0; k < 4; ++k) std::memcpy(to + k * to_stride, &columns[k], sizeof columns[k]);
}

// One panel of rows.
TARGET static void pack_transposed(float* to, int64_t width, const float* from, int64_t stride, int64_t depth, int64_t rows) {
    const int64_t quads = rows / 4 * 4, whole = depth / 4 * 4;
    for (int64_t row = 0; row < quads; row += 4)
        for (int64_t at = 0; at < whole; at += 4) transpose(from + row * stride + at, stride, to + at * width + row, width);
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t at = row < quads ? whole : 0; at < depth; ++at) to[at * width + row] = from[row * stride + at];
}

// Panels [depth][N] of `count` columns of a view, from (k, i) on; beyond them zeros.
template <int N>
TARGET static void pack(float* to, const View& view, int64_t k, int64_t depth, int64_t i, int64_t count) {
    const int64_t whole = count / N * N, rest = count - whole;
    if (rest) std::memset(to + whole * depth, 0, sizeof(float) * depth * N);
    if (view.transposed) {
        for (int64_t first = 0; first < count; first += N)
            pack_transposed(to + first * depth, N, view.at + (i + first) * view.stride + k, view.stride, depth, std::min<int64_t>(N, count - first));
        return;
    }
    for (int64_t row = 0; row < depth; ++row) {
        const float* from = view.at + (k + row) * view.stride + i;
        for (int64_t first = 0; first < whole; first += N) std::memcpy(to + first * depth + row * N, from + first, sizeof(float) * N);
        std::memcpy(to + whole * depth + row * N, from + whole, sizeof(float) * rest);
    }
}

TARGET static void multiply_tile(float* c, int64_t stride, const float* a, const float* b, int64_t depth, bool adds) {
    vec sums[HEIGHT][2] = {};
    if (adds)
        for (int r = 0; r < HEIGHT; ++r)
            for (int v = 0; v < 2; ++v) sums[r][v] = load(c + r * stride + v * W);
    for (int64_t k = 0; k < depth; ++k, a += HEIGHT, b += WIDTH) {
        const vec left = load(b), right = load(b + W);
        for (int r = 0; r < HEIGHT; ++r) {
            sums[r][0] += a[r] * left;
            sums[r][1] += a[r] * right;
        }
    }
    for (int r = 0; r < HEIGHT; ++r)
        for (int v = 0; v < 2; ++v) store(c + r * stride + v * W, sums[r][v]);
}

// Numbers of panels as floats that are bfloat16.
TARGET static void round_panels(float* numbers, int64_t count) {
    for (int64_t at = 0; at < count; at += W)
        store(numbers + at, of_bits(rounded_to_bfloat16(load(numbers + at)) & int32_t(0xffff0000)));
}

using Tile = void(float* c, int64_t stride, const float* a, const float* b, int64_t depth, bool adds);

#ifdef PAIRS_TARGET
// Panels [depth][N] in their place as pairs [(depth + 1) / 2][N][2] of bfloat16 that are multiplied at once; a last one that
// is alone with zero. They begin where they began.
template <int N>
TARGET static void pair_panels(float* panels, int64_t depth, int64_t count) {
    constexpr int LANES = N % W ? 4 : W;
    typedef float values __attribute__((vector_size(4 * LANES)));
    typedef uint32_t words __attribute__((vector_size(4 * LANES)));
    auto rounded = [](values value) TARGET {
        const words bits = (words)value;
        return value == value ? bits + 0x7fff + ((bits >> 16) & 1) : bits | 0x400000;
    };
    for (float* panel = panels; panel < panels + in_multiples(count, N) * depth; panel += N * depth)
        for (int64_t k = 0; k < depth; k += 2)
            for (int i = 0; i < N; i += LANES) {
                values first, second = {};
                std::memcpy(&first, panel + k * N + i, sizeof first);
                if (k + 1 < depth) std::memcpy(&second, panel + (k + 1) * N + i, sizeof second);
                const words pairs = rounded(first) >> 16 | (rounded(second) & 0xffff0000);
                std::memcpy(panel + k / 2 * N + i, &pairs, sizeof pairs);
            }
}

PAIRS_TARGET static void multiply_tile_of_pairs(float* c, int64_t stride, const float* a, const float* b, int64_t depth, bool adds) {
    __m512 sums[HEIGHT][2] = {};
    if (adds)
        for (int r = 0; r < HEIGHT; ++r)
            for (int v = 0; v < 2; ++v) sums[r][v] = _mm512_loadu_ps(c + r * stride + v * W);
    for (int64_t k = 0; k < depth; k += 2, a += HEIGHT, b += WIDTH) {
        const __m512bh left = (__m512bh)_mm512_loadu_ps(b), right = (__m512bh)_mm512_loadu_ps(b + W);
        for (int r = 0; r < HEIGHT; ++r) {
            const __m512bh own = (__m512bh)_mm512_set1_ps(a[r]);
            sums[r][0] = _mm512_dpbf16_ps(sums[r][0], own, left);
            sums[r][1] = _mm512_dpbf16_ps(sums[r][1], own, right);
        }
    }
    for (int r = 0; r < HEIGHT; ++r)
        for (int v = 0; v < 2; ++v) _mm512_storeu_ps(c + r * stride + v * W, sums[r][v]);
}
#endif

// What multiplies panels of rounded numbers, and whether in pairs: where the processor has an instruction for them.
struct Rounded {
    Tile* tile = multiply_tile;
    bool in_pairs = false;

    Rounded() {
#ifdef PAIRS_TARGET
        if (__builtin_cpu_supports("avx512bf16")) {
            tile = multiply_tile_of_pairs;
            in_pairs = true;
        }
#endif
    }

    template <int N>
    TARGET void prepare(float* panels, int64_t depth, int64_t count) const {
#ifdef PAIRS_TARGET
        if (in_pairs) return pair_panels<N>(panels, depth, count);
#endif
        round_panels(panels, in_multiples(count, N) * depth);
    }
};

// Rows from the first, of whole tiles, to the last.
TARGET static void multiply_rows(const Product& p, int64_t first_row, int64_t last_row, Uncleared& memory) {
    float* a = memory.of((PANEL_ROWS + PANEL_COLUMNS) * DEPTH);
    float* b = a + PANEL_ROWS * DEPTH;
    static const Rounded rounded;
    Tile* const tile = p.rounds ? rounded.tile : multiply_tile;
    for (int64_t k = 0; k < p.depth; k += DEPTH) {
        const int64_t depth = std::min(DEPTH, p.depth - k);
        for (int64_t j = 0; j < p.columns; j += PANEL_COLUMNS) {
            const int64_t columns = std::min(PANEL_COLUMNS, p.columns - j);
            const int64_t start = p.lower ? std::max(first_row, j / HEIGHT * HEIGHT) : first_row;
            if (start < last_row) {
                pack<WIDTH>(b, p.b, k, depth, j, columns);
                if (p.rounds) rounded.prepare<WIDTH>(b, depth, columns);
            }
            for (int64_t i = start; i < last_row; i += PANEL_ROWS) {
                const int64_t rows = std::min(PANEL_ROWS, last_row - i);
                pack<HEIGHT>(a, p.a, k, depth, i, rows);
                if (p.rounds) rounded.prepare<HEIGHT>(a, depth, rows);
                for (int64_t at = 0; at < columns; at += WIDTH)
                    for (int64_t row = 0; row < rows; row += HEIGHT)
                        if (!p.lower || i + row + HEIGHT > j + at)
                            tile(
                                p.c + (i + row) * p.stride + j + at, p.stride, a + row * depth, b + at * depth, depth, p.adds || k
                            );
            }
        }
    }
}

// On as many threads as there is memory of. The result does not depend on how many these are.
TARGET static void multiply(const Product& p, std::vector<Uncleared>& packs) {
    const int64_t operations = p.rows * p.columns * p.depth / (p.lower ? 2 : 1), tiles = in_multiples(p.rows, HEIGHT) / HEIGHT;
    const int64_t most = std::max<int64_t>(1, operations >> 22), threads = std::min<int64_t>({most, tiles, int64_t(packs.size())});
    // Rows of a triangle get longer: shares of its area begin at the root of a share.
    auto begin = [&](int64_t thread) {
        const double share = static_cast<double>(thread) / static_cast<double>(threads);
        const auto tile = static_cast<int64_t>(std::lround((p.lower ? std::sqrt(share) : share) * static_cast<double>(tiles)));
        return std::min(tile * HEIGHT, p.rows);
    };
    in_parts(threads, static_cast<int>(threads), [&](Part, int thread) {
        multiply_rows(p, begin(thread), begin(thread + 1), packs[thread]);
    });
}

}  // namespace l2l_opt::ISA
