"""The scale-free rule as kernels take it: its numbers and tensors by the names that native/layouts.h has for them."""

from typing import Any

import torch
from torch import Tensor

from l2l_opt.rules.products import LEAST_ROUNDED, rounds_products
from l2l_opt.rules.scale_free.features import (
    AGREEMENT_BETAS,
    AGREEMENT_MARGIN,
    BETAS,
    GRADIENT_BETA,
    LEAST_LOG_STEP_SCALE,
    LEAST_TOUCHED,
    MOST_LOG_STEP_SCALE,
    RELATIVE_EPS,
    SQUARE_BETA,
    STEP_SCALE_RISE,
    TINY,
    TOUCHED_BETA,
    TOUCHED_STEPS,
)
from l2l_opt.rules.scale_free.law import (
    BRAKE_FROM,
    LEAST_ANNEALED,
    LEAST_GROWTH,
    RANDOM_WALK_MATRIX,
    RANDOM_WALK_VECTOR,
    UNPLANNED_POWER,
    UNPLANNED_STEPS,
    StepLaw,
)
from l2l_opt.rules.scale_free.whitening import NEWTON_SCHULZ, WHITENED_RMS
from l2l_opt.types import Params


def options_of(law: StepLaw, units: int) -> dict[str, float]:
    """Return the numbers of a rule whose tensors' network has so many units."""
    return {key: value for key, value in law._asdict().items() if key != "zero_scale"} | {
        "tiny": TINY,
        "relative_eps": RELATIVE_EPS,
        "fast_beta": AGREEMENT_BETAS[0],
        "slow_beta": AGREEMENT_BETAS[1],
        "gradient_beta": GRADIENT_BETA,
        "units": units,
        "least_annealed": LEAST_ANNEALED,
        "unplanned_steps": UNPLANNED_STEPS,
        "unplanned_power": UNPLANNED_POWER,
        "step_scale_rise": STEP_SCALE_RISE,
        "agreement_margin": AGREEMENT_MARGIN,
        "least_log_step_scale": LEAST_LOG_STEP_SCALE,
        "most_log_step_scale": MOST_LOG_STEP_SCALE,
        "touched_beta": TOUCHED_BETA,
        "touched_steps": TOUCHED_STEPS,
        "least_touched": LEAST_TOUCHED,
        "random_walk_vector": RANDOM_WALK_VECTOR,
        "random_walk_matrix": RANDOM_WALK_MATRIX,
        "least_growth": LEAST_GROWTH,
        "whitened_rms": WHITENED_RMS,
        "whitening_steps": len(NEWTON_SCHULZ),
        "brake_from": BRAKE_FROM,
        "least_rounded": LEAST_ROUNDED if rounds_products() else 0,
    }


def arrays_of(phi: Params, head_scales: Tensor) -> dict[str, Any]:
    """Return the tensors of a rule, of phi or of particles' phi ``[P, ...]``, and constants."""
    return {
        "biases": torch.cat([phi["layer.bias"], phi["readout.bias"]], -1),
        "betas": (*BETAS, SQUARE_BETA),
        "tensor_weight": phi["tensor_layer.weight"],
        "tensor_bias": phi["tensor_layer.bias"],
        "head_weight": torch.cat([phi["gates.weight"], phi["choices.weight"] * head_scales.unsqueeze(1)], -2),
        "head_bias": torch.cat([phi["gates.bias"], phi["choices.bias"] * head_scales], -1),
        "newton_schulz": NEWTON_SCHULZ,
    }
