"""Meta-gradients. Importing this package registers all estimators."""

from l2l_opt.meta_training.estimators.base import ESTIMATORS, MetaGradient, MetaGradientEstimator
from l2l_opt.meta_training.estimators.evolution_strategies import NRES, PES, FullES
from l2l_opt.meta_training.estimators.meta_loss import MetaLoss
from l2l_opt.meta_training.estimators.truncated_backprop import TruncatedBackprop

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
