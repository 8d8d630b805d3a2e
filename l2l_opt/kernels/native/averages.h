// Moving averages between steps, in float32 or in bfloat16, to which they are rounded at random (optimizer/rounding.py).
#pragma once

#include "lstm.h"

namespace l2l_opt::ISA {

typedef uint32_t uvec __attribute__((vector_size(4 * W)));

// Spreads what differs in any bit over all.
template <typename Word>
INLINE Word mix(Word word) {
    word ^= word >> 16;
    word *= 0x85ebca6bu;
    word ^= word >> 13;
    word *= 0xc2b2ae35u;
    return word ^ (word >> 16);
}

// Where the random bits of a step begin; the first is number 1.
INLINE uint32_t seed_of_step(float step) { return mix(static_cast<uint32_t>(step)); }

TARGET static void gather_averages(const Problem& problem, float* tile, const Rows& source, int rows, const Spot& spot) {
    if (problem.averages_are_bfloat16) gather<bfloat16>(tile, source, 0, rows, spot);
    else gather<float>(tile, source, 0, rows, spot);
}

// Rows that are kept behind one another, of which the first is such a one among all averages of the tensor.
TARGET static void keep_averages(
    const Problem& problem, const Rows& target, int first_row, float* tile, int rows, const Spot& spot, uint32_t seed
) {
    if (!problem.averages_are_bfloat16) return scatter<float>(target, 0, tile, rows, spot);
    uvec lanes;
    for (int lane = 0; lane < W; ++lane) lanes[lane] = lane;
    for (int row = 0; row < rows; ++row) {
        const uint32_t begin = static_cast<uint32_t>((first_row + row) * target.stride + spot.at);
        for (int v = 0; v < V; ++v) {
            float* at = tile + row * TILE + v * W;
            ivec bits = bits_of(load(at));
            ivec random = (ivec)(mix((lanes + (begin + v * W)) ^ seed) & 0xffffu);
            // What is larger than bfloat16 holds, infinite or no number is cut.
            bits = (bits & 0x7fffffff) < 0x7f7f0000 ? bits + random : bits;
            store(at, of_bits(bits & ~0xffff));
        }
    }
    scatter<bfloat16>(target, 0, tile, rows, spot);
}

}  // namespace l2l_opt::ISA
