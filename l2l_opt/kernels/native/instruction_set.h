// All kernels for the instruction set that ISA, TARGET, W (floats a vector) and V (vectors a tile) stand for.
#pragma once

#include "backward.h"
#include "kernels.h"
#include "replay.h"
#include "steps.h"

namespace l2l_opt::ISA {

const Kernels kernels{forward, backward, replay, step};

}  // namespace l2l_opt::ISA
