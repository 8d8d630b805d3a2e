// The coordinatewise LSTM of reference.py, forward and backward, and steps of optimizers around it, for CPUs: plain C++ with
// vector extensions and no headers but the standard library's and the processor's, so that it compiles in seconds and serves any version of torch.
//
// What instruction_set.h includes is compiled once for each instruction set and chosen when it is called. The coordinates of
// all tensors and students are divided into tiles, the tiles among threads; sums are made in an order that depends on the
// number of threads alone.

#include <string>

#include "kernels.h"

using namespace l2l_opt;

namespace {

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

const Kernels& kernels() {
    switch (chosen) {
#if defined(__x86_64__)
        case Isa::avx512: return avx512::kernels;
        case Isa::avx2: return avx2::kernels;
#endif
        default: return baseline::kernels;
    }
}

template <typename Layout>
std::string layouts_of() {
    const std::string kind = Layout::KIND;
    return kind + ".options: " + Layout::Options::NAMES + "\n" + kind + ".arrays: " + Layout::Arrays::NAMES + "\n" + kind
        + ".given: " + Layout::Given::NAMES + "\n" + kind + ".scalars: " + Layout::Scalars::NAMES + "\n";
}

template <typename Struct>
std::string layout(const char* name) {
    return std::string(name) + ": " + Struct::NAMES + "\n";
}

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

// The names of what every table and struct holds, in order: a line each.
const char* l2l_opt_layouts() {
    static const std::string text = layout<Problem>("problem") + layout<ForwardTensor>("forward")
        + layout<BackwardTensor>("backward") + layout<ReplayTensor>("replay") + layout<StepTensor>("step")
        + layout<Update>("update") + layouts_of<LogSignLayout>() + layouts_of<RatiosLayout>()
        + layouts_of<ResidualLayout>() + layouts_of<ScaleFreeLayout>() + layout<PerceptronTensor>("perceptron")
        + layout<Format>("format") + layout<FormatAxis>("format.axis") + layout<AxesHead>("axes") + layout<Axis>("axis") + layout<PerceptronSizes>("perceptron.sizes")
        + layout<PerceptronOptions>("perceptron.options");
    return text.c_str();
}

void l2l_opt_lstm_forward(const Problem* problem, const float* const* weights, const ForwardTensor* tensors) {
    kernels().forward(*problem, Packed(*problem, weights, false), tensors);
}

// d_weights and the tensors' d_bias are added to, here and in the replay of a window of steps.
void l2l_opt_lstm_backward(
    const Problem* problem, const float* const* weights, const BackwardTensor* tensors, float* d_weights
) {
    kernels().backward(*problem, Packed(*problem, weights, true), tensors, d_weights);
}

void l2l_opt_lstm_replay(
    const Problem* problem, const float* const* weights, const ReplayTensor* tensors, float* d_weights
) {
    kernels().replay(*problem, Packed(*problem, weights, true), tensors, d_weights);
}

// One step of an optimizer in place. options: of each set the addresses of its kind's options and arrays, which lie one after
// the other, sets too.
void l2l_opt_step(
    const char* kind, const Problem* problem, const float* const* weights, const StepTensor* tensors,
    const float* const* options, const Update* update, Flag* flags
) {
    const Packed packed(*problem, weights, false);
    const bool rule_is_finite = packed.is_finite() && finite(options[0], problem->weight_sets * problem->options)
        && std::isfinite(update->lr) && std::isfinite(update->decay) && std::isfinite(update->sign);
    kernels().step(kind, StepCall{*problem, *update, options, rule_is_finite}, packed, tensors, flags);
}

// Likewise of a perceptron.
void l2l_opt_step_perceptrons(
    const char* kind, const PerceptronSizes* sizes, const PerceptronOptions* options, const float* betas,
    const float* timescales, const float* num_steps, const float* const* weights, const PerceptronTensor* tensors,
    const Update* update, Flag* flags
) {
    const bool is_finite = finite(weights[0], sizes->sets * sizes->numbers) && finite(betas, sizes->sets * BETAS) && std::isfinite(update->lr)
        && std::isfinite(update->decay) && std::isfinite(update->sign);
    const PerceptronCall call{sizes, options, update, betas, timescales, num_steps, weights, is_finite};
    kernels().step_perceptrons(kind, call, tensors, flags);
}
}
