"""How good a model of few labelled examples is: cross-validation beside scikit-learn's classifiers."""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from l2l_opt.checks import DataNote
from l2l_opt.few_shot.classifier.ensemble import Settings, adapt_ensemble
from l2l_opt.few_shot.models import make_model
from l2l_opt.rules import UpdateRule
from l2l_opt.tasks.tables.columns import is_like_a_number

ADAPTED, LOGISTIC, BOOSTING = "adapted", "logistic regression", "gradient boosting"
BASELINES = (LOGISTIC, BOOSTING)
LEAST_FOLDS, MOST_FOLDS, LEAST_MEMBERS = 2, 5, 4

LEAST_OF_A_CLASS = 2
"""Examples, so that one can be held back and one learned from."""
BUDGET = 30.0
"""Seconds, by a reckoning that no clock enters, so that results depend on nothing but data and options."""
MOST_EXAMPLES = 2000
"""That cross-validation uses; more change an interval little."""


def check_examples(targets: Tensor, classes: Sequence[str]) -> None:
    """Refuse what nothing can be learned from.

    Raises:
        ValueError: one class alone, a class of a single example, or labels that are measured numbers.
    """
    if len(classes) < 2:
        raise ValueError(
            f"there must be examples of at least two classes; got {classes[0]!r} alone, add examples of another"
        )
    counts = torch.bincount(targets, minlength=len(classes)).tolist()
    if len(classes) > 5 and 2 * counts.count(1) > len(classes) and all(map(is_like_a_number, classes)):
        raise ValueError(
            f"labels must be classes; got {len(classes)} different numbers such as {classes[0]} in {len(targets)} "
            "examples, which would be a regression, and none is offered: make classes of ranges of them, or use "
            "scikit-learn's Ridge or GradientBoostingRegressor"
        )
    for name, count in zip(classes, counts, strict=True):
        if count < LEAST_OF_A_CLASS:
            raise ValueError(
                f"every class must have at least {LEAST_OF_A_CLASS} examples; got {count} of {name!r}, "
                "add some or leave the class out"
            )


@dataclass(frozen=True)
class Plan:
    """How much of cross-validation a budget allows.

    Attributes:
        examples: that are used, drawn class by class where they are not all.
        folds: at most.
        members: of our ensembles.
        methods: whose predictions are compared, ours first.
    """

    examples: int
    folds: int
    members: int
    methods: tuple[str, ...]

    def less(self, num_examples: int, settings: Settings) -> list[str]:
        """Return what there is less of than without a budget, in words."""
        return [
            *([f"{self.examples} of {num_examples} examples"] if self.examples < num_examples else []),
            *([f"{self.folds} folds instead of {MOST_FOLDS}"] if self.folds < MOST_FOLDS else []),
            *([f"{self.members} students instead of {settings.members}"] if self.members < settings.members else []),
            *(f"no {name}" for name in BASELINES if name not in self.methods),
        ]


def plan(shape: tuple[int, ...], num_classes: int, settings: Settings, *, budget: float = BUDGET) -> Plan:
    """Fold less often, then with fewer students, then without gradient boosting, as large data and small budgets ask.

    Args:
        shape: of all inputs, ``[examples, *input_shape]``.
        num_classes: how many there are.
        settings: of our ensemble.
        budget: seconds, roughly, on one core.
    """
    examples, num_inputs = min(shape[0], MOST_EXAMPLES), math.prod(shape[1:])
    model = make_model(settings.model, input_shape=shape[1:], num_outputs=num_classes)
    weights = sum(p.numel() for p in model.parameters())
    trees = 100 * (num_classes if num_classes > 2 else 1)
    seconds = {
        ADAPTED: settings.steps * (3e-3 + settings.members * (weights * 4e-8 + examples * 6e-7)),
        LOGISTIC: 1e-7 * examples * num_inputs * num_classes,
        BOOSTING: trees * (3e-4 + 3e-7 * examples * num_inputs),
    }
    if LEAST_FOLDS * seconds[BOOSTING] > budget / 2:
        del seconds[BOOSTING]
    folds = int(min(max(budget / sum(seconds.values()), LEAST_FOLDS), MOST_FOLDS))
    share = min(budget / (folds * seconds[ADAPTED]), 1)
    members = max(int(settings.members * share), min(settings.members, LEAST_MEMBERS))
    return Plan(examples, folds, members, tuple(seconds))


def folds_of(targets: Tensor, *, most: int = MOST_FOLDS, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
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
        LOGISTIC: make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
        BOOSTING: GradientBoostingClassifier(random_state=0),
    }


def metrics(probabilities: np.ndarray, targets: np.ndarray, *, positive: int | None) -> dict[str, float]:
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
    rule: UpdateRule,
    inputs: Tensor,
    targets: Tensor,
    *,
    num_classes: int,
    positive: int | None,
    settings: Settings,
    budget: float = BUDGET,
    watch: Callable[[list[Any]], Iterable[Any]] = iter,
) -> dict[str, dict[str, Any]]:
    """Of ours and of each baseline, the metrics of predictions for held-back examples, over stratified folds.

    PR-AUC has a 95 % interval, by a bootstrap over examples. What is left out to keep to the budget is
    noted.

    Args:
        rule: the update rule.
        inputs: ``[examples, *input_shape]``.
        targets: ``[examples]``.
        num_classes: how many there are.
        positive: of two classes the one to be found, or None.
        settings: of our ensemble.
        budget: seconds, roughly, on one core.
        watch: takes the list of what is to be done, (fold, method), and gives it one by one, as a progress bar does.
    """
    chosen = plan(tuple(inputs.shape), num_classes, settings, budget=budget)
    less = chosen.less(len(targets), settings)
    if less:
        about = f"to take {budget:g} seconds or so (--budget), cross-validation has {', '.join(less)}"
        warnings.warn(about, DataNote, stacklevel=2)
    if chosen.examples < len(targets):
        rows = _drawn(targets, chosen.examples)
        inputs, targets = inputs[rows], targets[rows]
    own = replace(settings, members=chosen.members)
    flat = inputs.flatten(1).double().numpy()
    found = {name: np.zeros((len(targets), num_classes)) for name in chosen.methods}
    folds = folds_of(targets, most=chosen.folds, seed=settings.seed)
    for (known, held_back), name in watch([(fold, name) for fold in folds for name in chosen.methods]):
        if name == ADAPTED:
            ensemble = adapt_ensemble(rule, inputs[known], targets[known], num_classes=num_classes, settings=own)
            found[name][held_back] = ensemble.probabilities(inputs[held_back]).numpy()
            continue
        classifier = baselines()[name].fit(flat[known], targets[known].numpy())
        found[name][held_back] = classifier.predict_proba(flat[held_back])
    results: dict[str, dict[str, Any]] = {}
    for name, probabilities in found.items():
        results[name] = dict(metrics(probabilities, targets.numpy(), positive=positive))
        interval = _interval(probabilities, targets.numpy(), results[name]["pr_auc"], positive=positive)
        results[name]["pr_auc_interval"] = list(interval)
    return results


def _drawn(targets: Tensor, count: int) -> Tensor:
    """So many examples, of each class its share and at least two."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for c in targets.unique():
        own = (targets == c).nonzero().squeeze(-1)
        size = max(len(own) * count // len(targets), LEAST_OF_A_CLASS)
        parts.append(own[torch.randperm(len(own), generator=generator)[:size]])
    return torch.cat(parts)


def _interval(
    probabilities: np.ndarray, targets: np.ndarray, estimate: float, *, positive: int | None, resamples: int = 500
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of PR-AUC over examples, drawn class by class (fixed seed), less the bias."""
    generator = np.random.default_rng(0)
    members = [np.flatnonzero(targets == c) for c in np.unique(targets)]
    times = np.stack(
        [
            np.bincount(np.concatenate([generator.choice(own, len(own)) for own in members]), minlength=len(targets))
            for _ in range(resamples)
        ]
    )
    wanted = np.unique(targets) if positive is None else [positive]
    values = np.mean([average_precisions(probabilities[:, c], targets == c, times) for c in wanted], axis=0)
    # Examples that are drawn twice find each other, so that resamples lie higher by and large.
    low, high = np.clip(np.quantile(values, [0.025, 0.975]) + estimate - values.mean(), 0, 1)
    return float(min(low, estimate)), float(max(high, estimate))


def average_precisions(scores: np.ndarray, happened: np.ndarray, times: np.ndarray) -> np.ndarray:
    """``sum over thresholds of (recall - recall before) * precision`` of many resamples at once: ``[resamples]``.

    Args:
        scores: ``[examples]``.
        happened: ``[examples]``, whether it did.
        times: ``[resamples, examples]``, how often each example is in a resample.
    """
    order = np.argsort(-scores, kind="stable")
    last_of_ties = np.append(np.diff(scores[order]) != 0, True)
    drawn = times[:, order]
    found = (drawn * happened[order]).cumsum(1)[:, last_of_ties]
    called = drawn.cumsum(1)[:, last_of_ties]
    new = np.diff(found, axis=1, prepend=0)
    return (new * found / np.maximum(called, 1)).sum(1) / found[:, -1]
