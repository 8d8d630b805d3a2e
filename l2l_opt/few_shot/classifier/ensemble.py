"""A user's own few labelled examples: an ensemble of fresh students taught by a rule, judged by cross-validation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from l2l_opt.few_shot.adapting import Drawn, adapt
from l2l_opt.few_shot.methods import Method
from l2l_opt.few_shot.models import make_model
from l2l_opt.randomness import Stream, make_generator
from l2l_opt.rules import UpdateRule
from l2l_opt.tasks.module_task import fresh_parameters, reset_parameters
from l2l_opt.types import Batch, Params, TaskData

LEAST_OF_A_CLASS = 2
"""Examples, so that one can be held back and one learned from."""


@dataclass(frozen=True)
class Settings:
    """How an ensemble is made.

    Attributes:
        model: of each student, ``name:option=value,...`` of ``few_shot.models``.
        steps: updates by all examples at once.
        members: students.
        decay: of squared weights in the loss.
        hidden_inputs: the share of inputs that each student never sees, so that students differ.
        seed: of everything random.
    """

    model: str = "mlp:hidden=32x32"
    steps: int = 50
    members: int = 16
    decay: float = 0.01
    hidden_inputs: float = 0.3
    seed: int = 0


class _Students:
    """The students of one ensemble as a task family: cross-entropy with decay, on inputs of which each sees a part."""

    def __init__(self, model: nn.Module, decay: float, examples: Batch):
        self.model, self.decay, self.examples = model, decay, examples

    def sample(self, generator: torch.Generator) -> TaskData:
        return {}

    def init_params(self, data: TaskData, generator: torch.Generator) -> Params:
        return fresh_parameters(self.model, reset_parameters, generator, torch.device("cpu"))

    def sample_batch(self, data: TaskData, generator: torch.Generator, split: str = "train") -> Batch:
        """All examples; nothing is drawn."""
        return self.examples

    def loss(self, params: Params, data: TaskData, batch: Batch) -> Tensor:
        outputs = functional_call(self.model, params, (batch["inputs"] * data["seen"],))
        loss = nn.functional.cross_entropy(outputs, batch["targets"])
        return loss + self.decay * sum((p.square().sum() for p in params.values() if p.dim() > 1), loss.new_zeros(()))


@dataclass(frozen=True)
class Ensemble:
    """Students that have adapted.

    Attributes:
        settings: how they were made.
        input_shape: of an example.
        num_classes: that they tell apart.
        params: each ``[members, *param.shape]``.
        seen: ``[members, *input_shape]``, 1 for inputs that a student sees and 0 elsewhere.
    """

    settings: Settings
    input_shape: tuple[int, ...]
    num_classes: int
    params: Params
    seen: Tensor

    def probabilities(self, inputs: Tensor) -> Tensor:
        """Of each class, the mean over students: ``[examples, num_classes]``, float64."""
        model = make_model(self.settings.model, input_shape=self.input_shape, num_outputs=self.num_classes)

        def of_student(params: Params, seen: Tensor) -> Tensor:
            return functional_call(model, params, (inputs * seen,))

        with torch.no_grad():
            outputs = vmap(of_student)(self.params, self.seen)
        return outputs.double().softmax(-1).mean(0)


def adapt_ensemble(
    rule: UpdateRule, inputs: Tensor, targets: Tensor, *, num_classes: int, settings: Settings
) -> Ensemble:
    """Teach fresh students the examples.

    Args:
        rule: the teacher.
        inputs: ``[examples, *input_shape]``, of mean 0 and deviation 1 or so.
        targets: ``[examples]``, classes.
        num_classes: how many there are.
        settings: of the ensemble.
    """
    shape = tuple(inputs.shape[1:])
    model = make_model(settings.model, input_shape=shape, num_outputs=num_classes)
    students = _Students(model, settings.decay, {"inputs": inputs, "targets": targets})
    params, seen = [], []
    for member in range(settings.members):
        generator = make_generator(settings.seed, Stream.META_TRAINING, member)
        params.append(students.init_params({}, generator))
        # An image is one input of many pixels; a student sees all of it.
        keep = torch.rand(shape, generator=generator) >= settings.hidden_inputs
        seen.append(keep if len(shape) == 1 and bool(keep.any()) else torch.ones(shape, dtype=torch.bool))
    data = {"seen": torch.stack(seen).to(inputs.dtype)}
    fresh = {name: torch.stack([own[name] for own in params]) for name in params[0]}
    batch = {key: value.expand(settings.members, *value.shape) for key, value in students.examples.items()}
    method = Method(rule, learns_initialisation=False, second_derivatives=False)
    with torch.no_grad():
        adapted = adapt(method, students, fresh, Drawn(data, [batch] * settings.steps, batch, fresh))
    return Ensemble(settings, shape, num_classes, adapted.params, data["seen"])


def check_examples(targets: Tensor, classes: Sequence[str]) -> None:
    """Refuse what nothing can be learned from.

    Raises:
        ValueError: one class alone, or a class of a single example.
    """
    counts = torch.bincount(targets, minlength=len(classes)).tolist()
    if len(classes) < 2:
        raise ValueError(
            f"there must be examples of at least two classes; got {classes[0]!r} alone, add examples of another"
        )
    for name, count in zip(classes, counts, strict=True):
        if count < LEAST_OF_A_CLASS:
            raise ValueError(
                f"every class must have at least {LEAST_OF_A_CLASS} examples; got {count} of {name!r}, "
                "add some or leave the class out"
            )


def folds_of(targets: Tensor, *, most: int = 5, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Stratified folds, as many as the smallest class allows: indices to learn from and indices held back."""
    from sklearn.model_selection import StratifiedKFold

    count = min(most, int(torch.bincount(targets)[targets.unique()].min()))
    splitter = StratifiedKFold(count, shuffle=True, random_state=seed)
    parts = splitter.split(np.zeros(len(targets)), targets.numpy())
    return [(torch.from_numpy(known), torch.from_numpy(held_back)) for known, held_back in parts]


def baselines() -> dict[str, Any]:
    """scikit-learn's classifiers that ours is shown beside, with their defaults on standardised inputs."""
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return {
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
        "gradient boosting": GradientBoostingClassifier(random_state=0),
    }


def figures(probabilities: np.ndarray, targets: np.ndarray, *, positive: int | None) -> dict[str, float]:
    """PR-AUC, ROC-AUC and calibration error of predictions.

    Args:
        probabilities: ``[examples, classes]``.
        targets: ``[examples]``.
        positive: of two classes the one to be found; None for the mean over classes, each against all others.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    wanted = range(probabilities.shape[1]) if positive is None else [positive]
    present = [c for c in wanted if 0 < (targets == c).sum() < len(targets)]
    return {
        "pr_auc": float(np.mean([average_precision_score(targets == c, probabilities[:, c]) for c in present])),
        "roc_auc": float(np.mean([roc_auc_score(targets == c, probabilities[:, c]) for c in present])),
        "calibration_error": float(
            np.mean([calibration_error(probabilities[:, c], targets == c) for c in present]),
        ),
    }


def calibration_error(probabilities: np.ndarray, happened: np.ndarray, *, bins: int = 10) -> float:
    """``sum over bins of |bin| / n * |mean probability - share that happened|``, bins of equal width.

    Source: Naeini, Cooper and Hauskrecht, AAAI 2015, section on expected calibration error.
    """
    place = np.minimum((probabilities * bins).astype(int), bins - 1)
    gaps = [
        (place == b).mean() * abs(probabilities[place == b].mean() - happened[place == b].mean())
        for b in np.unique(place)
    ]
    return float(np.sum(gaps))


def cross_validate(
    rule: UpdateRule, inputs: Tensor, targets: Tensor, *, num_classes: int, positive: int | None, settings: Settings
) -> dict[str, dict[str, Any]]:
    """Of ours and of each baseline, the figures of predictions for held-back examples, over stratified folds.

    PR-AUC has a 95 % interval, by a bootstrap over examples.
    """
    found: dict[str, np.ndarray] = {name: np.zeros((len(targets), num_classes)) for name in ("adapted", *baselines())}
    for known, held_back in folds_of(targets, seed=settings.seed):
        ensemble = adapt_ensemble(rule, inputs[known], targets[known], num_classes=num_classes, settings=settings)
        found["adapted"][held_back] = ensemble.probabilities(inputs[held_back]).numpy()
        flat = inputs.flatten(1).double().numpy()
        for name, classifier in baselines().items():
            classifier.fit(flat[known], targets[known].numpy())
            found[name][held_back] = classifier.predict_proba(flat[held_back])
    results = {}
    for name, probabilities in found.items():
        own = figures(probabilities, targets.numpy(), positive=positive)
        low, high = _interval(probabilities, targets.numpy(), positive=positive)
        results[name] = {**own, "pr_auc_interval": [low, high]}
    return results


def _interval(
    probabilities: np.ndarray, targets: np.ndarray, *, positive: int | None, resamples: int = 500
) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of PR-AUC over examples, drawn class by class (fixed seed)."""
    generator = np.random.default_rng(0)
    members = [np.flatnonzero(targets == c) for c in np.unique(targets)]
    values = []
    for _ in range(resamples):
        rows = np.concatenate([generator.choice(own, len(own)) for own in members])
        values.append(figures(probabilities[rows], targets[rows], positive=positive)["pr_auc"])
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
