"""Which product pictures are "no image available" placeholders? From 30 labelled ones.

    python -m scripts.examples.industry.placeholder_images
    python -m scripts.examples.industry.placeholder_images --labelled shop --new unsorted --out predictions.csv

Needs no network. Without --labelled the shop is generated: Fashion-MNIST products, placeholders of styles never met.
A folder of your own holds `photo` and `placeholder`; its pictures are read as 28 x 28 grey values.
"""

import csv
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

from l2l_opt.few_shot.base_models.images import NAMES, ImageModels, fit_image_models
from l2l_opt.few_shot.classifier.image_folder import read_image_folder, read_images
from l2l_opt.few_shot.stacking import StackingEpisodes, TopLevel, as_weights, draw_labelled, meta_learn
from l2l_opt.tasks.images.datasets import load_fashion_subset
from scripts.examples.industry.placeholders import STYLES, as_in_a_shop, render_placeholders
from scripts.examples.industry.shops import CAPTIONS, Shop, generate_shop, other_shops, predictions_of_shop

MET, NEW = list(STYLES)[:14], list(STYLES)[14:]


def prepare(size: int, *, outer_steps: int, train_steps: int, seed: int) -> tuple[ImageModels, TopLevel]:
    """Base models, and a top-level learner meta-learned on shops of other styles."""
    random = np.random.default_rng(seed)
    data = load_fashion_subset()
    products = as_in_a_shop(data.train_images[:1200], random)
    pictures, _ = render_placeholders(MET[::2], 300, random)
    models = fit_image_models(
        products, data.train_labels[:1200], pictures, captions=CAPTIONS, steps=train_steps, seed=seed
    )
    tasks = other_shops(models, data.train_images[1200:], MET[1::2], random)
    sources = [StackingEpisodes(part, support=size) for part in (tasks[:9], tasks[9:])]
    return models, meta_learn(*sources, num_models=len(NAMES), outer_steps=outer_steps, seed=seed)


def own_shop(labelled: Path, new: Path) -> tuple[Shop, list[str]]:
    """The labelled pictures, then the new ones, with the files of the latter."""
    known = read_image_folder(labelled, side=28)
    if known.classes != ["photo", "placeholder"]:
        raise click.UsageError(
            f"--labelled must hold the folders photo and placeholder; got {', '.join(known.classes)}, rename them"
        )
    images, files = read_images(new, side=28, colour=False)
    targets = torch.cat([known.labels, torch.zeros(len(images), dtype=torch.long)])
    everything = torch.cat([known.images, images]).float() / 255
    return Shop(everything, targets, [""] * len(everything)), [str(file) for file in files]


@click.command()
@click.option("--labelled", type=click.Path(path_type=Path), default=None, help="Folder of your labelled pictures.")
@click.option("--new", type=click.Path(path_type=Path), default=None, help="Folder of pictures to be scored.")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="CSV file of predictions.")
@click.option("--size", default=30, show_default=True, help="Labelled pictures of the generated shop.")
@click.option("--outer-steps", default=100, show_default=True, help="Of meta-learning.")
@click.option("--train-steps", default=200, show_default=True, help="Of the base models.")
@click.option("--seed", default=0, show_default=True, help="Of everything random.")
def main(
    labelled: Path | None, new: Path | None, out: Path | None, size: int, outer_steps: int, train_steps: int, seed: int
) -> None:
    """Meta-learn, adapt, and say which pictures are placeholders."""
    torch.set_num_threads(1)
    if (labelled is None) != (new is None):
        raise click.UsageError("--labelled and --new must be given together; got one alone, add the other")
    files: list[str] = []
    if labelled is not None and new is not None:
        shop, files = own_shop(labelled, new)
        size = len(shop.images) - len(files)
    else:
        shop = generate_shop(load_fashion_subset().test_images, NEW, np.random.default_rng(seed), placeholders=200)
    models, top = prepare(size, outer_steps=outer_steps, train_steps=train_steps, seed=seed)
    task = predictions_of_shop(models, shop, known=NEW)
    known = torch.arange(size) if files else draw_labelled(task, size, torch.Generator().manual_seed(seed))
    others = torch.tensor([row for row in range(len(shop.images)) if row not in set(known.tolist())])
    params = top.learn(task.inputs[known].unsqueeze(0), as_weights(task.targets[known]).unsqueeze(0))
    for name, weight in zip(NAMES, params["weights"][0].tolist(), strict=False):
        print(f"stacking weight of {name}: {weight:.2f}")
    scores = top.logits(params, task.inputs[others].unsqueeze(0))[0].sigmoid()
    if files:
        _write(out, files, scores)
    else:
        _print_scores(task.inputs[others], task.targets[others], scores)


def _print_scores(inputs: Tensor, targets: Tensor, scores: Tensor) -> None:
    from sklearn.metrics import average_precision_score

    for place, name in enumerate(NAMES):
        print(f"PR-AUC of {name}: {average_precision_score(targets, inputs[:, place]):.3f}")
    print(f"PR-AUC of the top level: {average_precision_score(targets, scores):.3f}")


def _write(out: Path | None, files: list[str], scores: Tensor) -> None:
    rows = [(file, f"{score:.6f}") for file, score in zip(files, scores.tolist(), strict=True)]
    if out is None:
        for file, score in rows:
            print(f"{score} {file}")
        return
    with open(out, "w", newline="", encoding="utf-8") as text:
        csv.writer(text).writerows([("file", "probability_placeholder"), *rows])
    print(f"{len(rows)} predictions: {out}")


if __name__ == "__main__":
    main()
