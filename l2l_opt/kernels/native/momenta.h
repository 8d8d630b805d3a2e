// What the compact and the scale-free rule have in common: averages of gradients over the root of an average of squares.
#pragma once

#include "averages.h"
#include "numbers.h"
#include "step.h"

namespace l2l_opt::ISA {

template <typename Layout>
struct Momenta : KindOf<Layout> {
    static constexpr bool KEEPS_SQUARES = true, NEEDS_SUMS = true;
    using KindOf<Layout>::arrays;
    using KindOf<Layout>::problem;
    float over_correction[4] = {}, eps = 0;
    uint32_t seed = 0;
    bool keeps = true;  // what features() finds
    alignas(64) float momenta[3 * TILE] = {}, log_root[TILE] = {};

    using KindOf<Layout>::KindOf;

    TARGET void read_moments(float* moments, const StepTensor& tensor, const Spot& spot) const {
        gather_averages(problem, moments, tensor.averages, 3, spot);
        gather_averages(problem, moments + 3 * TILE, tensor.squares, 1, spot);
    }

    // The next moments of W coordinates.
    INLINE void advance(const float* betas, float* here, vec g) {
        for (int k = 0; k < 3; ++k) store(here + k * TILE, load(here + k * TILE) * betas[k] + g * (1.0f - betas[k]));
        store(here + 3 * TILE, load(here + 3 * TILE) * betas[3] + g * g * (1.0f - betas[3]));
    }

    // Sums of what the next moments come to: p^2, r^2, (m_.9 / r)^2, (m_.99 / r)^2, (g / r)^2, (m_.9 before / r)^2, their
    // product, g^2, one where g is not 0, one where v is not 0.
    TARGET void prepare(const StepTensor& tensor, const vec* gradient, vec (&sums)[SUMS], const Spot& spot) {
        alignas(64) float moments[4 * TILE], param[TILE];
        read_moments(moments, tensor, spot);
        ISA::read(param, tensor.param, spot);
        for (int v = 0; v < V; ++v) {
            vec g = gradient[v], past = load(moments + TILE + v * W);
            float* here = moments + v * W;
            advance(arrays->betas, here, g);
            vec r = root(load(here + 3 * TILE) * over_correction[3]) + eps, over_r = 1.0f / r;
            vec middle = load(here + TILE) * over_correction[1] * over_r;
            vec slow = load(here + 2 * TILE) * over_correction[2] * over_r;
            vec p = load(param + v * W), ratio = g * over_r;
            past *= over_r;
            // What lies beyond the tensor has gradient and moments of zero, and adds eps to the sum of r alone.
            vec one = all(1.0f), none = all(0.0f);
            vec terms[SUMS] = {
                p * p, r * r, middle * middle, slow * slow, ratio * ratio, past * past, ratio * past, g * g,
                g != 0.0f ? one : none, load(here + 3 * TILE) > 0.0f ? one : none,
            };
            for (int k = 0; k < SUMS; ++k) sums[k] += terms[k];
        }
    }

    TARGET void features(const StepTensor& tensor, const Shared& shared, const vec* gradient, float* in, const Spot& spot) {
        alignas(64) float moments[4 * TILE];
        read_moments(moments, tensor, spot);
        ISA::read(in + 4 * TILE, tensor.param, spot);
        for (int v = 0; v < V; ++v) {
            float *x = in + v * W, *here = moments + v * W;
            advance(arrays->betas, here, gradient[v]);
            vec r = root(load(here + 3 * TILE) * over_correction[3]) + eps, over_r = 1.0f / r;
            store(x, within(gradient[v] * over_r, 5.0f));
            for (int k = 0; k < 3; ++k) {
                vec ratio = load(here + k * TILE) * over_correction[k] * over_r;
                store(momenta + k * TILE + v * W, ratio);
                store(x + (1 + k) * TILE, within(ratio, 5.0f));
            }
            store(x + 4 * TILE, within(load(x + 4 * TILE) * shared.over_rms, 5.0f));
            vec relative = logarithm(r * shared.over_root_rms + 1e-3f);
            store(x + 5 * TILE, relative);
            store(log_root + v * W, relative);
        }
        if (!keeps) return;
        keep_averages(problem, tensor.averages, 0, moments, 3, spot, seed);
        keep_averages(problem, tensor.squares, 3, moments + 3 * TILE, 1, spot, seed);
    }
};

}  // namespace l2l_opt::ISA
