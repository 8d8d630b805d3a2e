"""The computation that everything waits for: one recurrent step of every coordinate."""

from l2l_opt.kernels.operator import fused_coordinatewise_lstm
from l2l_opt.kernels.reference import LSTMWeights, ReadoutWeights, coordinatewise_lstm
from l2l_opt.kernels.step import (
    CompiledStep,
    finish_,
    particles_step_,
    prepare,
    recurrent_step_,
    serves_in_place,
    serves_particles,
)

__all__ = [
    "CompiledStep",
    "LSTMWeights",
    "ReadoutWeights",
    "coordinatewise_lstm",
    "finish_",
    "fused_coordinatewise_lstm",
    "particles_step_",
    "prepare",
    "recurrent_step_",
    "serves_in_place",
    "serves_particles",
]
