// What is compiled once for each instruction set.
#pragma once

#include "layouts.h"
#include "packed.h"

namespace l2l_opt {

struct StepCall {
    const Problem& problem;
    const Update& update;
    const float* const* options;  // [sets]: addresses of Options, then of Arrays
    bool rule_is_finite;
};

// betas: of three averages, of squares, and of three averages of rows and columns, [sets][7]; weights: of each layer of the
// first set weight [outputs][inputs] and bias; num_steps: [particles], negative where unknown.
struct PerceptronCall {
    const PerceptronSizes* sizes;
    const PerceptronOptions* options;
    const Update* update;
    const float *betas, *timescales, *num_steps;
    const float* const* weights;
    bool rule_is_finite;
};

struct Kernels {
    void (*forward)(const Problem&, const Packed&, const ForwardTensor*);
    void (*backward)(const Problem&, const Packed&, const BackwardTensor*, float* d_weights);
    void (*replay)(const Problem&, const Packed&, const ReplayTensor*, float* d_weights);
    void (*step)(const char* kind, const StepCall&, const Packed&, const StepTensor*, Flag*);
    void (*step_perceptrons)(const char* kind, const PerceptronCall&, const PerceptronTensor*, Flag*);
};

namespace avx512 { extern const Kernels kernels; }
namespace avx2 { extern const Kernels kernels; }
namespace baseline { extern const Kernels kernels; }

}  // namespace l2l_opt
