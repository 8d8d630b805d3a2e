// Steps of an optimizer, in place: what is not finite found, sums made, then features, network and update tile by tile.
#pragma once

#include <string_view>

#include "log_sign.h"
#include "ratios.h"
#include "residual.h"
#include "scale_free.h"

namespace l2l_opt::ISA {

TARGET static void read_gradient(const StepCall& call, const StepTensor& tensor, const Spot& spot, vec* gradient) {
    alignas(64) float tile[TILE];
    gather<float>(tile, tensor.gradient, 0, 1, spot);
    for (int v = 0; v < V; ++v) gradient[v] = load(tile + v * W) * call.update.sign;
}

// Whether every gradient of a part (and parameter, where the kind reads them) is finite, and its square where that is kept.
template <typename Kind>
TARGET static void find_bad_part(const StepCall& call, const StepTensor* tensors, Part part, Flag* flags) {
    for (Runs<StepTensor> run(call.problem, tensors, TILE, part); run.next();) {
        const float* sources[2] = {
            run.tensor->gradient.at<float>(run.particle), Kind::NEEDS_SUMS ? run.tensor->param.at<float>(run.particle) : nullptr
        };
        for (const float* from : sources) {
            if (from == nullptr) continue;
            vec nothing = {};
            int64_t at = run.begin;
            for (; at + W <= run.end; at += W) {
                vec x = load(from + at);
                nothing += (Kind::KEEPS_SQUARES ? x * x : x) * 0.0f;
            }
            float total = sum(nothing);
            for (; at < run.end; ++at) total += (Kind::KEEPS_SQUARES ? from[at] * from[at] : from[at]) * 0.0f;
            if (!(total == 0.0f)) flags[run.index] = UNMOVED;
        }
    }
}

template <typename Kind>
TARGET static void prepare_part(const StepCall& call, const StepTensor* tensors, Part part, const Flag* flags, Shared* shared) {
    Kind kind(call);
    for (Runs<StepTensor> run(call.problem, tensors, TILE, part); run.next();) {
        if (flags[run.index] != MOVED) continue;
        kind.read(call, *run.tensor, run.particle);
        kind.begin();
        double* totals = shared[call.place(run.index, run.particle)].sums;
        vec sums[SUMS] = {};
        for (int64_t at = run.begin, since = 0; at < run.end; at += TILE) {
            const Spot spot = run.spot(at);
            vec gradient[V];
            read_gradient(call, *run.tensor, spot, gradient);
            kind.prepare(*run.tensor, gradient, sums, spot);
            if (++since == 64 || at + TILE >= run.end) {
                for (int k = 0; k < SUMS; ++k) {
                    totals[k] += sum(sums[k]);
                    sums[k] = vec{};
                }
                // The padding's eps^2, which prepare() could not leave out.
                if (spot.n < TILE) totals[1] -= static_cast<double>(TILE - spot.n) * kind.eps * kind.eps;
                since = 0;
            }
        }
    }
}

template <typename Kind, typename State>
TARGET static void step_part(
    const StepCall& call, const Packed& packed, const StepTensor* tensors, Part part, const Shared* shared, Flag* flags
) {
    const Update& update = call.update;
    Body body(call.problem);
    Kind kind(call);
    for (Runs<StepTensor> run(call.problem, tensors, TILE, part); run.next();) {
        const StepTensor& tensor = *run.tensor;
        const int64_t particle = run.particle;
        const Shared& own = shared[call.place(run.index, particle)];
        if (flags[run.index] == UNMOVED) continue;
        kind.read(call, tensor, particle);
        kind.begin();
        if constexpr (Kind::NEEDS_SUMS) kind.eps = own.eps;
        const float* bias = Kind::NEEDS_SUMS ? own.biases.data() : kind.arrays->biases;
        const Rows& target = Kind::LEAVES_DIRECTIONS ? tensor.direction : tensor.param;
        for (int64_t at = run.begin; at < run.end; at += TILE) {
            const Spot spot = run.spot(at);
            vec gradient[V], updates[V], nothing = {};
            read_gradient(call, tensor, spot, gradient);
            kind.features(tensor, own, gradient, body.in, spot);
            body.run<State>(packed, bias, tensor.hidden, tensor.cell, spot);
            kind.output(own, body.outputs, updates);
            alignas(64) float next[TILE];
            if constexpr (!Kind::LEAVES_DIRECTIONS) gather<float>(next, tensor.param, 0, 1, spot);
            for (int v = 0; v < V; ++v) {
                vec p = updates[v];
                if constexpr (!Kind::LEAVES_DIRECTIONS) {
                    p = load(next + v * W);
                    p += updates[v] * update.lr - p * update.decay;
                }
                nothing += p * 0.0f;
                store(next + v * W, p);
            }
            if (update.guarded && !(sum(nothing) == 0.0f)) {
                flags[run.index] = PARTLY_MOVED;
                continue;
            }
            body.keep<State>(tensor.hidden, tensor.cell, spot);
            scatter<float>(target, 0, next, 1, spot);
        }
    }
}

// A flag a thread and tensor, so that threads never write to the same place.
class Flags {
public:
    Flags(int threads, int64_t tensors, Flag* all) : all_(all), own_(threads, std::vector<Flag>(tensors, MOVED)) {}
    Flag* of(int thread) { return own_[thread].data(); }
    void gather() {
        for (size_t index = 0; index < own_[0].size(); ++index) {
            for (auto& own : own_) all_[index] = std::max(all_[index], own[index]);
            for (auto& own : own_) own[index] = all_[index];
        }
    }

private:
    Flag* all_;
    std::vector<std::vector<Flag>> own_;
};

// run(kind, index, place) of each tensor and particle of a part.
template <typename Kind, typename Function>
static void each_place(const StepCall& call, const StepTensor* tensors, Part part, Function run) {
    Kind kind(call);
    for (int64_t place = part.first; place < part.last; ++place) {
        const int64_t index = place / call.problem.particles;
        kind.read(call, tensors[index], place % call.problem.particles);
        run(kind, index, place);
    }
}

template <typename Kind>
static void step_kind(const StepCall& call, const Packed& packed, const StepTensor* tensors, Flag* flags) {
    const Problem& problem = call.problem;
    const int64_t tiles = problem.particles * tiles_of_particle(problem, tensors, TILE), places = problem.tensors * problem.particles;
    const int threads = worthwhile(problem.threads, tiles, TILE);
    if (call.update.guarded && !call.rule_is_finite) {
        std::fill(flags, flags + problem.tensors, UNMOVED);
        return;
    }
    Flags own(threads, problem.tensors, flags);
    if (call.update.guarded) {
        in_parts(tiles, threads, [&](Part part, int thread) { find_bad_part<Kind>(call, tensors, part, own.of(thread)); });
        own.gather();
    }
    std::vector<Shared> shared(places);
    if constexpr (Kind::NEEDS_SUMS) {
        each_place<Kind>(call, tensors, Part{0, places}, [&](const Kind& kind, int64_t index, int64_t) {
            if (flags[index] == MOVED) kind.start(tensors[index]);
        });
        std::vector<std::vector<Shared>> sums(threads, std::vector<Shared>(places));
        in_parts(tiles, threads, [&](Part part, int thread) {
            prepare_part<Kind>(call, tensors, part, own.of(thread), sums[thread].data());
        });
        each_place<Kind>(call, tensors, Part{0, places}, [&](const Kind& kind, int64_t index, int64_t place) {
            for (auto& thread : sums)
                for (int k = 0; k < SUMS; ++k) shared[place].sums[k] += thread[place].sums[k];
            if (flags[index] == MOVED) kind.combine(tensors[index], shared[place], call.heads[place]);
        });
    }
    auto step_own = problem.state_is_bfloat16 ? step_part<Kind, bfloat16> : step_part<Kind, float>;
    in_parts(tiles, threads, [&](Part part, int thread) {
        step_own(call, packed, tensors, part, shared.data(), own.of(thread));
    });
    own.gather();
    if constexpr (Kind::LEAVES_DIRECTIONS) {
        in_parts(places, threads, [&](Part part, int thread) {
            Whitening whitening;
            each_place<Kind>(call, tensors, part, [&](const Kind& kind, int64_t index, int64_t place) {
                Flag& flag = own.of(thread)[index];
                flag = std::max(flag, kind.finish(call.update, tensors[index], call.heads[place], flags[index], whitening));
            });
        });
        own.gather();
    }
}

static void step(const char* kind, const StepCall& call, const Packed& packed, const StepTensor* tensors, Flag* flags) {
    const std::string_view name = kind;
    if (name == LogSignLayout::KIND) step_kind<LogSign>(call, packed, tensors, flags);
    else if (name == RatiosLayout::KIND) step_kind<Ratios>(call, packed, tensors, flags);
    else if (name == ResidualLayout::KIND) step_kind<Residual>(call, packed, tensors, flags);
    else if (name == ScaleFreeLayout::KIND) step_kind<ScaleFree>(call, packed, tensors, flags);
}

}  // namespace l2l_opt::ISA
