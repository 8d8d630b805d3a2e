// Steps of an optimizer, in place: what a rule sees of gradients, the network, and the update, tile by tile.
//
// A kind of rule has look(), which fills the network's inputs for one tile and may bring its moments up to date, and
// answer(), which makes updates of the network's outputs.

// What the coordinates of one tensor share, from sums over them; for rules that look at more than a coordinate.
struct Shared {
    double squares[4] = {};
    float size = 0, over_rms = 0, over_root_rms = 0;
    std::vector<float> biases;
};

// LSTM on log_sign gradients (lstm.py). Options: p, e^-p, e^p, output_scale.
struct LogSign {
    static constexpr bool LOOKS_TWICE = false;
    const float* options;
    const Shape& shape;

    TARGET void look(const StepTensor&, const Shared&, const vec* gradient, float* in, int64_t, int) {
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

    TARGET void look(const StepTensor& tensor, const Shared&, const vec* gradient, float* in, int64_t at, int n) {
        const float beta = options[0], over_mass = tensor.numbers[0];
        const float *weight = options + 3, *bias = weight + 2 * shape.inputs;
        alignas(64) float average[TILE], square[TILE];
        gather(average, tensor.averages.at<float>(0, 0, at), 0, 1, n);
        gather(square, tensor.squares.at<float>(0, 0, at), 0, 1, n);
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
        scatter(tensor.averages.at<float>(0, 0, at), 0, average, 1, n);
        scatter(tensor.squares.at<float>(0, 0, at), 0, square, 1, n);
    }
    TARGET void answer(const Shared&, const float* out, vec* updates) {
        for (int v = 0; v < V; ++v) updates[v] = -options[2] * tanh(load(out + v * W));
    }
};

// The compact rule (compact.py). Options: betas of three averages, beta of squares, eps, then as in share() below.
// numbers: one over the masses of the averages and of the squares, then fraction, time, first rms, shrinkage.
struct Residual {
    static constexpr bool LOOKS_TWICE = true;
    const float* options;
    const Shape& shape;
    alignas(64) float momenta[3 * TILE] = {};

    // Brings moments up to date and sums squares: p, r, m_.99 / r and m_.9 / r.
    TARGET void prepare(const StepTensor& tensor, const vec* gradient, vec (&sums)[4], int64_t at, int n) {
        alignas(64) float moments[4 * TILE], param[TILE];
        gather(moments, tensor.averages.at<float>(0, 0, at), tensor.averages.stride, 3, n);
        gather(moments + 3 * TILE, tensor.squares.at<float>(0, 0, at), 0, 1, n);
        gather(param, tensor.param + at, 0, 1, n);
        for (int v = 0; v < V; ++v) {
            vec g = gradient[v];
            float* here = moments + v * W;
            for (int k = 0; k < 3; ++k)
                store(here + k * TILE, load(here + k * TILE) * options[k] + g * (1.0f - options[k]));
            store(here + 3 * TILE, load(here + 3 * TILE) * options[3] + g * g * (1.0f - options[3]));
            vec r = root(load(here + 3 * TILE) * tensor.numbers[3]) + options[4], over_r = 1.0f / r;
            vec slow = load(here + 2 * TILE) * tensor.numbers[2] * over_r;
            vec middle = load(here + TILE) * tensor.numbers[1] * over_r;
            vec p = load(param + v * W);
            // What lies beyond the tensor has gradient and moments of zero, and adds eps to the sum of r alone.
            vec terms[4] = {p * p, r * r, slow * slow, middle * middle};
            for (int k = 0; k < 4; ++k) sums[k] += terms[k];
        }
        scatter(tensor.averages.at<float>(0, 0, at), tensor.averages.stride, moments, 3, n);
        scatter(tensor.squares.at<float>(0, 0, at), 0, moments + 3 * TILE, 1, n);
    }

    // Options from 5 on: smallest rms, output_scale, floor, growth, then biases [B] and context weights [B][7].
    TARGET void share(const StepTensor& tensor, Shared& shared) const {
        float rms[4];
        for (int k = 0; k < 4; ++k)
            rms[k] = static_cast<float>(std::sqrt(shared.squares[k] / static_cast<double>(tensor.count)));
        const float smallest = options[5], fraction = tensor.numbers[4], time = tensor.numbers[5];
        const float param_rms = std::max(rms[0], smallest);
        const float context[7] = {
            fraction, fraction * fraction, std::sqrt(fraction), std::tanh(time / 10 - 1), 0.3f * std::log(param_rms),
            2 * rms[2] - 1, 2 * rms[3] - 1,
        };
        const int64_t count = shape.biases();
        const float *bias = options + 9, *weight = bias + count;
        shared.biases.assign(bias, bias + count);
        for (int64_t b = 0; b < count; ++b)
            for (int k = 0; k < 7; ++k) shared.biases[b] += weight[7 * b + k] * context[k];
        const float reach = std::max(std::min(rms[0], options[8] * tensor.numbers[6]), options[7]);
        shared.size = options[6] * (1 + std::cos(3.14159265358979f * fraction)) / 2 * tensor.numbers[7] * reach;
        shared.over_rms = 1 / param_rms;
        shared.over_root_rms = 1 / std::max(rms[1], options[4]);
    }

    TARGET void look(const StepTensor& tensor, const Shared& shared, const vec* gradient, float* in, int64_t at, int n) {
        alignas(64) float square[TILE];
        gather(in + TILE, tensor.averages.at<float>(0, 0, at), tensor.averages.stride, 3, n);
        gather(square, tensor.squares.at<float>(0, 0, at), 0, 1, n);
        gather(in + 4 * TILE, tensor.param + at, 0, 1, n);
        for (int v = 0; v < V; ++v) {
            float* x = in + v * W;
            vec r = root(load(square + v * W) * tensor.numbers[3]) + options[4], over_r = 1.0f / r;
            store(x, within(gradient[v] * over_r, 5.0f));
            for (int k = 0; k < 3; ++k) {
                vec ratio = load(x + (1 + k) * TILE) * tensor.numbers[k] * over_r;
                store(momenta + k * TILE + v * W, ratio);
                store(x + (1 + k) * TILE, within(ratio, 5.0f));
            }
            store(x + 4 * TILE, within(load(x + 4 * TILE) * shared.over_rms, 5.0f));
            store(x + 5 * TILE, logarithm(r * shared.over_root_rms + 1e-3f));
        }
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

TARGET static void read_gradient(const StepCall& call, const StepTensor& tensor, int64_t at, int n, vec* gradient) {
    alignas(64) float tile[TILE];
    gather(tile, tensor.gradient + at, 0, 1, n);
    for (int v = 0; v < V; ++v) gradient[v] = load(tile + v * W) * call.sign;
}

// Whether every gradient of a part (and parameter, where the kind reads them) is finite, and its square where that is kept.
TARGET static void find_bad_part(const StepCall& call, const StepTensor* tensors, Part part, char* bad) {
    for (Runs<StepTensor> run(call.shape, tensors, TILE, part); run.next();) {
        const float* sources[2] = {run.tensor->gradient, call.reads_params ? run.tensor->param : nullptr};
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
TARGET static void prepare_part(const StepCall& call, const StepTensor* tensors, Part part, const char* bad, Shared* shared) {
    Kind kind{call.options, call.shape};
    for (Runs<StepTensor> run(call.shape, tensors, TILE, part); run.next();) {
        if (bad[run.index]) continue;
        vec sums[4] = {};
        for (int64_t at = run.begin, since = 0; at < run.end; at += TILE) {
            const int n = static_cast<int>(std::min<int64_t>(TILE, run.end - at));
            vec gradient[V];
            read_gradient(call, *run.tensor, at, n, gradient);
            kind.prepare(*run.tensor, gradient, sums, at, n);
            if (++since == 64 || at + TILE >= run.end) {
                for (int k = 0; k < 4; ++k) {
                    shared[run.index].squares[k] += sum(sums[k]);
                    sums[k] = vec{};
                }
                // The padding's eps^2, which prepare() could not leave out.
                if (n < TILE) shared[run.index].squares[1] -= static_cast<double>(TILE - n) * call.options[4] * call.options[4];
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
    Kind kind{call.options, shape};
    for (Runs<StepTensor> run(shape, tensors, TILE, part); run.next();) {
        const StepTensor& tensor = *run.tensor;
        const Shared& own = shared[run.index];
        if (bad[run.index] == 1) continue;
        const float* bias = Kind::LOOKS_TWICE ? own.biases.data() : call.biases;
        for (int64_t at = run.begin; at < run.end; at += TILE) {
            const int n = static_cast<int>(std::min<int64_t>(TILE, run.end - at));
            vec gradient[V], updates[V], nothing = {};
            read_gradient(call, tensor, at, n, gradient);
            kind.look(tensor, own, gradient, body.in, at, n);
            body.run<State>(packed, bias, tensor.hidden, tensor.cell, 0, at, n);
            kind.answer(own, body.outputs, updates);
            alignas(64) float param[TILE];
            gather(param, tensor.param + at, 0, 1, n);
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
            body.keep<State>(tensor.hidden, tensor.cell, 0, at, n);
            scatter(tensor.param + at, 0, param, 1, n);
        }
    }
}

template <typename Kind>
static void step_kind(const StepCall& call, const Packed& packed, const StepTensor* tensors, char* bad) {
    const Shape& shape = call.shape;
    const int64_t tiles = tiles_of_particle(shape, tensors, TILE);
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
    std::vector<Shared> shared(shape.tensors);
    if constexpr (Kind::LOOKS_TWICE) {
        std::vector<std::vector<Shared>> own(threads, std::vector<Shared>(shape.tensors));
        share(tiles, threads, [&](Part part, int thread) {
            prepare_part<Kind>(call, tensors, part, flags[thread].data(), own[thread].data());
        });
        for (int64_t index = 0; index < shape.tensors; ++index) {
            for (auto& thread : own)
                for (int k = 0; k < 4; ++k) shared[index].squares[k] += thread[index].squares[k];
            if (tensors[index].count) Kind{call.options, shape}.share(tensors[index], shared[index]);
        }
    }
    auto part = call.state_is_bfloat16 ? step_part<Kind, bfloat16> : step_part<Kind, float>;
    share(tiles, threads, [&](Part own, int thread) {
        part(call, packed, tensors, own, shared.data(), flags[thread].data());
    });
    gather_flags();
}

static void step(const StepCall& call, const Packed& packed, const StepTensor* tensors, char* bad) {
    switch (call.kind) {
        case Kind::log_sign: return step_kind<LogSign>(call, packed, tensors, bad);
        case Kind::ratios: return step_kind<Ratios>(call, packed, tensors, bad);
        case Kind::residual: return step_kind<Residual>(call, packed, tensors, bad);
    }
}
