// RNNProp (rnnprop.py).
#pragma once

#include "averages.h"
#include "step.h"

namespace l2l_opt::ISA {

struct Ratios : KindOf<RatiosLayout> {
    static constexpr bool KEEPS_SQUARES = true, NEEDS_SUMS = false, LEAVES_DIRECTIONS = false;
    using KindOf::KindOf;

    uint32_t seed = 0;

    TARGET void begin() { seed = seed_of_step(given->step + 1); }

    TARGET void features(const StepTensor& tensor, const Shared&, const vec* gradient, float* in, const Spot& spot) {
        const float beta = options->beta, over_correction = given->over_correction;
        const float *weight = arrays->embedding_weight, *bias = arrays->embedding_bias;
        alignas(64) float average[TILE], square[TILE];
        gather_averages(problem, average, tensor.averages, 1, spot);
        gather_averages(problem, square, tensor.squares, 1, spot);
        for (int v = 0; v < V; ++v) {
            vec g = gradient[v];
            vec m = load(average + v * W) * beta + g * (1.0f - beta);
            vec s = load(square + v * W) * beta + g * g * (1.0f - beta);
            store(average + v * W, m);
            store(square + v * W, s);
            vec over_root = 1.0f / root(s * over_correction + options->eps_squared);
            vec first = g * over_root, second = m * over_correction * over_root;
            for (int64_t k = 0; k < problem.inputs; ++k) {
                vec x = weight[2 * k] * first + weight[2 * k + 1] * second + bias[k];
                store(in + k * TILE + v * W, x > 0.0f ? x : exponential(at_least(x, -80.0f)) - 1.0f);
            }
        }
        keep_averages(problem, tensor.averages, 0, average, 1, spot, seed);
        keep_averages(problem, tensor.squares, 1, square, 1, spot, seed);
    }

    TARGET void output(const Shared&, const float* out, vec* updates) {
        for (int v = 0; v < V; ++v) updates[v] = -options->output_scale * tanh(load(out + v * W));
    }
};

}  // namespace l2l_opt::ISA
