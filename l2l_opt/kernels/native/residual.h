// The compact rule (compact.py).
#pragma once

#include "momenta.h"

namespace l2l_opt::ISA {

struct Residual : Momenta<ResidualLayout> {
    static constexpr bool LEAVES_DIRECTIONS = false;
    using Momenta::Momenta;

    void start(const StepTensor&) const {}

    TARGET void begin() {
        const float over[4] = {given->over_brief, given->over_middle, given->over_slow, given->over_square};
        std::copy(over, over + 4, over_correction);
        eps = options->eps;
        seed = seed_of_step(given->step + 1);
    }

    TARGET void combine(const StepTensor& tensor, Shared& shared, Heads&) const {
        const float rms = shared.rms(0, tensor.count), root_rms = shared.rms(1, tensor.count);
        const float fraction = given->fraction, param_rms = std::max(rms, options->smallest_rms);
        const float context[7] = {
            fraction, fraction * fraction, std::sqrt(fraction), std::tanh(given->step / 10 - 1), 0.3f * std::log(param_rms),
            2 * shared.rms(3, tensor.count) - 1, 2 * shared.rms(2, tensor.count) - 1,
        };
        const int64_t count = problem.biases();
        shared.biases.assign(arrays->biases, arrays->biases + count);
        for (int64_t b = 0; b < count; ++b)
            for (int k = 0; k < 7; ++k) shared.biases[b] += arrays->context_weight[7 * b + k] * context[k];
        shared.eps = options->eps;
        const float reach = std::max(std::min(rms, options->growth * given->first_rms), options->floor);
        shared.size = options->output_scale * (1 + std::cos(PI * fraction)) / 2 * given->shrinkage * reach;
        shared.over_rms = 1 / param_rms;
        shared.over_root_rms = 1 / std::max(root_rms, options->eps);
    }

    TARGET void output(const Shared& shared, const float* out, vec* updates) {
        for (int v = 0; v < V; ++v) {
            const float* here = momenta + v * W;
            vec brief = 0.5f + 0.5f * tanh(load(out + v * W)), lasting = 1.0f - brief;
            vec direction = brief * (brief * load(here) + 2.0f * lasting * load(here + TILE))
                + lasting * lasting * load(here + 2 * TILE);
            updates[v] = -shared.size * within(direction, 3.0f) * exponential(1.5f * tanh(load(out + TILE + v * W)));
        }
    }
};

}  // namespace l2l_opt::ISA
