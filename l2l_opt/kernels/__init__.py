"""The computation that everything waits for: one recurrent step of every coordinate."""

from l2l_opt.kernels.compiled_step import CompiledStep, bounded, number
from l2l_opt.kernels.native_perceptron import CompiledPerceptron
from l2l_opt.kernels.operator import fused_coordinatewise_lstm
from l2l_opt.kernels.reference import LSTMWeights, ReadoutWeights, coordinatewise_lstm
from l2l_opt.kernels.step import PreparedStep, particles_step_, serves_in_place, serves_particles

__all__ = [
    "CompiledPerceptron",
    "CompiledStep",
    "LSTMWeights",
    "PreparedStep",
    "ReadoutWeights",
    "bounded",
    "coordinatewise_lstm",
    "fused_coordinatewise_lstm",
    "number",
    "particles_step_",
    "serves_in_place",
    "serves_particles",
]
