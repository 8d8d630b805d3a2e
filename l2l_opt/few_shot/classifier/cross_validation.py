"""How good a model of few labelled examples is: cross-validation beside scikit-learn's classifiers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from l2l_opt.few_shot.classifier.ensemble import Settings, adapt_ensemble
from l2l_opt.rules import UpdateRule

LEAST_OF_A_CLASS = 2
"""Examples, so that one can be held back and one learned from."""


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
