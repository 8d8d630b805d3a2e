// Perceptrons at every coordinate (mlp.py, celo2.py): a step in place of one tensor after the other.
//
// Squares are summed by row and by column; moments brought up to date and squares of features summed; the features' scales
// folded into the first layer; then features, network and update, tile by tile.
#pragma once

#include <string_view>

#include "perceptron_features.h"

namespace l2l_opt::ISA {

// weight [outputs][inputs] of ROWS outputs on a tile of inputs.
template <int ROWS>
INLINE void dense_rows(const float* weight, const float* bias, int inputs, const float* in, float* out, bool rectified) {
    vec sums[ROWS][V];
    for (int r = 0; r < ROWS; ++r)
        for (int v = 0; v < V; ++v) sums[r][v] = all(bias[r]);
    for (int k = 0; k < inputs; ++k) {
        vec x[V];
        for (int v = 0; v < V; ++v) x[v] = load(in + k * TILE + v * W);
        for (int r = 0; r < ROWS; ++r)
            for (int v = 0; v < V; ++v) sums[r][v] += weight[r * inputs + k] * x[v];
    }
    for (int r = 0; r < ROWS; ++r)
        for (int v = 0; v < V; ++v) store(out + r * TILE + v * W, rectified ? at_least(sums[r][v], 0.0f) : sums[r][v]);
}

TARGET static void dense(
    const float* weight, const float* bias, int inputs, int outputs, const float* in, float* out, bool rectified
) {
    int row = 0;
    for (; row + 4 <= outputs; row += 4)
        dense_rows<4>(weight + row * inputs, bias + row, inputs, in, out + row * TILE, rectified);
    for (; row < outputs; ++row) dense_rows<1>(weight + row * inputs, bias + row, inputs, in, out + row * TILE, rectified);
}

// One tensor on its way through a step.
template <typename Kind>
struct PerceptronStep : PerceptronFeatures<Kind> {
    using Base = PerceptronFeatures<Kind>;
    using Base::axes, Base::betas, Base::call, Base::factored, Base::features, Base::is_factored, Base::options, Base::particle,
        Base::read_gradient, Base::set, Base::spots, Base::tensor;
    double sums[Kind::FEATURES] = {};
    std::vector<float> weight, bias;  // of the first layer, for features of this tensor as they are

    using Base::Base;

    float& clock() const { return *tensor.step.template at<float>(particle); }

    // Weight, then bias of each layer.
    const float* numbers(int index) const { return call.weights[index] + set * call.sizes->numbers; }

    // Whether gradients, their squares as they are kept, and parameters of a part are finite.
    TARGET bool is_finite(Part part) const {
        vec nothing = {};
        alignas(64) float gradient[TILE], raw[TILE], param[TILE];
        for (Spot spot : spots(part)) {
            read_gradient(spot, gradient);
            read(raw, tensor.gradient, spot);
            read(param, tensor.param, spot);
            for (int v = 0; v < V; ++v) {
                vec g = load(gradient + v * W);
                nothing += (g * g + load(raw + v * W) + load(param + v * W)) * 0.0f;
            }
        }
        return sum(nothing) == 0.0f;
    }

    TARGET void sum_squares(Part part, double* rows, double* columns) const {
        alignas(64) float tile[TILE];
        Segment segments[TILE];
        for (Spot spot : spots(part)) {
            read_gradient(spot, tile);
            for (int v = 0; v < V; ++v) store(tile + v * W, load(tile + v * W) * load(tile + v * W));
            const int count = axes.segments(spot.at, spot.n, segments);
            add_squares(rows, tile, axes.last().row_stride, segments, count, true);
            add_squares(columns, tile, axes.last().column_stride, segments, count, false);
        }
    }

    // Of a feature that is one for each row or column the sum is not made here.
    static constexpr int FIRST_SHARED = Kind::FEATURES - 5 * FACTORS, LAST_SHARED = Kind::FEATURES - FACTORS;

    TARGET void advance_and_sum(Part part, double* totals) const {
        alignas(64) float x[Kind::FEATURES * TILE];
        vec lanes[Kind::FEATURES] = {};
        int since = 0;
        auto flush = [&]() TARGET {
            for (int k = 0; k < Kind::FEATURES; ++k) {
                totals[k] += sum(lanes[k]);
                lanes[k] = vec{};
            }
            since = 0;
        };
        for (Spot spot : spots(part)) {
            features(spot, true, x);
            // Beyond its coordinates a tile has gradients of zero, of which some features are not.
            if (spot.n < TILE)
                for (int k = 0; k < Kind::FEATURES; ++k) std::memset(x + k * TILE + spot.n, 0, sizeof(float) * (TILE - spot.n));
            for (int k = 0; k < Kind::FEATURES; ++k) {
                if (is_factored && k >= FIRST_SHARED && k < LAST_SHARED) continue;
                for (int v = 0; v < V; ++v) lanes[k] += load(x + k * TILE + v * W) * load(x + k * TILE + v * W);
            }
            if (++since == 64) flush();
        }
        flush();
    }

    // The first layer for features as they are: their scales times its weights, and what the clock adds to its biases.
    void fold() {
        if (is_factored) {
            const Side* sides[2] = {&factored.rows, &factored.columns};
            for (int k = 0; k < 4 * FACTORS; ++k) {
                const Side& side = *sides[k / FACTORS % 2];
                const float* values = k < 2 * FACTORS ? side.squares : side.over_root.data();
                sums[FIRST_SHARED + k] = side.sum_of_squares(values + k % FACTORS * side.count);
            }
        }
        const int64_t units = call.sizes->hidden, inputs = Kind::FEATURES + Kind::TIMES;
        weight.resize(units * Kind::FEATURES);
        bias.assign(numbers(1), numbers(1) + units);
        for (int64_t u = 0; u < units; ++u) {
            const float* from = numbers(0) + u * inputs;
            for (int k = 0; k < Kind::FEATURES; ++k)
                weight[u * Kind::FEATURES + k] = from[k]
                    / std::sqrt(options.input_eps + static_cast<float>(sums[k] / static_cast<double>(tensor.count)));
            for (int k = 0; k < Kind::TIMES; ++k) bias[u] += from[Kind::FEATURES + k] * std::tanh(clock() / call.timescales[k] - 1);
        }
    }

    // Outputs of the network, [outputs][TILE]; hidden: two buffers of [units][TILE].
    TARGET const float* network(const Spot& spot, float* x, float* hidden) const {
        const int units = static_cast<int>(call.sizes->hidden), layers = static_cast<int>(call.sizes->layers);
        float *from = hidden, *to = hidden + static_cast<int64_t>(std::max(units, 2)) * TILE;
        features(spot, false, x);
        dense(weight.data(), bias.data(), Kind::FEATURES, units, x, from, true);
        for (int layer = 1; layer <= layers; ++layer) {
            const bool last = layer == layers;
            const int outputs = last ? static_cast<int>(call.sizes->outputs) : units;
            dense(numbers(2 * layer), numbers(2 * layer + 1), units, outputs, from, to, !last);
            std::swap(from, to);
        }
        return from;
    }

    // Adds lr times updates, or leaves directions for their root mean square to be known first, whose squares it returns.
    // `bad` becomes 1 where an update is not finite, which moves no coordinate of its tile.
    TARGET double move(Part part, float* directions, char& bad) const {
        const int64_t units = std::max<int64_t>(call.sizes->hidden, 2);
        Workspace space(Kind::FEATURES * TILE + 2 * units * TILE);
        float *x = space.begin(), *hidden = x + Kind::FEATURES * TILE;
        double total = 0;
        for (Spot spot : spots(part)) {
            const float* out = network(spot, x, hidden);
            if constexpr (Kind::POINTS) {
                std::memcpy(directions + spot.at, out, sizeof(float) * spot.n);
                vec squares = {};
                int k = 0;
                for (; k + W <= spot.n; k += W) squares += load(out + k) * load(out + k);
                for (total += sum(squares); k < spot.n; ++k) total += static_cast<double>(out[k]) * out[k];
            } else {
                alignas(64) float updates[TILE];
                for (int v = 0; v < V; ++v) {
                    vec size = exponential(within(options.magnitude_scale * load(out + TILE + v * W), 80.0f));
                    store(updates + v * W, -options.output_scale * load(out + v * W) * size);
                }
                if (!add(spot, updates)) bad = 1;
            }
        }
        return total;
    }

    TARGET bool add(const Spot& spot, const float* updates) const {
        vec own[V];
        for (int v = 0; v < V; ++v) own[v] = load(updates + v * W);
        return ISA::add(*call.update, tensor, spot, own, call.update->lr);
    }

    // lr times directions of the root mean square that the schedule sets.
    TARGET void point(Part part, const float* directions, double squares, char& bad) const {
        const float mean = static_cast<float>(squares / static_cast<double>(tensor.count));
        const float size = -scheduled() / std::sqrt(options.input_eps + mean);
        alignas(64) float updates[TILE];
        const Rows rows{const_cast<char*>(reinterpret_cast<const char*>(directions)), 0, 0};
        for (Spot spot : spots(part)) {
            gather<float>(updates, rows, 0, 1, spot);
            for (int v = 0; v < V; ++v) store(updates + v * W, size * load(updates + v * W));
            if (!add(spot, updates)) bad = 1;
        }
    }

    float scheduled() const {
        const float planned = call.num_steps[particle], step = clock(), warm_up = options.warm_up;
        if (planned < 0) return options.output_scale;
        const float begun = std::min((step + 1) / std::max(warm_up * planned, 1.0f), 1.0f);
        const float rest = std::max((std::min(step / planned, 1.0f) - warm_up) / (1 - warm_up), 0.0f);
        return options.output_scale * begun * (1 + std::cos(3.14159265358979f * rest)) / 2;
    }
};

// Sums of squares by row and by column, each thread's added to the others'.
template <typename Kind>
static void factor(PerceptronStep<Kind>& step, int64_t tiles, int threads) {
    Factored& factored = step.factored;
    factored.start(
        step.axes, step.tensor.rows.template at<float>(step.particle), step.tensor.columns.template at<float>(step.particle)
    );
    std::vector<std::vector<double>> rows(threads), columns(threads);
    in_parts(tiles, threads, [&](Part part, int thread) {
        rows[thread].assign(factored.rows.count, 0.0);
        columns[thread].assign(factored.columns.count, 0.0);
        step.sum_squares(part, rows[thread].data(), columns[thread].data());
    });
    for (int thread = 0; thread < threads; ++thread) {
        for (int64_t e = 0; e < factored.rows.count; ++e) factored.rows.sums[e] += rows[thread][e];
        for (int64_t e = 0; e < factored.columns.count; ++e) factored.columns.sums[e] += columns[thread][e];
    }
    factored.finish(step.axes, step.betas + FACTORS + 1);
}

template <typename Kind>
static Flag step_tensor(PerceptronStep<Kind> step, int most_threads, std::vector<float>& directions) {
    const PerceptronCall& call = step.call;
    const PerceptronTensor& tensor = step.tensor;
    const int64_t tiles = (tensor.count + TILE - 1) / TILE;
    const int threads = worthwhile(most_threads, tiles, TILE);
    std::vector<char> bad(threads, 0);
    auto is_bad = [&] { return std::count(bad.begin(), bad.end(), 1) > 0; };
    if (call.update->guarded) {
        in_parts(tiles, threads, [&](Part part, int thread) { bad[thread] = !step.is_finite(part); });
        if (!call.rule_is_finite || is_bad()) return UNMOVED;
    }
    if (tensor.count) {
        if (step.is_factored) factor(step, tiles, threads);
        std::vector<std::vector<double>> sums(threads, std::vector<double>(Kind::FEATURES, 0.0));
        in_parts(tiles, threads, [&](Part part, int thread) { step.advance_and_sum(part, sums[thread].data()); });
        for (auto& own : sums)
            for (int k = 0; k < Kind::FEATURES; ++k) step.sums[k] += own[k];
        step.fold();
        if (Kind::POINTS) directions.resize(std::max<size_t>(directions.size(), tensor.count));
        std::vector<double> squares(threads, 0.0);
        in_parts(tiles, threads, [&](Part part, int thread) {
            squares[thread] = step.move(part, directions.data(), bad[thread]);
        });
        double total = 0;
        for (double own : squares) total += own;
        if constexpr (Kind::POINTS)
            in_parts(tiles, threads, [&](Part part, int thread) { step.point(part, directions.data(), total, bad[thread]); });
    }
    step.clock() += 1;
    return is_bad() ? PARTLY_MOVED : MOVED;
}

template <typename Kind>
static void step_kind_of_perceptron(const PerceptronCall& call, const PerceptronTensor* tensors, Flag* flags) {
    std::vector<Factored> factored(call.sizes->threads);
    std::vector<std::vector<float>> directions(call.sizes->threads);
    auto run = [&](const PerceptronTensor& tensor, int64_t particle, int threads, int thread) {
        return step_tensor(PerceptronStep<Kind>(call, tensor, particle, factored[thread]), threads, directions[thread]);
    };
    step_each(tensors, call.sizes->tensors, call.sizes->particles, call.sizes->threads, TILE, flags, run);
}

static void step_perceptrons(const char* kind, const PerceptronCall& call, const PerceptronTensor* tensors, Flag* flags) {
    const std::string_view name = kind;
    if (name == MLP::KIND) step_kind_of_perceptron<MLP>(call, tensors, flags);
    else if (name == Celo2::KIND) step_kind_of_perceptron<Celo2>(call, tensors, flags);
}

}  // namespace l2l_opt::ISA
