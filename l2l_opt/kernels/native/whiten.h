// Whitening of small matrices: whitening.py, for matrices that fit into a cache.
#pragma once

#include <cmath>
#include <memory>

#include "simd.h"

namespace l2l_opt::ISA {

constexpr int64_t MOST_WHITENED = 128;  // rows or columns, whichever are fewer
constexpr int64_t BLOCK = 512;

static int64_t in_vectors(int64_t count) { return (count + W - 1) / W * W; }

// C[rows][width] (+)= A[rows][inner] B[inner][width], all dense with rows of lda, ldb and ldc floats; width is whole vectors.
TARGET static void multiply(
    float* c, int64_t ldc, const float* a, int64_t lda, const float* b, int64_t ldb, int64_t rows, int64_t inner, int64_t width
) {
    for (int64_t j = 0; j < width; j += 2 * W) {
        const bool two = j + W < width;
        for (int64_t i = 0; i < rows; i += 4) {
            const int64_t here = std::min<int64_t>(4, rows - i);
            vec sums[4][2] = {};
            if (here == 4 && two) {
                for (int64_t k = 0; k < inner; ++k) {
                    vec left = load(b + k * ldb + j), right = load(b + k * ldb + j + W);
                    for (int r = 0; r < 4; ++r) {
                        sums[r][0] += a[(i + r) * lda + k] * left;
                        sums[r][1] += a[(i + r) * lda + k] * right;
                    }
                }
            } else {
                for (int64_t k = 0; k < inner; ++k)
                    for (int64_t r = 0; r < here; ++r) {
                        sums[r][0] += a[(i + r) * lda + k] * load(b + k * ldb + j);
                        if (two) sums[r][1] += a[(i + r) * lda + k] * load(b + k * ldb + j + W);
                    }
            }
            for (int64_t r = 0; r < here; ++r) {
                store(c + (i + r) * ldc + j, sums[r][0]);
                if (two) store(c + (i + r) * ldc + j + W, sums[r][1]);
            }
        }
    }
}

// G[side][width] += X^T X of rows [count][side], padded with zeros to whole vectors.
TARGET static void add_gram(float* gram, int64_t width, const float* x, int64_t count, int64_t side) {
    for (int64_t j = 0; j < width; j += W)
        for (int64_t i = 0; i < side; i += 4) {
            const int64_t here = std::min<int64_t>(4, side - i);
            vec sums[4];
            for (int64_t r = 0; r < here; ++r) sums[r] = load(gram + (i + r) * width + j);
            if (here == 4) {
                for (int64_t k = 0; k < count; ++k) {
                    vec right = load(x + k * width + j);
                    for (int r = 0; r < 4; ++r) sums[r] += x[k * width + i + r] * right;
                }
            } else {
                for (int64_t k = 0; k < count; ++k)
                    for (int64_t r = 0; r < here; ++r) sums[r] += x[k * width + i + r] * load(x + k * width + j);
            }
            for (int64_t r = 0; r < here; ++r) store(gram + (i + r) * width + j, sums[r]);
        }
}

// A block of columns (wide) or rows (tall) of a matrix as rows of `side` floats, padded to `width`: the vectors that the
// Gram matrix is made of.
TARGET static void take_block(
    float* to, int64_t width, const float* matrix, int64_t columns, bool wide, int64_t side, int64_t first, int64_t count
) {
    std::memset(to, 0, sizeof(float) * width * count);
    if (wide) {
        for (int64_t i = 0; i < side; ++i)
            for (int64_t k = 0; k < count; ++k) to[k * width + i] = matrix[i * columns + first + k];
    } else {
        for (int64_t k = 0; k < count; ++k) std::memcpy(to + k * width, matrix + (first + k) * columns, sizeof(float) * side);
    }
}

struct Whitening {
    std::unique_ptr<float[]> memory;
    float *gram, *total, *factor, *product, *block, *result;

    // Memory is not cleared: all that is read has been written, padding too.
    Whitening() {
        const int64_t square = MOST_WHITENED * MOST_WHITENED, rows = BLOCK * MOST_WHITENED;
        memory.reset(new float[4 * square + 2 * rows + 16]);
        const auto address = reinterpret_cast<uintptr_t>(memory.get());
        gram = memory.get() + (64 - address % 64) % 64 / sizeof(float);
        total = gram + square;
        factor = total + square;
        product = factor + square;
        block = product + square;
        result = block + rows;
    }

    // param <- param - decay param + lr (-size) ((1 - share) d + share scale whitened(d)) of one matrix d [rows][columns].
    TARGET void update(
        float* param, const float* direction, int64_t rows, int64_t columns, const float* steps, int64_t num_steps, float scale,
        float lr, float decay, float size, float share
    ) {
        const bool wide = rows <= columns;
        const int64_t side = wide ? rows : columns, length = wide ? columns : rows, width = in_vectors(side);
        std::memset(gram, 0, sizeof(float) * side * width);
        for (int64_t first = 0; first < length; first += BLOCK) {
            const int64_t count = std::min(BLOCK, length - first);
            take_block(block, width, direction, columns, wide, side, first, count);
            add_gram(gram, width, block, count, side);
        }
        double square = 0;
        for (int64_t i = 0; i < side; ++i) square += gram[i * width + i];
        const float norm2 = std::max(static_cast<float>(square), 1e-8f);
        for (int64_t at = 0; at < side * width; at += W) store(gram + at, load(gram + at) / norm2);
        for (int64_t step = 0; step < num_steps; ++step) {
            const float a = steps[3 * step], b = steps[3 * step + 1], c = steps[3 * step + 2];
            multiply(factor, width, gram, width, gram, width, side, side, width);
            for (int64_t at = 0; at < side * width; at += W)
                store(factor + at, load(factor + at) * c + load(gram + at) * b);
            for (int64_t i = 0; i < side; ++i) factor[i * width + i] += a;
            if (step) {
                multiply(product, width, factor, width, total, width, side, side, width);
                std::swap(product, total);
            } else {
                std::memcpy(total, factor, sizeof(float) * side * width);
            }
            if (step + 1 < num_steps) {
                multiply(product, width, factor, width, gram, width, side, side, width);
                multiply(gram, width, product, width, factor, width, side, side, width);
            }
        }
        const float own = -lr * size * (1 - share), even = -lr * size * share * scale / std::sqrt(norm2);
        for (int64_t first = 0; first < length; first += BLOCK) {
            const int64_t count = std::min(BLOCK, length - first);
            take_block(block, width, direction, columns, wide, side, first, count);
            // The polynomial is symmetric, so vectors times it are what it makes of them.
            multiply(result, width, block, width, total, width, count, side, width);
            for (int64_t k = 0; k < count; ++k)
                for (int64_t i = 0; i < side; ++i) {
                    float* p = param + (wide ? i * columns + first + k : (first + k) * columns + i);
                    *p += own * block[k * width + i] + even * result[k * width + i] - decay * *p;
                }
        }
    }
};

}  // namespace l2l_opt::ISA
