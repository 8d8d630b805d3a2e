// The coordinatewise LSTM of reference.py, forward and backward, for CPUs: plain C++ with vector extensions and no
// headers but the standard library's, so that it compiles in seconds and serves any version of torch.
//
// Everything in simd.h, lstm.h and passes.h is compiled once for each instruction set and chosen when it is called. The
// coordinates of all tensors and students are divided into tiles, the tiles among threads; sums are made in an order
// that depends on the number of threads alone.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

namespace {

constexpr int64_t padded(int64_t rows) { return (rows + 3) / 4 * 4; }

struct bfloat16 {
    uint16_t bits;
};

// Shape, Rows and the kinds of Tensor are laid out as the caller's tables of 64-bit integers.
struct Shape {
    int64_t inputs, hidden, layers, outputs, particles, weight_sets, tensors;
    int64_t inputs_of(int64_t layer) const { return (layer ? hidden : inputs) + hidden; }
    int64_t most_inputs() const { return std::max(inputs, hidden) + hidden; }
    int64_t biases() const { return 4 * hidden * layers + outputs; }
};

// A tensor [rows, particles, coordinates]; strides in elements, that of coordinates is one.
struct Rows {
    char* address;
    int64_t stride, particle_stride;
    template <typename T>
    T* at(int64_t particle, int64_t row = 0, int64_t coordinate = 0) const {
        if (address == nullptr) return nullptr;
        return reinterpret_cast<T*>(address) + particle * particle_stride + row * stride + coordinate;
    }
};

struct ForwardTensor {
    int64_t count;
    Rows inputs, hidden, cell, bias, outputs, next_hidden, next_cell;
};

struct BackwardTensor {
    int64_t count;
    Rows inputs, hidden, cell, bias, next_hidden, d_outputs, d_next_hidden, d_next_cell, d_inputs, d_hidden, d_cell, d_bias;
};

// A window of steps: inputs [steps * inputs, particles, coordinates], d_outputs and d_inputs likewise, states before it.
struct ReplayTensor {
    int64_t count;
    Rows inputs, hidden, cell, bias, d_outputs, d_last_hidden, d_last_cell, d_inputs, d_bias;
};

constexpr int MOST_MEMORIES = 9, MOST_UNITS = 64;
constexpr float PI = 3.14159265358979f;

// Parameters [particles, coordinates] with their gradients and state for a step in place. numbers: what a kind of rule is
// told of a tensor, [particles, number_stride]; memories: what it keeps of one, each [particles]; direction: where updates
// go instead of being added.
struct StepTensor {
    int64_t count;
    float* param;
    const float* gradient;
    Rows hidden, cell, averages, squares;
    const float* numbers;
    int64_t number_stride;
    float* memories[MOST_MEMORIES];
    float* direction;

    float* value(int64_t particle) const { return param + particle * count; }
    const float* number(int64_t particle) const { return numbers + particle * number_stride; }
    float* memory(int which, int64_t particle) const { return memories[which] + particle; }
};

enum class Kind { log_sign, ratios, residual, scale_free };

// NaN passes through.
float between(float value, float low, float high) { return value < low ? low : value > high ? high : value; }

struct StepCall {
    Shape shape;
    Kind kind;
    const float* options;
    const float* biases;
    float lr, decay, sign;
    bool guarded, reads_params, keeps_squares, weights_are_finite, state_is_bfloat16;
    int threads;
    int64_t option_stride;
    float* choices;  // [tensors, particles, 2]
    const float* whitening;  // root mean square of what is whitened, then [whitening_steps, 3]
    int64_t whitening_steps;

    // Options and biases belong to weights: one set, or one a particle.
    const float* options_of(int64_t particle) const { return options + (shape.weight_sets > 1 ? particle : 0) * option_stride; }
    const float* biases_of(int64_t particle) const {
        return biases + (shape.weight_sets > 1 ? particle : 0) * shape.biases();
    }
    int64_t place(int64_t tensor, int64_t particle) const { return tensor * shape.particles + particle; }
};

bool finite(const float* values, int64_t count) {
    float total = 0;
    for (int64_t at = 0; at < count; ++at) total += std::fabs(values[at]);
    return std::isfinite(total);
}

// Weights in the orders in which the passes read them, for each set: a row of `by_unit` is one unit's four gates for
// one input; `by_input` holds four inputs for one gate.
class Packed {
public:
    // weights: of each layer [sets, 4 * hidden, inputs] and [sets, 4 * hidden, hidden], then [sets, outputs, hidden].
    Packed(const Shape& shape, const float* const* weights, bool backward) : shape_(shape) {
        for (int64_t layer = 0; layer < shape.layers; ++layer) {
            starts_.push_back(size_);
            size_ += 4 * shape.hidden * (shape.inputs_of(layer) + (backward ? padded(shape.inputs_of(layer)) : 0));
        }
        starts_.push_back(size_);
        size_ += shape.outputs * shape.hidden;
        memory_.resize(size_ * shape.weight_sets);
        for (int64_t set = 0; set < shape.weight_sets; ++set) {
            for (int64_t layer = 0; layer < shape.layers; ++layer)
                pack_layer(set, layer, weights[2 * layer], weights[2 * layer + 1], backward);
            const float* readout = weights[2 * shape.layers] + set * shape.outputs * shape.hidden;
            std::copy(readout, readout + shape.outputs * shape.hidden, begin(set, shape.layers));
        }
    }
    const float* by_unit(int64_t particle, int64_t layer) const { return begin(set_of(particle), layer); }
    const float* by_input(int64_t particle, int64_t layer) const {
        return by_unit(particle, layer) + 4 * shape_.hidden * shape_.inputs_of(layer);
    }
    const float* readout(int64_t particle) const { return begin(set_of(particle), shape_.layers); }
    // Finite, and so are sums over them.
    bool is_finite() const { return finite(memory_.data(), static_cast<int64_t>(memory_.size())); }

private:
    int64_t set_of(int64_t particle) const { return shape_.weight_sets > 1 ? particle : 0; }
    const float* begin(int64_t set, int64_t layer) const { return memory_.data() + set * size_ + starts_[layer]; }
    float* begin(int64_t set, int64_t layer) { return memory_.data() + set * size_ + starts_[layer]; }

    void pack_layer(int64_t set, int64_t layer, const float* below, const float* own, bool backward) {
        const int64_t hidden = shape_.hidden, inputs = shape_.inputs_of(layer), num_below = inputs - hidden;
        below += set * 4 * hidden * num_below;
        own += set * 4 * hidden * hidden;
        float* by_unit = begin(set, layer);
        float* by_input = by_unit + 4 * hidden * inputs;
        for (int64_t g = 0; g < 4; ++g)
            for (int64_t j = 0; j < hidden; ++j)
                for (int64_t k = 0; k < inputs; ++k) {
                    const int64_t row = g * hidden + j;
                    float value = k < num_below ? below[row * num_below + k] : own[row * hidden + k - num_below];
                    by_unit[(j * inputs + k) * 4 + g] = value;
                    if (backward) by_input[(k / 4 * 4 * hidden + 4 * j + g) * 4 + k % 4] = value;
                }
    }

    Shape shape_;
    int64_t size_ = 0;
    std::vector<int64_t> starts_;
    std::vector<float> memory_;
};

// What one thread has summed of the derivatives of weights and biases, as the caller lays them out.
class Totals {
public:
    explicit Totals(const Shape& shape) : shape_(shape) {
        for (int64_t layer = 0; layer < shape.layers; ++layer) {
            starts_.push_back(size_);
            size_ += 4 * shape.hidden * shape.inputs_of(layer);
        }
        starts_.push_back(size_);
        size_ += shape.outputs * shape.hidden;
        weights_.resize(size_ * shape.weight_sets);
        biases_.resize(shape.particles * shape.tensors * shape.biases());
    }
    float* layer(int64_t particle, int64_t layer) {
        return weights_.data() + (shape_.weight_sets > 1 ? particle : 0) * size_ + starts_[layer];
    }
    float* bias(int64_t tensor, int64_t particle) {
        return biases_.data() + (tensor * shape_.particles + particle) * shape_.biases();
    }
    // d_weights: [weight_sets, all layers and the read-out, one after the other].
    template <typename Tensor>
    void add_to(float* d_weights, const Tensor* tensors) {
        for (size_t at = 0; at < weights_.size(); ++at) d_weights[at] += weights_[at];
        for (int64_t tensor = 0; tensor < shape_.tensors; ++tensor)
            for (int64_t particle = 0; particle < shape_.particles; ++particle) {
                float* to = tensors[tensor].d_bias.template at<float>(particle);
                for (int64_t at = 0; at < shape_.biases(); ++at) to[at] += bias(tensor, particle)[at];
            }
    }

private:
    Shape shape_;
    int64_t size_ = 0;
    std::vector<int64_t> starts_;
    std::vector<float> weights_, biases_;
};

// A share of all tiles, counted particle by particle and within a particle tensor by tensor.
struct Part {
    int64_t first, last;
};

template <typename Tensor>
int64_t tiles_of_particle(const Shape& shape, const Tensor* tensors, int64_t tile) {
    int64_t tiles = 0;
    for (int64_t index = 0; index < shape.tensors; ++index) tiles += (tensors[index].count + tile - 1) / tile;
    return tiles;
}

// Goes through a part in runs of coordinates of one tensor of one particle.
template <typename Tensor>
struct Runs {
    const Shape& shape;
    const Tensor* tensors;
    int64_t tile;
    Part part;
    int64_t per_particle;
    const Tensor* tensor = nullptr;
    int64_t index = 0, particle = 0, begin = 0, end = 0;

    Runs(const Shape& shape, const Tensor* tensors, int64_t tile, Part part)
        : shape(shape), tensors(tensors), tile(tile), part(part), per_particle(tiles_of_particle(shape, tensors, tile)) {}

    bool next() {
        if (part.first >= part.last) return false;
        particle = part.first / per_particle;
        int64_t skip = part.first % per_particle, tiles = 0;
        for (index = 0;; ++index, skip -= tiles) {
            tiles = (tensors[index].count + tile - 1) / tile;
            if (skip < tiles) break;
        }
        tensor = tensors + index;
        const int64_t taken = std::min(tiles - skip, part.last - part.first);
        begin = skip * tile;
        end = std::min((skip + taken) * tile, tensor->count);
        part.first += taken;
        return true;
    }
};

struct Workspace {
    std::vector<float> memory;
    explicit Workspace(int64_t floats) : memory(floats + 16, 0.0f) {}
    float* begin() {
        const auto address = reinterpret_cast<uintptr_t>(memory.data());
        return memory.data() + (64 - address % 64) % 64 / sizeof(float);
    }
};

// While it lives, numbers below 1e-38 count as zero in this thread. A rule that has learned saturates its gates, and
// derivatives through them get so small; a processor takes a hundred times as long over these as over others.
class FlushDenormals {
#if defined(__SSE__)
    unsigned before = __builtin_ia32_stmxcsr();

public:
    FlushDenormals() { __builtin_ia32_ldmxcsr(before | 0x8040); }
    ~FlushDenormals() { __builtin_ia32_ldmxcsr(before); }
#elif defined(__aarch64__)
    uint64_t before;

public:
    FlushDenormals() {
        __asm__ volatile("mrs %0, fpcr" : "=r"(before));
        __asm__ volatile("msr fpcr, %0" : : "r"(before | (uint64_t{1} << 24)));
    }
    ~FlushDenormals() { __asm__ volatile("msr fpcr, %0" : : "r"(before)); }
#else
public:
    FlushDenormals() {}
#endif
};

// run(part, thread) for each thread's share; the caller's thread takes the first.
template <typename Function>
void share(int64_t tiles, int threads, Function run) {
    std::vector<std::thread> others;
    auto own = [&](int thread) {
        FlushDenormals flush;
        run(Part{tiles * thread / threads, tiles * (thread + 1) / threads}, thread);
    };
    for (int thread = 1; thread < threads; ++thread) others.emplace_back(own, thread);
    own(0);
    for (auto& other : others) other.join();
}

// Fewer coordinates a thread than this are not worth starting one.
constexpr int64_t LEAST_A_THREAD = 2048;

int worthwhile(int threads, int64_t tiles, int64_t tile) {
    return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, tiles * tile / LEAST_A_THREAD)));
}

}  // namespace

#define INLINE static inline __attribute__((always_inline)) TARGET

namespace {

#if defined(__x86_64__)
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#define W 16
#define V 4
namespace avx512 {
#include "simd.h"
#include "lstm.h"
#include "passes.h"
#include "whiten.h"
#include "steps.h"
}
#undef TARGET
#undef W
#undef V
#define TARGET __attribute__((target("avx2,fma")))
#define W 8
#define V 3
namespace avx2 {
#include "simd.h"
#include "lstm.h"
#include "passes.h"
#include "whiten.h"
#include "steps.h"
}
#undef TARGET
#undef W
#undef V
#endif

#define TARGET
#define W 4
#if defined(__x86_64__)
#define V 2
#else
#define V 4
#endif
namespace baseline {
#include "simd.h"
#include "lstm.h"
#include "passes.h"
#include "whiten.h"
#include "steps.h"
}
#undef TARGET
#undef W
#undef V

enum class Isa { baseline, avx2, avx512 };

Isa best() {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return Isa::avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::avx2;
#endif
    return Isa::baseline;
}

Isa chosen = best();

}  // namespace

extern "C" {

const char* l2l_opt_instructions() {
    switch (chosen) {
        case Isa::avx512: return "AVX-512";
        case Isa::avx2: return "AVX2";
        default: return "baseline";
    }
}

// For tests: use an instruction set of this machine, 0 the least; returns the one in use.
int l2l_opt_choose_instructions(int isa) {
    chosen = static_cast<Isa>(std::min(std::max(isa, 0), static_cast<int>(best())));
    return static_cast<int>(chosen);
}

void l2l_opt_lstm_forward(
    const Shape* shape, const float* const* weights, const ForwardTensor* tensors, int threads, int state_is_bfloat16
) {
    const Packed packed(*shape, weights, false);
#if defined(__x86_64__)
    if (chosen == Isa::avx512) return avx512::forward(*shape, packed, tensors, threads, state_is_bfloat16);
    if (chosen == Isa::avx2) return avx2::forward(*shape, packed, tensors, threads, state_is_bfloat16);
#endif
    baseline::forward(*shape, packed, tensors, threads, state_is_bfloat16);
}

void l2l_opt_lstm_backward(
    const Shape* shape, const float* const* weights, const BackwardTensor* tensors, float* d_weights, int threads,
    int state_is_bfloat16
) {
    const Packed packed(*shape, weights, true);
#if defined(__x86_64__)
    if (chosen == Isa::avx512) return avx512::backward(*shape, packed, tensors, d_weights, threads, state_is_bfloat16);
    if (chosen == Isa::avx2) return avx2::backward(*shape, packed, tensors, d_weights, threads, state_is_bfloat16);
#endif
    baseline::backward(*shape, packed, tensors, d_weights, threads, state_is_bfloat16);
}

// Derivatives through a window of steps; d_weights and the tensors' d_bias are added to.
void l2l_opt_lstm_replay(
    const Shape* shape, const float* const* weights, const ReplayTensor* tensors, int steps, float* d_weights, int threads,
    int state_is_bfloat16
) {
    const Packed packed(*shape, weights, true);
#if defined(__x86_64__)
    if (chosen == Isa::avx512) return avx512::replay(*shape, packed, tensors, steps, d_weights, threads, state_is_bfloat16);
    if (chosen == Isa::avx2) return avx2::replay(*shape, packed, tensors, steps, d_weights, threads, state_is_bfloat16);
#endif
    baseline::replay(*shape, packed, tensors, steps, d_weights, threads, state_is_bfloat16);
}

// One step of an optimizer in place; numbers: lr, decay, sign. bad[tensor] becomes 1 where a guarded tensor was left as it
// was, 2 where only coordinates whose updates were not finite were.
void l2l_opt_step(
    const Shape* shape, int kind, const float* const* weights, const StepTensor* tensors, const float* biases,
    const float* options, int64_t option_stride, const float* numbers, int guarded, int state_is_bfloat16, int threads,
    char* bad, float* choices, const float* whitening, int64_t whitening_steps
) {
    const Packed packed(*shape, weights, false);
    const StepCall call{*shape, static_cast<Kind>(kind), options, biases, numbers[0], numbers[1], numbers[2], guarded != 0,
                        static_cast<Kind>(kind) >= Kind::residual, static_cast<Kind>(kind) != Kind::log_sign,
                        packed.is_finite() && finite(options, shape->weight_sets * option_stride)
                            && finite(biases, shape->weight_sets * shape->biases()) && finite(numbers, 3),
                        state_is_bfloat16 != 0, threads, option_stride, choices, whitening, whitening_steps};
#if defined(__x86_64__)
    if (chosen == Isa::avx512) return avx512::step(call, packed, tensors, bad);
    if (chosen == Isa::avx2) return avx2::step(call, packed, tensors, bad);
#endif
    baseline::step(call, packed, tensors, bad);
}
}
