// Steps of an optimizer, in place, tensor by tensor: what is not finite found, sums made, then features, network and update.
#pragma once

#include <string_view>

#include "directions.h"
#include "log_sign.h"
#include "ratios.h"
#include "residual.h"
#include "scale_free.h"

namespace l2l_opt::ISA {

// A step of one tensor of one particle, on so many threads.
template <typename Kind>
struct TensorStep {
    const StepCall& call;
    const Packed& packed;
    const StepTensor& tensor;
    const int threads;
    Kind kind;
    Shared shared;
    Heads heads{};

    TensorStep(const StepCall& call, const Packed& packed, const StepTensor& tensor, int64_t particle, int threads)
        : call(call), packed(packed), tensor(tensor), threads(threads), kind(call) {
        kind.read(call, tensor, particle);
    }

    Flag run(Scratch& scratch) {
        if (call.update.guarded && !is_finite()) return UNMOVED;
        if constexpr (Kind::NEEDS_SUMS) kind.start(tensor);
        kind.begin();
        if constexpr (Kind::NEEDS_SUMS) {
            make_sums();
            kind.combine(tensor, shared, heads);
            kind.eps = shared.eps;
        }
        if constexpr (!Kind::LEAVES_DIRECTIONS) {
            return move();
        } else {
            const Flag flag = DirectedStep<Kind>{call, packed, tensor, threads, kind, shared, heads, scratch}.move();
            kind.count_step();
            return flag;
        }
    }

    Spot spot(int64_t tile) const {
        return {kind.particle, tile * TILE, static_cast<int>(std::min<int64_t>(TILE, tensor.count - tile * TILE))};
    }

    // run(tiles of a part, thread), of the tensor's coordinates from the first on.
    template <typename Function>
    void over_tiles(Function run) const {
        const int64_t tiles = (tensor.count + TILE - 1) / TILE;
        in_parts(tiles, worthwhile(threads, tiles, TILE), run);
    }

    // Whether every gradient (and parameter, where the kind reads them) is finite, and its square where that is kept.
    TARGET bool is_finite() const {
        std::vector<char> bad(threads, 0);
        over_tiles([&](Part part, int thread) TARGET {
            alignas(64) float tile[TILE];
            vec nothing = {};
            for (int64_t at = part.first; at < part.last; ++at) {
                read(tile, tensor.gradient, spot(at));
                for (int v = 0; v < V; ++v) {
                    vec x = load(tile + v * W);
                    nothing += (Kind::KEEPS_SQUARES ? x * x : x) * 0.0f;
                }
                if constexpr (Kind::NEEDS_SUMS) {
                    read(tile, tensor.param, spot(at));
                    for (int v = 0; v < V; ++v) nothing += load(tile + v * W) * load(tile + v * W) * 0.0f;
                }
            }
            bad[thread] = !(sum(nothing) == 0.0f);
        });
        return std::count(bad.begin(), bad.end(), 1) == 0;
    }

    TARGET void make_sums() {
        std::vector<Shared> own(threads);
        over_tiles([&](Part part, int thread) TARGET {
            Kind here = kind;
            double* totals = own[thread].sums;
            vec sums[SUMS] = {};
            for (int64_t at = part.first; at < part.last; ++at) {
                const Spot place = spot(at);
                vec gradient[V];
                read_gradient(call, tensor, place, gradient);
                here.prepare(tensor, gradient, sums, place);
                if (at % 64 == 63 || at + 1 == part.last) {
                    for (int k = 0; k < SUMS; ++k) {
                        totals[k] += sum(sums[k]);
                        sums[k] = vec{};
                    }
                    // The padding's eps^2, which prepare() could not leave out.
                    if (place.n < TILE) totals[1] -= static_cast<double>(TILE - place.n) * here.eps * here.eps;
                }
            }
        });
        for (auto& thread : own)
            for (int k = 0; k < SUMS; ++k) shared.sums[k] += thread.sums[k];
    }

    // Adds updates to the parameter, tile by tile; a tile whose update is not finite is left where it was.
    TARGET Flag move() {
        std::vector<char> bad(threads, 0);
        const float* bias = Kind::NEEDS_SUMS ? shared.biases.data() : kind.arrays->biases;
        over_tiles([&](Part part, int thread) TARGET {
            Kind here = kind;
            Body body(call.problem);
            for (int64_t at = part.first; at < part.last; ++at) {
                const Spot place = spot(at);
                vec gradient[V], updates[V];
                read_gradient(call, tensor, place, gradient);
                here.features(tensor, shared, gradient, body.in, place);
                body.run(packed, bias, tensor.hidden, tensor.cell, place);
                here.output(shared, body.outputs, updates);
                if (add(call.update, tensor, place, updates, call.update.lr)) body.keep(tensor.hidden, tensor.cell, place);
                else bad[thread] = 1;
            }
        });
        return std::count(bad.begin(), bad.end(), 1) ? PARTLY_MOVED : MOVED;
    }
};

template <typename Kind>
static void step_kind(const StepCall& call, const Packed& packed, const StepTensor* tensors, Flag* flags) {
    const Problem& problem = call.problem;
    if (call.update.guarded && !call.rule_is_finite) {
        std::fill(flags, flags + problem.tensors, UNMOVED);
        return;
    }
    std::vector<Scratch> scratches(problem.threads);
    auto run = [&](const StepTensor& tensor, int64_t particle, int threads, int thread) {
        return TensorStep<Kind>(call, packed, tensor, particle, threads).run(scratches[thread]);
    };
    step_each(tensors, problem.tensors, problem.particles, problem.threads, TILE, flags, run);
}

static void step(const char* kind, const StepCall& call, const Packed& packed, const StepTensor* tensors, Flag* flags) {
    const std::string_view name = kind;
    if (name == LogSignLayout::KIND) step_kind<LogSign>(call, packed, tensors, flags);
    else if (name == RatiosLayout::KIND) step_kind<Ratios>(call, packed, tensors, flags);
    else if (name == ResidualLayout::KIND) step_kind<Residual>(call, packed, tensors, flags);
    else if (name == ScaleFreeLayout::KIND) step_kind<ScaleFree>(call, packed, tensors, flags);
}

}  // namespace l2l_opt::ISA
