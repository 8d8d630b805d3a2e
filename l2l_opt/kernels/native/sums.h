// Sums over coordinates that derivatives of weights and biases are made of.
#pragma once

#include "forward.h"

namespace l2l_opt::ISA {

// Where the rows of one tile lie in a block, so that products over a block read them again from the cache.
struct BlockRows {
    std::vector<int64_t> in, gates;
    int64_t top, d_out, size;
    explicit BlockRows(const Problem& problem) : top(0) {
        for (int layer = 0; layer < problem.layers; ++layer) {
            in.push_back(top * TILE);
            top += padded(problem.inputs_of(layer));
            gates.push_back(top * TILE);
            top += 4 * problem.hidden;
        }
        top *= TILE;
        d_out = top + padded(problem.hidden) * TILE;
        size = d_out + padded(problem.outputs) * TILE;
    }
};

// Sums over coordinates, one number a lane, until they are moved to a thread's totals: of d_gates and d_outputs times inputs
// and of these alone.
class Sums {
public:
    Sums(const Problem& problem, Totals& totals)
        : problem_(problem), totals_(totals), starts_(starts_of(problem)), products_(starts_.back()), biases_(problem.biases() * W) {}

    // Of a layer's gates, or of the outputs behind all layers.
    float* biases(int64_t layer) { return biases_.begin() + 4 * problem_.hidden * layer * W; }

    // Before what belongs to a particle.
    TARGET void begin(int64_t particle) {
        if (particle_ >= 0 && particle != particle_ && problem_.weight_sets > 1) move_products();
        particle_ = particle;
    }

    // Products over a block of tiles.
    TARGET void add(const BlockRows& rows, const float* block, int tiles) {
        const int layers = problem_.layers, hidden = problem_.hidden;
        for (int at = 0; at < layers; ++at)
            add_products(
                layer(at), block + rows.gates[at], 4 * hidden, rows.size, block + rows.in[at], padded(problem_.inputs_of(at)),
                rows.size, tiles
            );
        add_products(
            layer(layers), block + rows.d_out, padded(problem_.outputs), rows.size, block + rows.top, padded(hidden),
            rows.size, tiles
        );
    }

    // Behind the last coordinate of a tensor in this part.
    TARGET void move_biases(int64_t tensor) {
        const int64_t hidden = problem_.hidden, gates = 4 * hidden * problem_.layers;
        float *sums = biases_.begin(), *total = totals_.bias(tensor, particle_);
        for (int64_t layer = 0; layer < problem_.layers; ++layer)
            for (int64_t r = 0; r < 4 * hidden; ++r)
                total[4 * hidden * layer + r % 4 * hidden + r / 4] += sum(load(sums + (4 * hidden * layer + r) * W));
        for (int64_t o = gates; o < problem_.biases(); ++o) total[o] += sum(load(sums + o * W));
        std::memset(sums, 0, sizeof(float) * problem_.biases() * W);
    }

    TARGET void move_products() {
        if (particle_ < 0) return;
        const int hidden = problem_.hidden;
        for (int at = 0; at < problem_.layers; ++at) {
            const int inputs = problem_.inputs_of(at);
            float* total = totals_.layer(particle_, at);
            for (int r = 0; r < 4 * hidden; ++r)
                for (int k = 0; k < inputs; ++k)
                    total[(r % 4 * hidden + r / 4) * inputs + k] +=
                        sum(load(layer(at) + (static_cast<int64_t>(r) * padded(inputs) + k) * W));
        }
        float* total = totals_.layer(particle_, problem_.layers);
        for (int o = 0; o < problem_.outputs; ++o)
            for (int j = 0; j < hidden; ++j)
                total[o * hidden + j] += sum(load(layer(problem_.layers) + (o * padded(hidden) + j) * W));
        std::memset(products_.begin(), 0, sizeof(float) * starts_.back());
    }

private:
    static std::vector<int64_t> starts_of(const Problem& problem) {
        std::vector<int64_t> starts{0};
        for (int layer = 0; layer < problem.layers; ++layer)
            starts.push_back(starts.back() + 4 * problem.hidden * padded(problem.inputs_of(layer)) * W);
        starts.push_back(starts.back() + padded(problem.outputs) * padded(problem.hidden) * W);
        return starts;
    }
    float* layer(int layer) { return products_.begin() + starts_[layer]; }

    const Problem& problem_;
    Totals& totals_;
    std::vector<int64_t> starts_;
    Workspace products_, biases_;
    int64_t particle_ = -1;
};

// part(problem, packed, tensors, own, totals) of every thread's own, whose totals are added to d_weights and the tensors' d_bias.
template <typename Tensor>
static void differentiate(
    void (*part)(const Problem&, const Packed&, const Tensor*, Part, Totals&), const Problem& problem, const Packed& packed,
    const Tensor* tensors, float* d_weights
) {
    std::vector<Totals> totals(problem.threads, Totals(problem));
    over_threads(problem, tensors, [&](Part own, int thread) { part(problem, packed, tensors, own, totals[thread]); });
    for (auto& total : totals) total.add_to(d_weights, tensors);
}

}  // namespace l2l_opt::ISA
