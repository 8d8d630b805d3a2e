"""Meta-gradients. Importing this package registers all estimators."""

from l2l_opt.estimators.base import ESTIMATORS, MetaGradient, MetaGradientEstimator
from l2l_opt.estimators.evolution import NRES, PES, FullES
from l2l_opt.estimators.meta_loss import MetaLoss
from l2l_opt.estimators.truncated_backprop import TruncatedBackprop

__all__ = [
    "ESTIMATORS",
    "NRES",
    "PES",
    "FullES",
    "MetaGradient",
    "MetaGradientEstimator",
    "MetaLoss",
    "TruncatedBackprop",
]
