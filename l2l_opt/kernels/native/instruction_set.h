// All kernels for the instruction set that ISA, TARGET, W (floats a vector) and V (vectors a tile) stand for.
#pragma once

#include "backward.h"
#include "kernels.h"
#include "perceptron.h"
#include "replay.h"
#include "steps.h"

namespace l2l_opt::ISA {

const Kernels kernels{forward, backward, replay, step, step_perceptrons};

}  // namespace l2l_opt::ISA
