"""A few-shot meta-training run on disk.

DIR/learner.safetensors  best on the validation episodes
DIR/last.safetensors     after the last outer step
DIR/rule.safetensors     the best learner's rule, where it was learned and is of use to other students
DIR/run.json, DIR/checkpoint/, DIR/events/ as in l2l_opt.meta_training.run
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from l2l_opt.few_shot.meta_learner import MetaLearner
from l2l_opt.few_shot.saved_learner import LearnerConfig, load_weights, save_learner, ships_rule
from l2l_opt.meta_training.outer_loop import copy_weights
from l2l_opt.meta_training.run import ResumableRun
from l2l_opt.storage.rule_file import save_rule
from l2l_opt.types import Params


class FewShotRun(ResumableRun[MetaLearner]):
    """Runs a ``MetaLearner`` in a folder.

    Args:
        folder: where everything is written.
        trainer: freshly built.
        config: what its learner is built from.
        options: as in ``ResumableRun``, with ``card``, ``data``, ``resume``, ``allow_changed_options`` and ``say``.
    """

    def __init__(self, folder: Path, trainer: MetaLearner, *, config: LearnerConfig, **options: Any):
        self.config = config
        super().__init__(folder, trainer, **options)

    def save_artefacts(self, card: Mapping[str, Any], best: Mapping[str, Params] | None) -> dict[str, str]:
        learner = self.trainer
        learned = {} if best is None else {"learner": best}
        digests = {
            name: save_learner(self.folder / f"{name}.safetensors", self.config, **weights, card=card)
            for name, weights in (learned | {"last": copy_weights(learner.weights)}).items()
        }
        if best is not None and ships_rule(learner.method):
            rule = copy.deepcopy(learner.rule)
            load_weights(rule, best["phi"])
            digests["rule"] = save_rule(rule, self.folder / "rule.safetensors", card=card)
        return digests
