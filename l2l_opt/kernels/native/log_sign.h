// LSTM on log_sign gradients (lstm.py).
#pragma once

#include "step.h"

namespace l2l_opt::ISA {

struct LogSign : KindOf<LogSignLayout> {
    static constexpr bool KEEPS_SQUARES = false, NEEDS_SUMS = false, LEAVES_DIRECTIONS = false;
    using KindOf::KindOf;

    void begin() {}

    TARGET void features(const StepTensor&, const Shared&, const vec* gradient, float* in, const Spot&) {
        for (int v = 0; v < V; ++v) {
            vec g = gradient[v], size = magnitude(g);
            vec sign = g > 0.0f ? all(1.0f) : all(-1.0f);
            store(in + v * W, at_least(logarithm(at_least(size, options->exp_minus_p)) / options->p, -1.0f));
            store(in + TILE + v * W, size >= options->exp_minus_p ? sign : g * options->exp_p);
        }
    }

    TARGET void output(const Shared&, const float* out, vec* updates) {
        for (int v = 0; v < V; ++v) updates[v] = options->output_scale * load(out + v * W);
    }
};

}  // namespace l2l_opt::ISA
