// The scale-free rule (scale_free/rule.py).
#pragma once

#include "momenta.h"
#include "whiten.h"

namespace l2l_opt::ISA {

struct ScaleFree : Momenta<ScaleFreeLayout> {
    static constexpr bool LEAVES_DIRECTIONS = true;
    static constexpr int CONTEXT = 16;
    using Momenta::Momenta;

    TARGET void begin() {
        const double steps = scalars->step[particle] + 1;
        for (int k = 0; k < 4; ++k)
            over_correction[k] = static_cast<float>(-1 / std::expm1(steps * std::log(double{arrays->betas[k]})));
        seed = seed_of_step(scalars->step[particle] + 1);
        eps = options->relative_eps * unit(scalars->first_gradient[particle]) * std::exp(scalars->gradient[particle]);
    }

    // A power of two: what is relative to it keeps its bits if all gradients are 2^k times as large.
    static float unit(float first_gradient) {
        int exponent;
        std::frexp(first_gradient, &exponent);
        return std::ldexp(1.0f, exponent);
    }

    // Before the first step that is not one of zeros: the root mean square gradient that eps is relative to.
    TARGET void start(const StepTensor& tensor) const {
        float& first = scalars->first_gradient[particle];
        if (scalars->step[particle] != 0 && first > 1.001f * options->tiny) return;
        double total = 0;
        alignas(64) float tile[TILE];
        for (int64_t at = 0; at < tensor.count; at += TILE) {
            ISA::read(tile, tensor.gradient, {particle, at, static_cast<int>(std::min<int64_t>(TILE, tensor.count - at))});
            for (float gradient : tile) total += static_cast<double>(gradient) * gradient;
        }
        const float rms = static_cast<float>(std::sqrt(total / static_cast<double>(std::max<int64_t>(tensor.count, 1))));
        first = std::max(rms, options->tiny);
        scalars->gradient[particle] = std::log(first / unit(first));
    }

    // Where a run and a tensor in it are.
    struct Progress {
        float rms, log_gradient, fraction, run, length_scale;
        bool known, zero, matrix;
    };

    TARGET void combine(const StepTensor& tensor, Shared& shared, Heads& heads) const {
        const auto& o = *options;
        const Progress now = follow(tensor, shared);
        const float* tensor_heads = run_tensor_network(tensor, shared, now);
        float& random_walk_variance = scalars->walk[particle];
        const float first_rms = scalars->first_rms[particle];
        const float rarity = 1 / std::max(scalars->seen[particle], o.least_touched);
        const float reach = reach_of(now.rms, first_rms, random_walk_variance, rarity);
        const float annealed = std::max((1 - now.fraction) / (1 + o.steepness * now.fraction), o.least_annealed);
        const float unplanned = std::pow(1 + now.run / o.unplanned_steps, o.unplanned_power);
        const float schedule = now.known ? annealed * now.length_scale : unplanned;
        const float first_gradient = scalars->first_gradient[particle];
        const float fallen = scalars->gradient[particle] - std::log(first_gradient / unit(first_gradient)) - o.brake_from;
        const float caution = now.known && o.cautious_run > 0 ? std::min(now.run / o.cautious_run, 1.0f) : 1.0f;
        const float log_size = 3 * std::tanh(tensor_heads[0] / 3) + caution * scalars->trust[particle];
        heads.size = o.output_scale * schedule * rarity * reach * std::exp(log_size + std::min(o.braking * fallen, 0.0f));
        heads.whitened_share = now.matrix ? 1 / (1 + std::exp(-tensor_heads[1] - 3.6f)) : 0.0f;
        random_walk_variance += (now.matrix ? o.random_walk_matrix : o.random_walk_vector) * heads.size * heads.size / rarity;
        shared.power = 1 / (1 + std::exp(-tensor_heads[2] - (now.matrix ? 2 : -2)));
        shared.over_rms = 1 / std::max(now.rms, o.tiny);
        shared.over_root_rms = 1 / std::max(shared.rms(1, tensor.count), o.tiny);
    }

    // How large a tensor is taken to be.
    float reach_of(float rms, float first_rms, float random_walk_variance, float rarity) const {
        const auto& o = *options;
        const float gone = std::sqrt(std::max(rms * rms - random_walk_variance, 0.0f));
        const float least = std::min(o.growth, o.least_growth), growth = std::max(o.growth / rarity, least);
        const bool zero = first_rms == 0;
        if (zero && (given->rows != 0 || o.zero_start == 0)) return given->natural_size;
        const float start = zero ? o.zero_start * given->natural_size : first_rms, floor = zero ? start : start / least;
        const float base = std::max(start, o.natural_share * given->natural_size);
        if (gone > base) return base * std::min(std::pow(gone / base, o.growth_power), growth);
        const float below = std::max(gone, floor);
        if (o.small_power == 1) return below;
        const float smaller = std::pow(std::max(std::max(gone, start) / std::max(base, o.tiny), o.tiny), o.small_power);
        return base * smaller * std::min(below / std::max(start, o.tiny), 1.0f);
    }

    // Brings the tensor's scalars up to date, but for the random walk, which waits for the size of the step.
    TARGET Progress follow(const StepTensor& tensor, Shared& shared) const {
        const auto& o = *options;
        const float step = scalars->step[particle], own_unit = unit(scalars->first_gradient[particle]);
        float &fast = scalars->agreement_fast[particle], &slow = scalars->agreement_slow[particle];
        float &gradient = scalars->gradient[particle], &log_step_scale = scalars->trust[particle];
        float& touched_fraction = scalars->seen[particle];
        const double norms = std::sqrt(shared.sums[4]) * std::sqrt(shared.sums[5]);
        const float agreement = norms > 0 ? static_cast<float>(shared.sums[6] / norms) : 0.0f;
        const float log_gradient = std::log(std::max(shared.rms(7, tensor.count), o.tiny) / own_unit);
        // What the sums were made with is what features must be made with.
        shared.eps = o.relative_eps * own_unit * std::exp(gradient);
        gradient += (1 - o.gradient_beta) * (log_gradient - gradient);
        fast += (1 - o.fast_beta) * (agreement - fast);
        slow += (1 - o.slow_beta) * (agreement - slow);
        const bool known = given->num_steps >= 0;
        const float fraction = known ? std::min(step / given->num_steps, 1.0f) : 0.0f, run = known ? given->num_steps : step;
        const float length_scale = known ? std::min(std::sqrt(o.usual_run / std::max(run, 1.0f)), o.largest_scale) : 1.0f;
        const float surplus = agreement + o.agreement_margin, opposed = std::min(agreement + o.fall_margin, 0.0f);
        log_step_scale = between(
            log_step_scale + length_scale * (surplus > 0 ? o.step_scale_rise * surplus : o.step_scale_fall * opposed),
            o.least_log_step_scale, o.most_log_step_scale
        );
        const double ever = shared.sums[9];
        const float touched = ever > 0 ? static_cast<float>(std::min(shared.sums[8] / ever, 1.0)) : 1.0f;
        const float average = touched_fraction + (1 - o.touched_beta) * (touched - touched_fraction);
        touched_fraction = step < o.touched_steps ? average : std::max(average, touched_fraction);
        const bool zero = scalars->first_rms[particle] == 0, matrix = given->rows != 0;
        return {shared.rms(0, tensor.count), log_gradient, fraction, run, length_scale, known, zero, matrix};
    }

    // Biases of the coordinates' network moved by what the tensor's makes of its context, then its three heads, which it returns.
    TARGET const float* run_tensor_network(const StepTensor& tensor, Shared& shared, const Progress& now) const {
        const auto& o = *options;
        const float step = scalars->step[particle], first_gradient = scalars->first_gradient[particle];
        const float gradient = scalars->gradient[particle];
        const float context[CONTEXT] = {
            now.fraction,
            now.fraction * now.fraction,
            std::sqrt(now.fraction),
            std::tanh(step / 10 - 1),
            now.known ? std::log(between(now.run / 500, 0.1f, 10)) / 2 : 0.0f,
            now.known ? 1.0f : 0.0f,
            now.zero ? 0.0f : between(std::log(std::max(now.rms / scalars->first_rms[particle], 1e-2f)), -2, 2),
            now.zero ? 1.0f : 0.0f,
            now.matrix ? 0.0f : 1.0f,
            between(std::log(static_cast<float>(tensor.count)) / 5 - 1, -1, 2),
            2 * shared.rms(3, tensor.count) - 1,
            2 * shared.rms(2, tensor.count) - 1,
            2 * scalars->agreement_fast[particle] / (1 - std::pow(o.fast_beta, step + 1)),
            4 * scalars->agreement_slow[particle] / (1 - std::pow(o.slow_beta, step + 1)),
            between((gradient - std::log(first_gradient / unit(first_gradient))) / 2, -3, 1),
            between(now.log_gradient - gradient, -2, 2),
        };
        const int64_t count = problem.biases(), units = static_cast<int64_t>(o.units);
        std::vector<float>& biases = shared.biases;
        std::vector<float> hidden(units);
        for (int64_t u = 0; u < units; ++u) {
            float total = arrays->tensor_bias[u];
            for (int k = 0; k < CONTEXT; ++k) total += arrays->tensor_weight[u * CONTEXT + k] * context[k];
            hidden[u] = std::tanh(total);
        }
        biases.assign(arrays->biases, arrays->biases + count);
        biases.resize(count + 3, 0.0f);
        for (int64_t b = 0; b < count + 3; ++b) {
            float total = arrays->head_bias[b];
            for (int64_t u = 0; u < units; ++u) total += arrays->head_weight[b * units + u] * hidden[u];
            biases[b] += total;
        }
        return biases.data() + count;
    }

    TARGET void output(const Shared& shared, const float* out, vec* updates) {
        for (int v = 0; v < V; ++v) {
            const float* here = momenta + v * W;
            vec brief = 0.5f + 0.5f * tanh(load(out + v * W)), lasting = 1.0f - brief;
            vec ahead = tanh(load(out + 2 * TILE + v * W));
            vec direction = (brief * brief + ahead) * load(here) + 2.0f * brief * lasting * load(here + TILE)
                + (lasting * lasting - ahead) * load(here + 2 * TILE);
            vec power = shared.power * at_most(load(log_root + v * W), 3.0f) + 1.5f * tanh(load(out + TILE + v * W));
            updates[v] = within(direction, 3.0f) * exponential(power);
        }
    }

    void count_step() const { scalars->step[particle] += 1; }

    int64_t rows() const { return static_cast<int64_t>(given->rows); }

    // Whether products of matrices of this shorter side are of numbers rounded to bfloat16.
    bool rounds(int64_t side) const {
        return options->least_rounded != 0 && static_cast<float>(side) >= options->least_rounded;
    }

    // What directions are multiplied by, as vectors of the shorter side of a matrix; longer: of its other one.
    View finish(Whitening& whitening, const Heads& heads, int64_t longer) const {
        const float scale = options->whitened_rms * std::sqrt(static_cast<float>(longer));
        return whitening.finish(arrays->newton_schulz, static_cast<int64_t>(options->whitening_steps), scale, heads.whitened_share);
    }
};

}  // namespace l2l_opt::ISA
