// What perceptrons read of a tile of coordinates (moments.py, mlp.py, celo2.py), and the moments behind it.
#pragma once

#include "factored.h"
#include "numbers.h"

namespace l2l_opt::ISA {

struct MLP {
    static constexpr const char* KIND = "mlp";
    static constexpr int FEATURES = 28, TIMES = 11;
    static constexpr bool CLIPS = false, POINTS = false;
};

struct Celo2 {
    static constexpr const char* KIND = "celo2";
    static constexpr int FEATURES = 30, TIMES = 0;
    static constexpr bool CLIPS = true, POINTS = true;
};

// One tensor of one particle in a step, and the features of its tiles.
template <typename Kind>
struct PerceptronFeatures {
    const PerceptronCall& call;
    const PerceptronOptions& options;
    const PerceptronTensor& tensor;
    const Axes axes;
    Factored& factored;
    const bool is_factored;
    const int64_t particle, set;
    const float* const betas;

    PerceptronFeatures(const PerceptronCall& call, const PerceptronTensor& tensor, int64_t particle, Factored& factored)
        : call(call), options(*call.options), tensor(tensor), axes(tensor.axes.address), factored(factored),
          is_factored(tensor.columns.address != nullptr), particle(particle), set(call.sizes->sets > 1 ? particle : 0),
          betas(call.betas + set * BETAS) {}

    TARGET void read_gradient(const Spot& spot, float* tile) const {
        read(tile, tensor.gradient, spot);
        for (int v = 0; v < V; ++v) {
            vec g = load(tile + v * W) * call.update->sign;
            store(tile + v * W, Kind::CLIPS ? within(g, options.most_gradient) : g);
        }
    }

    // Features of a tile, [FEATURES][TILE]; brings moments up to date first where `advances`. Those of rows and columns
    // alone are left out where they are not asked for.
    TARGET void features(const Spot& spot, bool advances, float* x) const {
        alignas(64) float g[TILE], moments[7 * TILE], factors[2 * FACTORS * TILE], shared[4 * FACTORS * TILE];
        float *m = moments, *square = moments + FACTORS * TILE, *own = square + TILE;
        read_gradient(spot, g);
        gather<float>(m, tensor.averages, 0, FACTORS, spot);
        gather<float>(square, tensor.square, 0, 1, spot);
        if (!is_factored) gather<float>(own, tensor.rows, 0, FACTORS, spot);
        if (advances) {
            advance(g, m, square, own);
            scatter<float>(tensor.averages, 0, m, FACTORS, spot);
            scatter<float>(tensor.square, 0, square, 1, spot);
            if (!is_factored) scatter<float>(tensor.rows, 0, own, FACTORS, spot);
        }
        if (is_factored) spread_sides(spot, !advances, factors, shared);
        else factor_coordinates(own, factors, shared);
        fill(spot, g, m, square, factors, shared, x);
    }

    TARGET void advance(const float* g, float* m, float* square, float* own) const {
        for (int v = 0; v < V; ++v) {
            vec gradient = load(g + v * W), squared = gradient * gradient;
            for (int k = 0; k < FACTORS; ++k) {
                float* at = m + k * TILE + v * W;
                store(at, load(at) * betas[k] + gradient * (1 - betas[k]));
            }
            store(square + v * W, load(square + v * W) * betas[FACTORS] + squared * (1 - betas[FACTORS]));
            if (is_factored) continue;
            for (int k = 0; k < FACTORS; ++k) {
                float* at = own + k * TILE + v * W;
                const float beta = betas[FACTORS + 1 + k];
                store(at, load(at) * beta + (squared + LEAST_SQUARE) * (1 - beta));
            }
        }
    }

    // Of the rows and columns of a tile's coordinates: factors of gradients, twice, and rows, columns, one over their roots.
    TARGET void spread_sides(const Spot& spot, bool all_of_them, float* factors, float* shared) const {
        Segment segments[TILE];
        const int count = axes.segments(spot.at, spot.n, segments);
        const Side* sides[2] = {&factored.rows, &factored.columns};
        const int64_t strides[2] = {axes.last().row_stride, axes.last().column_stride};
        for (int side = 0; side < 2; ++side)
            for (int k = 0; k < FACTORS; ++k) {
                const Side& from = *sides[side];
                const int64_t start = k * from.count;
                auto to = [&](float* tile, const float* values) {
                    spread(tile, values + start, strides[side], segments, count, side == 0, spot.n);
                };
                alignas(64) float own[TILE];
                to(side ? own : factors + k * TILE, from.factor.data());
                if (side) for (int v = 0; v < V; ++v) {
                    vec both = load(factors + k * TILE + v * W) * load(own + v * W);
                    store(factors + k * TILE + v * W, both);
                    store(factors + (FACTORS + k) * TILE + v * W, both);
                }
                if (!all_of_them) continue;
                to(shared + (side * FACTORS + k) * TILE, from.squares);
                to(shared + ((2 + side) * FACTORS + k) * TILE, from.over_root.data());
            }
    }

    TARGET void factor_coordinates(const float* own, float* factors, float* shared) const {
        for (int at = 0; at < FACTORS * TILE; at += W) {
            vec squares = load(own + at), over = 1.0f / root(squares + 1e-8f);
            store(factors + at, 1.0f / root(squares + LEAST_MEAN));
            store(factors + FACTORS * TILE + at, 1.0f / root(squares + 1e-6f));
            store(shared + at, squares);
            store(shared + FACTORS * TILE + at, squares);
            store(shared + 2 * FACTORS * TILE + at, over);
            store(shared + 3 * FACTORS * TILE + at, over);
        }
    }

    TARGET void fill(
        const Spot& spot, const float* g, const float* m, const float* square, const float* factors, const float* shared, float* x
    ) const {
        alignas(64) float param[TILE];
        read(param, tensor.param, spot);
        // Of a vector `celo2` reads none of those made of rows and columns.
        const float shown = Kind::POINTS && !is_factored ? 0.0f : 1.0f;
        for (int v = 0; v < V; ++v) {
            const int at = v * W;
            float* to = x + at;
            auto put = [&](vec value) TARGET { store(to, value); to += TILE; };
            vec gradient = load(g + at), variance = load(square + at), over = 1.0f / root(variance + options.eps);
            put(gradient);
            if constexpr (Kind::CLIPS) put(within(gradient, options.clipped));
            put(load(param + at));
            for (int k = 0; k < FACTORS; ++k) put(load(m + k * TILE + at));
            put(variance);
            for (int k = 0; k < FACTORS; ++k) put(load(m + k * TILE + at) * over);
            put(over);
            for (int k = 0; k < FACTORS; ++k) put(gradient * load(factors + k * TILE + at));
            if constexpr (Kind::CLIPS) put(gradient * over);
            for (int k = 0; k < 4 * FACTORS; ++k) put(load(shared + k * TILE + at) * shown);
            for (int k = 0; k < FACTORS; ++k) put(load(m + k * TILE + at) * load(factors + (FACTORS + k) * TILE + at) * shown);
        }
    }

    // Tiles of a part, one after the other.
    struct Spots {
        int64_t particle, first, last, count;
        struct Iterator {
            int64_t particle, tile, count;
            Spot operator*() const { return {particle, tile * TILE, static_cast<int>(std::min<int64_t>(TILE, count - tile * TILE))}; }
            bool operator!=(const Iterator& other) const { return tile != other.tile; }
            void operator++() { ++tile; }
        };
        Iterator begin() const { return {particle, first, count}; }
        Iterator end() const { return {particle, last, count}; }
    };
    Spots spots(Part part) const { return {particle, part.first, part.last, tensor.count}; }
};

}  // namespace l2l_opt::ISA
