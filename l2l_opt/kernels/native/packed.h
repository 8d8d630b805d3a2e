// Weights as the passes read them, and sums of their derivatives as the caller lays them out.
#pragma once

#include <cmath>
#include <vector>

#include "layouts.h"

namespace l2l_opt {

// Gates other than the third are sigmoids, which take their argument times -1 / log 2.
constexpr float GATE_SCALES[4] = {-1.44269504f, -1.44269504f, 1.0f, -1.44269504f};

constexpr int64_t padded(int64_t rows) { return (rows + 3) / 4 * 4; }

inline bool finite(const float* values, int64_t count) {
    float total = 0;
    for (int64_t at = 0; at < count; ++at) total += std::fabs(values[at]);
    return std::isfinite(total);
}

// Weights in the orders in which the passes read them, for each set: a row of `by_unit` is one unit's four gates for
// one input, times GATE_SCALES; `by_input` holds four inputs for one gate, the layer's own hidden state before the layer
// below, and is made for backward passes alone.
class Packed {
public:
    // weights: of each layer [sets, 4 * hidden, inputs] and [sets, 4 * hidden, hidden], then [sets, outputs, hidden].
    Packed(const Problem& problem, const float* const* weights, bool backward)
        : problem_(problem), by_unit_(problem.weights() * problem.weight_sets),
          by_input_(backward ? size_of_inputs() * problem.weight_sets : 0) {
        const int64_t size = problem.outputs * problem.hidden;
        for (int64_t set = 0; set < problem.weight_sets; ++set) {
            for (int64_t layer = 0; layer < problem.layers; ++layer)
                pack_layer(set, layer, weights[2 * layer], weights[2 * layer + 1], backward);
            const float* readout = weights[2 * problem.layers] + set * size;
            std::copy(readout, readout + size, by_unit_.begin() + set * problem.weights() + problem.start_of(problem.layers));
        }
    }
    const float* by_unit(int64_t particle, int64_t layer) const {
        return by_unit_.data() + problem_.set_of(particle) * problem_.weights() + problem_.start_of(layer);
    }
    const float* by_input(int64_t particle, int64_t layer) const {
        return by_input_.data() + problem_.set_of(particle) * size_of_inputs() + start_of_inputs(layer);
    }
    const float* readout(int64_t particle) const { return by_unit(particle, problem_.layers); }
    // Finite, and so are sums over them.
    bool is_finite() const { return finite(by_unit_.data(), static_cast<int64_t>(by_unit_.size())); }

private:
    int64_t start_of_inputs(int64_t layer) const {
        return layer ? 4 * problem_.hidden * (padded(problem_.inputs_of(0)) + (layer - 1) * padded(2 * problem_.hidden)) : 0;
    }
    int64_t size_of_inputs() const { return start_of_inputs(problem_.layers); }

    void pack_layer(int64_t set, int64_t layer, const float* below, const float* own, bool backward) {
        const int64_t hidden = problem_.hidden, inputs = problem_.inputs_of(layer), num_below = inputs - hidden;
        below += set * 4 * hidden * num_below;
        own += set * 4 * hidden * hidden;
        float* by_unit = by_unit_.data() + set * problem_.weights() + problem_.start_of(layer);
        float* by_input = by_input_.data() + set * size_of_inputs() + start_of_inputs(layer);
        for (int64_t g = 0; g < 4; ++g)
            for (int64_t j = 0; j < hidden; ++j)
                for (int64_t k = 0; k < inputs; ++k) {
                    const int64_t row = g * hidden + j;
                    float value = k < num_below ? below[row * num_below + k] : own[row * hidden + k - num_below];
                    const int64_t own_first = k < num_below ? k + hidden : k - num_below;
                    by_unit[(j * inputs + k) * 4 + g] = value * GATE_SCALES[g];
                    if (backward) by_input[(own_first / 4 * 4 * hidden + 4 * j + g) * 4 + own_first % 4] = value;
                }
    }

    Problem problem_;
    std::vector<float> by_unit_, by_input_;
};

// What one thread has summed of the derivatives of weights and biases, as the caller lays them out.
class Totals {
public:
    explicit Totals(const Problem& problem)
        : problem_(problem), weights_(problem.weights() * problem.weight_sets),
          biases_(problem.particles * problem.tensors * problem.biases()) {}
    float* layer(int64_t particle, int64_t layer) {
        return weights_.data() + problem_.set_of(particle) * problem_.weights() + problem_.start_of(layer);
    }
    float* bias(int64_t tensor, int64_t particle) {
        return biases_.data() + (tensor * problem_.particles + particle) * problem_.biases();
    }
    // d_weights: [weight_sets, all layers and the read-out, one after the other].
    template <typename Tensor>
    void add_to(float* d_weights, const Tensor* tensors) {
        for (size_t at = 0; at < weights_.size(); ++at) d_weights[at] += weights_[at];
        for (int64_t tensor = 0; tensor < problem_.tensors; ++tensor)
            for (int64_t particle = 0; particle < problem_.particles; ++particle) {
                float* to = tensors[tensor].d_bias.template at<float>(particle);
                for (int64_t at = 0; at < problem_.biases(); ++at) to[at] += bias(tensor, particle)[at];
            }
    }

private:
    Problem problem_;
    std::vector<float> weights_, biases_;
};

}  // namespace l2l_opt
