// Steps of an optimizer, in place: what a rule sees of gradients, the network, and the update, tile by tile.
//
// A kind of rule has begin(), for what all coordinates of a tensor have in common; look(), which fills the network's inputs
// for one tile and may bring its moments up to date; and answer(), which makes updates of the network's outputs.

constexpr int SUMS = 10;

// What the coordinates of one tensor share, from sums over them; for rules that look at more than a coordinate.
struct Shared {
    double sums[SUMS] = {};
    float size = 0, power = 0, eps = 0, over_rms = 0, over_root_rms = 0;
    std::vector<float> biases;

    // A sum of squares of next to nothing, less that of the padding, may come out below zero.
    float rms(int which, int64_t count) const {
        return static_cast<float>(std::sqrt(std::max(sums[which], 0.0) / static_cast<double>(std::max<int64_t>(count, 1))));
    }
};

// LSTM on log_sign gradients (lstm.py). Options: p, e^-p, e^p, output_scale.
struct LogSign {
    static constexpr bool LOOKS_TWICE = false;
    const float* options;
    const Shape& shape;

    void begin(const StepTensor&, int64_t) {}
    TARGET void look(const StepTensor&, const Shared&, const vec* gradient, float* in, int64_t, int64_t, int) {
        for (int v = 0; v < V; ++v) {
            vec g = gradient[v], size = magnitude(g);
            vec sign = g > 0.0f ? all(1.0f) : all(-1.0f);
            store(in + v * W, at_least(logarithm(at_least(size, options[1])) / options[0], -1.0f));
            store(in + TILE + v * W, size >= options[1] ? sign : g * options[2]);
        }
    }
    TARGET void answer(const Shared&, const float* out, vec* updates) {
        for (int v = 0; v < V; ++v) updates[v] = options[3] * load(out + v * W);
    }
};

// RNNProp (rnnprop.py). Options: beta, eps^2, output_scale, then its dense layer, [inputs][2] and [inputs].
// numbers: one over the moments' mass.
struct Ratios {
    static constexpr bool LOOKS_TWICE = false;
    const float* options;
    const Shape& shape;

    float over_mass = 1;

    void begin(const StepTensor& tensor, int64_t particle) { over_mass = tensor.number(particle)[0]; }
    TARGET void look(const StepTensor& tensor, const Shared&, const vec* gradient, float* in, int64_t particle, int64_t at, int n) {
        const float beta = options[0];
        const float *weight = options + 3, *bias = weight + 2 * shape.inputs;
        alignas(64) float average[TILE], square[TILE];
        gather(average, tensor.averages.at<float>(particle, 0, at), 0, 1, n);
        gather(square, tensor.squares.at<float>(particle, 0, at), 0, 1, n);
        for (int v = 0; v < V; ++v) {
            vec g = gradient[v];
            vec m = load(average + v * W) * beta + g * (1.0f - beta);
            vec s = load(square + v * W) * beta + g * g * (1.0f - beta);
            store(average + v * W, m);
            store(square + v * W, s);
            vec over_root = 1.0f / root(s * over_mass + options[1]);
            vec first = g * over_root, second = m * over_mass * over_root;
            for (int64_t k = 0; k < shape.inputs; ++k) {
                vec x = weight[2 * k] * first + weight[2 * k + 1] * second + bias[k];
                store(in + k * TILE + v * W, x > 0.0f ? x : exponential(at_least(x, -80.0f)) - 1.0f);
            }
        }
        scatter(tensor.averages.at<float>(particle, 0, at), 0, average, 1, n);
        scatter(tensor.squares.at<float>(particle, 0, at), 0, square, 1, n);
    }
    TARGET void answer(const Shared&, const float* out, vec* updates) {
        for (int v = 0; v < V; ++v) updates[v] = -options[2] * tanh(load(out + v * W));
    }
};

// Rules around normalised averages of gradients. Options: betas of three averages, beta of squares, eps.
struct Momenta {
    static constexpr bool LOOKS_TWICE = true;
    const float* options;
    const Shape& shape;
    float over_mass[4] = {}, eps = 0;
    alignas(64) float momenta[3 * TILE] = {}, log_root[TILE] = {};

    // Brings moments up to date and sums: p^2, r^2, (m_.9 / r)^2, (m_.99 / r)^2, (g / r)^2, (m_.9 before / r)^2, their
    // product, g^2, one where g is not 0, one where v is not 0.
    TARGET void prepare(const StepTensor& tensor, const vec* gradient, vec (&sums)[SUMS], int64_t particle, int64_t at, int n) {
        alignas(64) float moments[4 * TILE], param[TILE];
        float *averages = tensor.averages.at<float>(particle, 0, at), *squares = tensor.squares.at<float>(particle, 0, at);
        gather(moments, averages, tensor.averages.stride, 3, n);
        gather(moments + 3 * TILE, squares, 0, 1, n);
        gather(param, tensor.value(particle) + at, 0, 1, n);
        for (int v = 0; v < V; ++v) {
            vec g = gradient[v], past = load(moments + TILE + v * W);
            float* here = moments + v * W;
            for (int k = 0; k < 3; ++k)
                store(here + k * TILE, load(here + k * TILE) * options[k] + g * (1.0f - options[k]));
            store(here + 3 * TILE, load(here + 3 * TILE) * options[3] + g * g * (1.0f - options[3]));
            vec r = root(load(here + 3 * TILE) * over_mass[3]) + eps, over_r = 1.0f / r;
            vec middle = load(here + TILE) * over_mass[1] * over_r;
            vec slow = load(here + 2 * TILE) * over_mass[2] * over_r;
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
        scatter(averages, tensor.averages.stride, moments, 3, n);
        scatter(squares, 0, moments + 3 * TILE, 1, n);
    }

    TARGET void look(
        const StepTensor& tensor, const Shared& shared, const vec* gradient, float* in, int64_t particle, int64_t at, int n
    ) {
        alignas(64) float square[TILE];
        gather(in + TILE, tensor.averages.at<float>(particle, 0, at), tensor.averages.stride, 3, n);
        gather(square, tensor.squares.at<float>(particle, 0, at), 0, 1, n);
        gather(in + 4 * TILE, tensor.value(particle) + at, 0, 1, n);
        for (int v = 0; v < V; ++v) {
            float* x = in + v * W;
            vec r = root(load(square + v * W) * over_mass[3]) + eps, over_r = 1.0f / r;
            store(x, within(gradient[v] * over_r, 5.0f));
            for (int k = 0; k < 3; ++k) {
                vec ratio = load(x + (1 + k) * TILE) * over_mass[k] * over_r;
                store(momenta + k * TILE + v * W, ratio);
                store(x + (1 + k) * TILE, within(ratio, 5.0f));
            }
            store(x + 4 * TILE, within(load(x + 4 * TILE) * shared.over_rms, 5.0f));
            vec relative = logarithm(r * shared.over_root_rms + 1e-3f);
            store(x + 5 * TILE, relative);
            store(log_root + v * W, relative);
        }
    }
};

// The compact rule (compact.py). Options from 5 on: smallest rms, output_scale, floor, growth, then biases [B] and context
// weights [B][7]. numbers: one over the masses of averages and squares, then fraction, time, first rms, shrinkage.
struct Residual : Momenta {
    void prime(const StepCall&, const StepTensor&, int64_t) const {}
    void begin(const StepTensor& tensor, int64_t particle) {
        for (int k = 0; k < 4; ++k) over_mass[k] = tensor.number(particle)[k];
        eps = options[4];
    }

    TARGET void share(const StepTensor& tensor, int64_t particle, Shared& shared, float*) const {
        const float* number = tensor.number(particle);
        const float rms = shared.rms(0, tensor.count), root_rms = shared.rms(1, tensor.count);
        const float fraction = number[4], time = number[5], param_rms = std::max(rms, options[5]);
        const float context[7] = {
            fraction, fraction * fraction, std::sqrt(fraction), std::tanh(time / 10 - 1), 0.3f * std::log(param_rms),
            2 * shared.rms(3, tensor.count) - 1, 2 * shared.rms(2, tensor.count) - 1,
        };
        const int64_t count = shape.biases();
        const float *bias = options + 9, *weight = bias + count;
        shared.biases.assign(bias, bias + count);
        for (int64_t b = 0; b < count; ++b)
            for (int k = 0; k < 7; ++k) shared.biases[b] += weight[7 * b + k] * context[k];
        shared.eps = options[4];
        const float reach = std::max(std::min(rms, options[8] * number[6]), options[7]);
        shared.size = options[6] * (1 + std::cos(PI * fraction)) / 2 * number[7] * reach;
        shared.over_rms = 1 / param_rms;
        shared.over_root_rms = 1 / std::max(root_rms, options[4]);
    }

    TARGET void answer(const Shared& shared, const float* out, vec* updates) {
        for (int v = 0; v < V; ++v) {
            const float* here = momenta + v * W;
            vec brief = 0.5f + 0.5f * tanh(load(out + v * W)), lasting = 1.0f - brief;
            vec direction = brief * (brief * load(here) + 2.0f * lasting * load(here + TILE))
                + lasting * lasting * load(here + 2 * TILE);
            updates[v] = -shared.size * within(direction, 3.0f) * exponential(1.5f * tanh(load(out + TILE + v * W)));
        }
    }
};

// The scale-free rule (scale_free.py). Options from 5 on: output_scale, eps, growth, usual_run, two betas of agreement,
// beta of the gradient's size, units U of the tensor's network, least annealed share, steepness, steps and power of runs of
// unknown length, rise, fall, margin, least and most of trust, beta, steps and least of seen, what vectors and matrices
// walk, least growth, then biases [B], that network's first layer [U][16] and [U], and its second [B + 3][U] and [B + 3].
// numbers: num_steps (negative: unknown), its rows as a matrix (0: it is none), its natural size. memory: first rms,
// agreements fast and slow, first gradient, gradient, trust, seen, walk, step. It writes directions, and two choices: the size
// of an update of one, and the share of what is whitened.
struct ScaleFree : Momenta {
    static constexpr int CONTEXT = 16, OWN_OPTIONS = 28;
    enum { FIRST_RMS, FAST, SLOW, FIRST_GRADIENT, GRADIENT, TRUST, SEEN, WALK, STEP };  // memories

    void begin(const StepTensor& tensor, int64_t particle) {
        const double steps = *tensor.memory(STEP, particle) + 1;
        for (int k = 0; k < 4; ++k) over_mass[k] = static_cast<float>(-1 / std::expm1(steps * std::log(double{options[k]})));
        eps = options[6] * unit(*tensor.memory(FIRST_GRADIENT, particle)) * std::exp(*tensor.memory(GRADIENT, particle));
    }

    // A power of two: what is relative to it keeps its bits if all gradients are 2^k times as large.
    static float unit(float first_gradient) {
        int exponent;
        std::frexp(first_gradient, &exponent);
        return std::ldexp(1.0f, exponent);
    }

    // Before the first step that is not one of zeros: the root mean square gradient that eps is relative to.
    void prime(const StepCall& call, const StepTensor& tensor, int64_t particle) const {
        if (*tensor.memory(STEP, particle) != 0 && *tensor.memory(FIRST_GRADIENT, particle) > 1.001f * options[4]) return;
        double total = 0;
        const float* gradient = tensor.gradient + particle * tensor.count;
        for (int64_t at = 0; at < tensor.count; ++at) total += static_cast<double>(gradient[at]) * gradient[at];
        const float rms = static_cast<float>(std::sqrt(total / static_cast<double>(std::max<int64_t>(tensor.count, 1))));
        const float first = *tensor.memory(FIRST_GRADIENT, particle) = std::max(rms, options[4]);
        *tensor.memory(GRADIENT, particle) = std::log(first / unit(first));
    }

    TARGET void share(const StepTensor& tensor, int64_t particle, Shared& shared, float* choices) const {
        const float* number = tensor.number(particle);
        const auto memory = [&](int which) -> float& { return *tensor.memory(which, particle); };
        float &first_rms = memory(FIRST_RMS), &fast = memory(FAST), &slow = memory(SLOW), &gradient = memory(GRADIENT);
        float &trust = memory(TRUST), &seen = memory(SEEN), &walk = memory(WALK);
        const float first_gradient = memory(FIRST_GRADIENT), own_unit = unit(first_gradient);
        const float step = memory(STEP), num_steps = number[0], tiny = options[4];
        const float rms = shared.rms(0, tensor.count), root_rms = shared.rms(1, tensor.count);
        const double norms = std::sqrt(shared.sums[4]) * std::sqrt(shared.sums[5]);
        const float agreement = norms > 0 ? static_cast<float>(shared.sums[6] / norms) : 0.0f;
        const float log_gradient = std::log(std::max(shared.rms(7, tensor.count), tiny) / own_unit);
        // What the first look used is what the second must use.
        shared.eps = options[6] * own_unit * std::exp(gradient);
        gradient += (1 - options[11]) * (log_gradient - gradient);
        fast += (1 - options[9]) * (agreement - fast);
        slow += (1 - options[10]) * (agreement - slow);
        const bool known = num_steps >= 0, zero = first_rms == 0;
        const float fraction = known ? std::min(step / num_steps, 1.0f) : 0.0f, run = known ? num_steps : step;
        const float pace = known ? std::sqrt(options[8] / std::max(run, options[8] / 4)) : 1.0f, surplus = agreement + options[19];
        trust = between(trust + pace * (surplus > 0 ? options[17] : options[18]) * surplus, options[20], options[21]);
        const double ever = shared.sums[9];
        const float reached = ever > 0 ? static_cast<float>(std::min(shared.sums[8] / ever, 1.0)) : 1.0f;
        const float average = seen + (1 - options[22]) * (reached - seen);
        seen = step < options[23] ? average : std::max(average, seen);
        const float context[CONTEXT] = {
            fraction,
            fraction * fraction,
            std::sqrt(fraction),
            std::tanh(step / 10 - 1),
            known ? std::log(between(run / 500, 0.1f, 10)) / 2 : 0.0f,
            known ? 1.0f : 0.0f,
            zero ? 0.0f : between(std::log(std::max(rms / first_rms, 1e-2f)), -2, 2),
            zero ? 1.0f : 0.0f,
            number[1] == 0 ? 1.0f : 0.0f,
            between(std::log(static_cast<float>(tensor.count)) / 5 - 1, -1, 2),
            2 * shared.rms(3, tensor.count) - 1,
            2 * shared.rms(2, tensor.count) - 1,
            2 * fast / (1 - std::pow(options[9], step + 1)),
            4 * slow / (1 - std::pow(options[10], step + 1)),
            between((gradient - std::log(first_gradient / own_unit)) / 2, -3, 1),
            between(log_gradient - gradient, -2, 2),
        };
        const int64_t count = shape.biases(), units = static_cast<int64_t>(options[12]);
        const float *bias = options + OWN_OPTIONS, *weight = bias + count, *offset = weight + units * CONTEXT;
        const float *second = offset + units, *second_bias = second + (count + 3) * units;
        float hidden[MOST_UNITS];
        for (int64_t u = 0; u < units; ++u) {
            float total = offset[u];
            for (int k = 0; k < CONTEXT; ++k) total += weight[u * CONTEXT + k] * context[k];
            hidden[u] = std::tanh(total);
        }
        shared.biases.assign(bias, bias + count);
        shared.biases.resize(count + 3, 0.0f);
        for (int64_t b = 0; b < count + 3; ++b) {
            float total = second_bias[b];
            for (int64_t u = 0; u < units; ++u) total += second[b * units + u] * hidden[u];
            shared.biases[b] += total;
        }
        const float* chosen = shared.biases.data() + count;
        const bool matrix = number[1] != 0;
        const float rarity = 1 / std::max(seen, options[24]), gone = std::sqrt(std::max(rms * rms - walk, 0.0f));
        const float least = std::min(options[7], options[27]), growth = std::max(options[7] / rarity, least);
        const float reach = zero ? number[2] : between(gone, first_rms / least, first_rms * growth);
        const float annealed = std::max((1 - fraction) / (1 + options[14] * fraction), options[13]);
        const float schedule = known ? annealed * pace : std::pow(1 + run / options[15], options[16]);
        const float size = options[5] * schedule * rarity * reach * std::exp(3 * std::tanh(chosen[0] / 3) + trust);
        walk += options[matrix ? 26 : 25] * size * size / rarity;
        choices[0] = size;
        choices[1] = matrix ? 1 / (1 + std::exp(-chosen[1] - 3.6f)) : 0.0f;
        shared.power = 1 / (1 + std::exp(-chosen[2] - (matrix ? 2 : -2)));
        shared.over_rms = 1 / std::max(rms, tiny);
        shared.over_root_rms = 1 / std::max(root_rms, tiny);
    }

    TARGET void answer(const Shared& shared, const float* out, vec* updates) {
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
};

TARGET static void read_gradient(
    const StepCall& call, const StepTensor& tensor, int64_t particle, int64_t at, int n, vec* gradient
) {
    alignas(64) float tile[TILE];
    gather(tile, tensor.gradient + particle * tensor.count + at, 0, 1, n);
    for (int v = 0; v < V; ++v) gradient[v] = load(tile + v * W) * call.sign;
}

// Whether every gradient of a part (and parameter, where the kind reads them) is finite, and its square where that is kept.
TARGET static void find_bad_part(const StepCall& call, const StepTensor* tensors, Part part, char* bad) {
    for (Runs<StepTensor> run(call.shape, tensors, TILE, part); run.next();) {
        const int64_t skip = run.particle * run.tensor->count;
        const float* sources[2] = {run.tensor->gradient + skip, call.reads_params ? run.tensor->param + skip : nullptr};
        for (const float* from : sources) {
            if (from == nullptr) continue;
            vec nothing = {};
            int64_t at = run.begin;
            for (; at + W <= run.end; at += W) {
                vec x = load(from + at);
                nothing += (call.keeps_squares ? x * x : x) * 0.0f;
            }
            float total = sum(nothing);
            for (; at < run.end; ++at) total += (call.keeps_squares ? from[at] * from[at] : from[at]) * 0.0f;
            if (!(total == 0.0f)) bad[run.index] = 1;
        }
    }
}

template <typename Kind>
static Kind make_kind(const StepCall& call) {
    if constexpr (Kind::LOOKS_TWICE) return Kind{{call.options, call.shape}};
    else return Kind{call.options, call.shape};
}

template <typename Kind>
TARGET static void prepare_part(const StepCall& call, const StepTensor* tensors, Part part, const char* bad, Shared* shared) {
    Kind kind = make_kind<Kind>(call);
    for (Runs<StepTensor> run(call.shape, tensors, TILE, part); run.next();) {
        if (bad[run.index]) continue;
        kind.options = call.options_of(run.particle);
        kind.begin(*run.tensor, run.particle);
        double* totals = shared[call.place(run.index, run.particle)].sums;
        vec sums[SUMS] = {};
        for (int64_t at = run.begin, since = 0; at < run.end; at += TILE) {
            const int n = static_cast<int>(std::min<int64_t>(TILE, run.end - at));
            vec gradient[V];
            read_gradient(call, *run.tensor, run.particle, at, n, gradient);
            kind.prepare(*run.tensor, gradient, sums, run.particle, at, n);
            if (++since == 64 || at + TILE >= run.end) {
                for (int k = 0; k < SUMS; ++k) {
                    totals[k] += sum(sums[k]);
                    sums[k] = vec{};
                }
                // The padding's eps^2, which prepare() could not leave out.
                if (n < TILE) totals[1] -= static_cast<double>(TILE - n) * kind.eps * kind.eps;
                since = 0;
            }
        }
    }
}

template <typename Kind, typename State>
TARGET static void step_part(
    const StepCall& call, const Packed& packed, const StepTensor* tensors, Part part, const Shared* shared, char* bad
) {
    const Shape& shape = call.shape;
    Body body(shape);
    Kind kind = make_kind<Kind>(call);
    for (Runs<StepTensor> run(shape, tensors, TILE, part); run.next();) {
        const StepTensor& tensor = *run.tensor;
        const int64_t particle = run.particle;
        const Shared& own = shared[call.place(run.index, particle)];
        if (bad[run.index] == 1) continue;
        kind.options = call.options_of(particle);
        kind.begin(tensor, particle);
        if constexpr (Kind::LOOKS_TWICE) kind.eps = own.eps;
        const float* bias = Kind::LOOKS_TWICE ? own.biases.data() : call.biases_of(particle);
        for (int64_t at = run.begin; at < run.end; at += TILE) {
            const int n = static_cast<int>(std::min<int64_t>(TILE, run.end - at));
            vec gradient[V], updates[V], nothing = {};
            read_gradient(call, tensor, particle, at, n, gradient);
            kind.look(tensor, own, gradient, body.in, particle, at, n);
            body.run<State>(packed, bias, tensor.hidden, tensor.cell, particle, at, n);
            kind.answer(own, body.outputs, updates);
            alignas(64) float param[TILE];
            if (tensor.direction != nullptr) {
                for (int v = 0; v < V; ++v) {
                    nothing += updates[v] * 0.0f;
                    store(param + v * W, updates[v]);
                }
                if (call.guarded && !(sum(nothing) == 0.0f)) {
                    bad[run.index] = 2;
                    continue;
                }
                body.keep<State>(tensor.hidden, tensor.cell, particle, at, n);
                scatter(tensor.direction + particle * tensor.count + at, 0, param, 1, n);
                continue;
            }
            gather(param, tensor.value(particle) + at, 0, 1, n);
            for (int v = 0; v < V; ++v) {
                vec p = load(param + v * W);
                p += updates[v] * call.lr - p * call.decay;
                nothing += p * 0.0f;
                store(param + v * W, p);
            }
            if (call.guarded && !(sum(nothing) == 0.0f)) {
                bad[run.index] = 2;
                continue;
            }
            body.keep<State>(tensor.hidden, tensor.cell, particle, at, n);
            scatter(tensor.value(particle) + at, 0, param, 1, n);
        }
    }
}

template <typename Kind>
static void step_kind(const StepCall& call, const Packed& packed, const StepTensor* tensors, char* bad) {
    const Shape& shape = call.shape;
    const int64_t tiles = shape.particles * tiles_of_particle(shape, tensors, TILE);
    const int threads = worthwhile(call.threads, tiles, TILE);
    // A flag a thread and tensor, so that threads never write to the same place.
    std::vector<std::vector<char>> flags(threads, std::vector<char>(shape.tensors, 0));
    auto gather_flags = [&] {
        for (int64_t index = 0; index < shape.tensors; ++index) {
            for (auto& own : flags) bad[index] = std::max(bad[index], own[index]);
            for (auto& own : flags) own[index] = bad[index];
        }
    };
    if (call.guarded && !call.weights_are_finite) {
        std::fill(bad, bad + shape.tensors, char{1});
        return;
    }
    if (call.guarded) {
        share(tiles, threads, [&](Part part, int thread) { find_bad_part(call, tensors, part, flags[thread].data()); });
        gather_flags();
    }
    std::vector<Shared> shared(shape.tensors * shape.particles);
    if constexpr (Kind::LOOKS_TWICE) {
        Kind first = make_kind<Kind>(call);
        for (int64_t index = 0; index < shape.tensors; ++index)
            for (int64_t particle = 0; particle < shape.particles; ++particle)
                if (!bad[index]) {
                    first.options = call.options_of(particle);
                    first.prime(call, tensors[index], particle);
                }
        std::vector<std::vector<Shared>> own(threads, std::vector<Shared>(shared.size()));
        share(tiles, threads, [&](Part part, int thread) {
            prepare_part<Kind>(call, tensors, part, flags[thread].data(), own[thread].data());
        });
        Kind kind = make_kind<Kind>(call);
        for (int64_t index = 0; index < shape.tensors; ++index)
            for (int64_t particle = 0; particle < shape.particles; ++particle) {
                const int64_t place = call.place(index, particle);
                for (auto& thread : own)
                    for (int k = 0; k < SUMS; ++k) shared[place].sums[k] += thread[place].sums[k];
                kind.options = call.options_of(particle);
                if (!bad[index]) kind.share(tensors[index], particle, shared[place], call.choices + 2 * place);
            }
    }
    auto part = call.state_is_bfloat16 ? step_part<Kind, bfloat16> : step_part<Kind, float>;
    share(tiles, threads, [&](Part own, int thread) {
        part(call, packed, tensors, own, shared.data(), flags[thread].data());
    });
    gather_flags();
    if constexpr (std::is_same_v<Kind, ScaleFree>) {
        share(shape.tensors * shape.particles, threads, [&](Part own, int thread) {
            Whitening whitening;
            for (int64_t place = own.first; place < own.last; ++place) {
                const int64_t index = place / shape.particles, particle = place % shape.particles;
                const StepTensor& tensor = tensors[index];
                const auto rows = static_cast<int64_t>(tensor.number(particle)[1]);
                if (bad[index] != 1) *tensor.memory(ScaleFree::STEP, particle) += 1;
                if (bad[index] || tensor.count == 0 || !is_small(tensor.count, rows)) continue;
                // With finite params and directions only an absurd lr can make an update that is not.
                if (call.guarded && !(std::fabs(call.lr * call.choices[2 * place]) < 1e30f)) flags[thread][index] = 2;
                else finish_tensor(call, tensor, place, particle, whitening);
            }
        });
        gather_flags();
    }
}

static void step(const StepCall& call, const Packed& packed, const StepTensor* tensors, char* bad) {
    switch (call.kind) {
        case Kind::log_sign: return step_kind<LogSign>(call, packed, tensors, bad);
        case Kind::ratios: return step_kind<Ratios>(call, packed, tensors, bad);
        case Kind::residual: return step_kind<Residual>(call, packed, tensors, bad);
        case Kind::scale_free: return step_kind<ScaleFree>(call, packed, tensors, bad);
    }
}
