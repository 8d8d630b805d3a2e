"""Two cases of industry: placeholder pictures and fraud, from 10, 30 and 100 labelled examples.

    python -m scripts.experiments.industry.measure_industry placeholder
    python -m scripts.experiments.industry.measure_industry fraud           # needs river, extra [industry]

Each writes results/industry/NAME.json.

Worlds, merchants, styles and pictures are others than those that anything was developed on.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_curve
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import SelfTrainingClassifier
from torch import Tensor

from l2l_opt.evaluation.statistics import mean_and_interval
from l2l_opt.few_shot.base_models.images import NAMES, ImageModels, fit_image_models, statistics
from l2l_opt.few_shot.base_models.tables import LabelledRows, encode, fit_table_models, predictions_of_table
from l2l_opt.few_shot.self_training import meta_learn_self_training
from l2l_opt.few_shot.stacking import (
    Predictions,
    StackingEpisodes,
    TopLevel,
    as_weights,
    draw_labelled,
    flip,
    meta_learn,
)
from l2l_opt.tasks.images.datasets import load_fashion_subset
from scripts.examples.industry.merchants import generate_merchant, view_of_table
from scripts.examples.industry.placeholders import STYLES, as_in_a_shop, render_placeholders
from scripts.examples.industry.shops import CAPTIONS, generate_shop, other_shops, predictions_of_shop
from scripts.experiments import records
from scripts.experiments.few_shot.measure_adapt import shuttle

SIZES = (10, 30, 100)
Metrics = dict[str, dict[str, float]]


def baselines(inputs: np.ndarray, known: Tensor, targets: Tensor, pool: Tensor, query: Tensor) -> dict[str, np.ndarray]:
    """scikit-learn's, of the same labelled examples: the scores of each for the query ones."""

    def logistic() -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))

    labels = np.concatenate([targets.numpy(), np.full(len(pool), -1)])
    both = np.concatenate([inputs[known], inputs[pool]])
    boosted = GradientBoostingClassifier(random_state=0)
    fitted = {
        "logistic regression": logistic().fit(inputs[known], targets),
        "gradient boosting": boosted.fit(inputs[known], targets),
        "self-training": SelfTrainingClassifier(logistic()).fit(both, labels),
    }
    return {name: model.predict_proba(inputs[query])[:, 1] for name, model in fitted.items()}


def stacked(inputs: Tensor, known: Tensor, targets: Tensor, query: Tensor) -> np.ndarray:
    """Logistic regression on all that the top-level learner sees."""
    model = LogisticRegression(max_iter=1000).fit(inputs[known].numpy(), targets)
    return model.predict_proba(inputs[query].numpy())[:, 1]


def recall_at(targets: np.ndarray, scores: np.ndarray, *, false_positives: float = 0.01) -> float:
    """The largest recall with at most that share of false positives."""
    wrong, right, _ = roc_curve(targets, scores)
    return float(right[wrong <= false_positives].max())


def others_than(count: int, known: Tensor, generator: torch.Generator) -> Tensor:
    """Indices that are not known, in random order."""
    order = torch.randperm(count, generator=generator)
    return order[~torch.isin(order, known)]


def summary(found: list[Metrics], ours: str) -> dict[str, dict[str, Any]]:
    """Of each method its mean and interval over seeds, and ours less it, paired."""
    rows: dict[str, dict[str, Any]] = {}
    for name, metrics in found[0].items():
        rows[name] = {}
        for metric in metrics:
            values = [each[name][metric] for each in found]
            mean, interval = mean_and_interval(values)
            less, apart = mean_and_interval([each[ours][metric] - each[name][metric] for each in found])
            rows[name][metric] = {"mean": mean, "interval": list(interval), "each": values}
            rows[name][metric] |= {"ours_less_this": less, "interval_of_that": list(apart)}
            click.echo(
                f"  {name}: {metric} {mean:.3f} ({interval[0]:.3f} to {interval[1]:.3f}), "
                f"ours {less:+.3f} ({apart[0]:+.3f} to {apart[1]:+.3f})"
            )
    return rows


@click.group()
def main() -> None:
    """Measure and write."""
    torch.set_num_threads(1)


SEEDS = click.option("--seeds", default=10, show_default=True)
OUT = click.option("--out", type=click.Path(path_type=Path), default=records.RESULTS / "industry", show_default=True)


@main.command()
@SEEDS
@OUT
def placeholder(seeds: int, out: Path) -> None:
    """Photo or placeholder, at 20 % placeholders."""
    found: dict[int, list[Metrics]] = {size: [] for size in SIZES}
    for first in range(0, seeds, SEEDS_A_PREPARATION):
        prepared = _prepare(first)
        for seed in range(first, min(first + SEEDS_A_PREPARATION, seeds)):
            for size, metrics in _placeholder_seed(seed, *prepared).items():
                found[size].append(metrics)
            click.echo(f"seed {seed} done")
    rows = []
    for size in SIZES:
        click.echo(f"{size} labelled examples")
        rows.append({"examples": size, "seeds": seeds, "methods": summary(found[size], "top level")})
    about = {"share_of_placeholders": 0.2, "seeds_a_preparation": SEEDS_A_PREPARATION}
    records.write(out / "placeholder.json", {**about, "rows": rows})


SEEDS_A_PREPARATION = 10
"""Seeds that share base models and meta-learning; styles, pictures and labels are each seed's own."""


def _prepare(seed: int) -> tuple[ImageModels, dict[int, TopLevel]]:
    """Base models of seven styles, and a top-level learner of seven others for each number of examples."""
    random = np.random.default_rng([1, seed])
    styles = random.permutation(list(STYLES)[:14]).tolist()
    data = load_fashion_subset()
    products = as_in_a_shop(data.train_images[:1200], random)
    pictures = render_placeholders(styles[:7], 300, random)[0]
    models = fit_image_models(products, data.train_labels[:1200], pictures, captions=CAPTIONS, steps=200, seed=seed)
    tasks = other_shops(models, data.train_images[1200:], styles[7:], random)
    tops = {}
    for size in SIZES:
        sources = [StackingEpisodes(part, support=size) for part in (tasks[:9], tasks[9:])]
        tops[size] = meta_learn(*sources, num_models=len(NAMES), seed=seed)
    return models, tops


def _placeholder_seed(seed: int, models: ImageModels, tops: dict[int, TopLevel]) -> dict[int, Metrics]:
    random = np.random.default_rng([2, seed])
    styles = random.permutation(list(STYLES)[14:]).tolist()[:6]
    known = styles[:3]
    shop = generate_shop(load_fashion_subset().test_images, styles, random, placeholders=200)
    inputs = torch.cat([shop.images.flatten(1), statistics(shop.images)], dim=1).numpy()
    never_seen = np.array([style == "" or style not in known for style in shop.styles])
    everything = predictions_of_shop(models, shop, known=known)
    results = {}
    for size in SIZES:
        generator = torch.Generator().manual_seed(seed)
        labelled = draw_labelled(everything, size, generator)
        others = others_than(len(shop.targets), labelled, generator)
        pool, query = others[:300], others[300:]
        task = predictions_of_shop(models, shop, known=known, unlabelled=pool)
        targets, asked = task.targets[labelled], task.inputs[query]
        scores = {"top level": _of_top_level(tops[size], task.inputs[labelled], targets, asked)}
        scores["top level before any label"] = _before_labels(tops[size], asked)
        scores |= {name: asked[:, place].numpy() for place, name in enumerate(NAMES)}
        scores["average of the models"] = asked[:, : len(NAMES)].mean(1).numpy()
        scores |= baselines(inputs, labelled, targets, pool, query)
        scores["logistic regression on predictions"] = stacked(task.inputs, labelled, targets, query)
        truth, new = task.targets[query].numpy(), never_seen[query.numpy()]
        results[size] = {
            name: {
                "pr_auc": float(average_precision_score(truth, own)),
                "recall_of_styles_never_seen": recall_at(truth[new], own[new]),
            }
            for name, own in scores.items()
        }
    return results


def _of_top_level(top: TopLevel, inputs: Tensor, targets: Tensor, query: Tensor) -> np.ndarray:
    params = top.learn(inputs.unsqueeze(0), as_weights(targets).unsqueeze(0))
    return top.logits(params, query.unsqueeze(0))[0].numpy()


def _before_labels(top: TopLevel, query: Tensor) -> np.ndarray:
    start = {name: p.unsqueeze(0) for name, p in top.theta.items()}
    return top.logits(start, query.unsqueeze(0))[0].numpy()


@main.command()
@SEEDS
@click.option("--flipped", default=0.1, show_default=True, help="Share of labels that are wrong, beside none.")
@OUT
def fraud(seeds: int, flipped: float, out: Path) -> None:
    """Fraud at new merchants; each seed is one."""
    prepared = {}
    for name, merchants in {"generated": generated, "shuttle": of_shuttle()}.items():
        models = fit_table_models([merchants(number, 0) for number in range(6)])
        tasks = [predictions_of_table(merchants(number, 1), models) for number in range(100, 124)]
        prepared[name] = (merchants, models, tasks)
    rows = []
    for size in SIZES:
        for name, (merchants, models, tasks) in prepared.items():
            learners = meta_learn_self_training(tasks[:18], tasks[18:], num_models=len(models), support=size)
            for share in (0.0, flipped):
                found = [
                    _fraud_seed(merchants(1000 + seed, 2), models, learners, size, share, seed) for seed in range(seeds)
                ]
                click.echo(f"{name}, {size} labelled examples, {share:.0%} of them wrong")
                methods = summary(found, "top level with self-made examples")
                rows.append({"data": name, "examples": size, "wrong": share, "seeds": seeds, "methods": methods})
            records.write(out / "fraud.json", {"rows": rows})


def generated(number: int, _: int) -> LabelledRows:
    """Of a world that nothing was developed in."""
    return generate_merchant(number, world=1)


def of_shuttle() -> Callable[[int, int], LabelledRows]:
    """Views of Shuttle: base models, meta-learning and reports are made of different rows."""
    rows, targets = shuttle()
    order = np.random.default_rng(0).permutation(len(rows))

    def view(number: int, part: int) -> LabelledRows:
        own = order[part::3]
        return view_of_table(rows[own], targets[own], number)

    return view


def _fraud_seed(
    merchant: LabelledRows, models: list[Any], learners: Any, size: int, wrong: float, seed: int
) -> Metrics:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.from_numpy(merchant.targets).long()
    labelled = draw_labelled(Predictions(torch.empty(0), labels), size, generator)
    others = others_than(len(merchant.targets), labelled, generator)
    pool, query = others[:1000], others[1000:]
    task = predictions_of_table(merchant, models, unlabelled=merchant.rows[pool.numpy()])
    targets = flip(task.targets[labelled], wrong, generator)
    inputs, unlabelled, asked = task.inputs[labelled], task.inputs[pool], task.inputs[query]
    trained = {
        name: learners.learn(inputs, targets, unlabelled, may_reject=held)
        for name, held in (("", True), (", all accepted", False))
    }
    scores = {
        f"top level with self-made examples{name}": learners.first.logits(own.params, asked.unsqueeze(0))[0].numpy()
        for name, own in trained.items()
    }
    scores["top level"] = _of_top_level(learners.first, inputs, targets, asked)
    scores["top level before any label"] = _before_labels(learners.first, asked)
    of_models = {f"model of merchant {place}": asked[:, place].numpy() for place in range(len(models))}
    scores |= of_models | {"average of the models": asked[:, : len(models)].mean(1).numpy()}
    columns = encode(merchant.rows, merchant.rows[pool.numpy()])
    own_columns = torch.cat([columns, columns.abs()], dim=1).numpy()
    scores |= baselines(own_columns, labelled, targets, pool, query)
    scores["logistic regression on predictions"] = stacked(task.inputs, labelled, targets, query)
    truth = task.targets[query].numpy()
    metrics = {name: {"pr_auc": float(average_precision_score(truth, own))} for name, own in scores.items()}
    metrics["best model, chosen with test labels"] = {"pr_auc": max(metrics[name]["pr_auc"] for name in of_models)}
    metrics["top level with self-made examples"]["accepted"] = trained[""].accepted
    return metrics


if __name__ == "__main__":
    main()
