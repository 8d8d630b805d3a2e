"""l2l_opt: learned optimizers in PyTorch, to meta-train and to use."""

import importlib
from typing import TYPE_CHECKING, Any

from l2l_opt.version import __version__ as __version__

# Loaded when first asked for (PEP 562), so that using a rule imports nothing of meta-training.
_HOMES = {
    "LearnedOptimizer": "l2l_opt.optimizer.learned_optimizer",
    "UpdateRule": "l2l_opt.rules.base",
    "CoordinatewiseLSTM": "l2l_opt.rules.lstm",
    "RNNProp": "l2l_opt.rules.rnnprop",
    "MetaTrainer": "l2l_opt.meta_training.trainer",
    "TruncatedBackprop": "l2l_opt.meta_training.estimators.truncated_backprop",
    "FullES": "l2l_opt.meta_training.estimators.evolution_strategies",
    "PES": "l2l_opt.meta_training.estimators.evolution_strategies",
    "NRES": "l2l_opt.meta_training.estimators.evolution_strategies",
    "TaskFamily": "l2l_opt.tasks.base",
    "ModuleTask": "l2l_opt.tasks.module_task",
    "load_rule": "l2l_opt.storage.rule_file",
    "save_rule": "l2l_opt.storage.rule_file",
    "list_pretrained": "l2l_opt.pretrained",
    "register_rule": "l2l_opt.rules.base",
    "register_task": "l2l_opt.tasks.base",
    "FewShotClassifier": "l2l_opt.few_shot.classifier.model",
    "specialise": "l2l_opt.specialising.run",
}

__all__ = [
    "NRES",
    "PES",
    "CoordinatewiseLSTM",
    "FewShotClassifier",
    "FullES",
    "LearnedOptimizer",
    "MetaTrainer",
    "ModuleTask",
    "RNNProp",
    "TaskFamily",
    "TruncatedBackprop",
    "UpdateRule",
    "list_pretrained",
    "load_rule",
    "register_rule",
    "register_task",
    "save_rule",
    "specialise",
]

if TYPE_CHECKING:
    from l2l_opt.few_shot.classifier.model import FewShotClassifier
    from l2l_opt.meta_training.estimators.evolution_strategies import NRES, PES, FullES
    from l2l_opt.meta_training.estimators.truncated_backprop import TruncatedBackprop
    from l2l_opt.meta_training.trainer import MetaTrainer
    from l2l_opt.optimizer.learned_optimizer import LearnedOptimizer
    from l2l_opt.pretrained import list_pretrained
    from l2l_opt.rules.base import UpdateRule, register_rule
    from l2l_opt.rules.lstm import CoordinatewiseLSTM
    from l2l_opt.rules.rnnprop import RNNProp
    from l2l_opt.specialising.run import specialise
    from l2l_opt.storage.rule_file import load_rule, save_rule
    from l2l_opt.tasks.base import TaskFamily, register_task
    from l2l_opt.tasks.module_task import ModuleTask


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'l2l_opt' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
