// What the library and its caller hand one another, by name: every struct here is laid out as the caller's table.
#pragma once

#include <algorithm>
#include <cstdint>

// Members of one type, and their names in order, for the caller to read (l2l_opt_layouts).
#define NAMED(type, ...) \
    type __VA_ARGS__;    \
    static constexpr const char* NAMES = #__VA_ARGS__;

namespace l2l_opt {

struct bfloat16 {
    uint16_t bits;
};

struct float16 {
    uint16_t bits;
};

using floats = const float*;
using scalar = float*;

// options: floats that a rule's options take; 0 for the network alone.
struct Problem {
    NAMED(
        int64_t, inputs, hidden, layers, outputs, particles, weight_sets, tensors, steps, options, threads,
        state_is_bfloat16, averages_are_bfloat16
    )
    int64_t inputs_of(int64_t layer) const { return (layer ? hidden : inputs) + hidden; }
    // Weights of one set lie layer by layer, then the read-out's.
    int64_t start_of(int64_t layer) const { return layer ? 4 * hidden * (inputs + hidden + (layer - 1) * 2 * hidden) : 0; }
    int64_t weights() const { return start_of(layers) + outputs * hidden; }
    int64_t most_inputs() const { return std::max(inputs, hidden) + hidden; }
    int64_t biases() const { return 4 * hidden * layers + outputs; }
    // Weights, biases and options: one set, or one a particle.
    int64_t set_of(int64_t particle) const { return weight_sets > 1 ? particle : 0; }
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

struct ForwardTensor { int64_t count; NAMED(Rows, inputs, hidden, cell, bias, outputs, next_hidden, next_cell) };

struct BackwardTensor {
    int64_t count;
    NAMED(
        Rows, inputs, hidden, cell, bias, next_hidden, d_outputs, d_next_hidden, d_next_cell, d_inputs, d_hidden, d_cell,
        d_bias
    )
};

// A window of steps: inputs [steps * inputs, particles, coordinates], d_outputs and d_inputs likewise, states before it.
struct ReplayTensor {
    int64_t count;
    NAMED(Rows, inputs, hidden, cell, bias, d_outputs, d_last_hidden, d_last_cell, d_inputs, d_bias)
};

// A parameter for a step in place. given: its kind's numbers of a tensor, [particles, Given]; scalars: addresses of what
// it keeps of one. The stride of param and of gradient, which are one row, is the address of their Format.
struct StepTensor { int64_t count; NAMED(Rows, param, gradient, hidden, cell, averages, squares, given, scalars) };

// How numbers lie that are not contiguous float32; of rank 0: contiguous, of another type.
struct FormatAxis { NAMED(int64_t, size, stride) };
struct Format {
    NAMED(int64_t, type, rank)
    enum Type : int64_t { FLOAT32, BFLOAT16, FLOAT16 };
    const FormatAxis* axes() const { return reinterpret_cast<const FormatAxis*>(this + 1); }
};
inline const Format* format_of(const Rows& numbers) { return reinterpret_cast<const Format*>(numbers.stride); }

// What a group of parameters sets for its step. guarded: not zero to leave out what is not finite.
struct Update { NAMED(float, lr, decay, sign, guarded) };

// A parameter for a step of a perceptron in place. columns: nowhere for a tensor without, whose rows are of its own shape;
// axes: AxesHead, then an Axis of each of its axes.
struct PerceptronTensor { int64_t count; NAMED(Rows, param, gradient, averages, square, rows, columns, step, axes) };

// rows, columns: how many there are; longer, shorter: coordinates of each row and of each column; inner: rows beside one
// another behind the shorter axis.
struct AxesHead { NAMED(int64_t, rank, rows, columns, longer, shorter, inner) };

// Where the next along an axis has its row's and its column's numbers; 0 where it has the same.
struct Axis { NAMED(int64_t, size, row_stride, column_stride) };

constexpr int MOST_AXES = 16;

// Decays of a perceptron's moments.
constexpr int BETAS = 7;

// numbers: weights and biases of one set, which lie one after the other; sets: one, or one a particle.
struct PerceptronSizes { NAMED(int64_t, hidden, layers, outputs, numbers, sets, particles, tensors, threads) };

// Those that a kind does not have are not read.
struct PerceptronOptions { NAMED(float, eps, input_eps, output_scale, magnitude_scale, most_gradient, clipped, warm_up) };

// What became of a tensor.
enum Flag : char { MOVED, UNMOVED, PARTLY_MOVED };

// Of a tensor of a kind that leaves directions: the size of an update of one, and the share that is whitened.
struct Heads {
    float size, whitened_share;
};

// What a kind is given of its rule (options, arrays: one set, or one a particle) and of a tensor (given), and the state of
// one number a particle that it brings up to date (scalars, by their keys in the state: trust is log_step_scale, seen the
// touched fraction, walk the random walk's variance).
struct Nothing {
    static constexpr const char* NAMES = "";
};

struct LogSignLayout {
    static constexpr const char* KIND = "log_sign";
    struct Options { NAMED(float, p, exp_minus_p, exp_p, output_scale) };
    struct Arrays { NAMED(floats, biases) };
    using Given = Nothing;
    using Scalars = Nothing;
};

// embedding_weight [inputs][2] and embedding_bias [inputs]: of the dense layer before the network.
struct RatiosLayout {
    static constexpr const char* KIND = "ratios";
    struct Options { NAMED(float, beta, eps_squared, output_scale) };
    struct Arrays { NAMED(floats, biases, embedding_weight, embedding_bias) };
    struct Given { NAMED(float, over_correction, step) };
    using Scalars = Nothing;
};

// betas: of three averages of gradients, and of that of squares; context_weight [biases][7]; over_...: one over the bias
// correction of each average.
struct ResidualLayout {
    static constexpr const char* KIND = "residual";
    struct Options { NAMED(float, eps, smallest_rms, output_scale, floor, growth) };
    struct Arrays { NAMED(floats, biases, betas, context_weight) };
    struct Given { NAMED(float, over_brief, over_middle, over_slow, over_square, fraction, step, first_rms, shrinkage) };
    using Scalars = Nothing;
};

// The tensor's network: tensor_weight [units][16], tensor_bias [units], head_weight [biases + 3][units], head_bias
// [biases + 3]. newton_schulz: [whitening_steps][3]. num_steps: negative where unknown; rows: of a matrix, 0 for none;
// natural_size: of a tensor that started at zero; least_rounded: shorter side of the smallest matrix that is rounded to
// bfloat16 before it is multiplied, 0 for none.
struct ScaleFreeLayout {
    static constexpr const char* KIND = "scale_free";
    struct Options {
        NAMED(
            float, output_scale, zero_start, growth, growth_power, small_power, natural_share, usual_run, largest_scale,
            steepness, cautious_run, step_scale_fall, fall_margin, braking, tiny, relative_eps, fast_beta, slow_beta,
            gradient_beta, units, least_annealed, unplanned_steps, unplanned_power, step_scale_rise, agreement_margin,
            least_log_step_scale, most_log_step_scale, touched_beta, touched_steps, least_touched, random_walk_vector,
            random_walk_matrix, least_growth, whitened_rms, whitening_steps, brake_from, least_rounded
        )
    };
    struct Arrays { NAMED(floats, biases, betas, tensor_weight, tensor_bias, head_weight, head_bias, newton_schulz) };
    struct Given { NAMED(float, num_steps, rows, natural_size) };
    struct Scalars { NAMED(scalar, first_rms, agreement_fast, agreement_slow, first_gradient, gradient, trust, seen, walk, step) };
};

}  // namespace l2l_opt
