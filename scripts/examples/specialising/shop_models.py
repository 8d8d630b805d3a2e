"""A model a shop: which of its pictures are placeholders? One rule is specialised once, then trains them all.

    python -m scripts.examples.specialising.shop_models
    python -m scripts.examples.specialising.shop_models --shops 20 --minutes 10

Needs no network: shops are generated from Fashion-MNIST products and placeholders, each with styles of its own. The
rule is specialised, and AdamW's rate found in seven trials, on the first shops; what is printed is of others. Writes
what came of it as JSON.
"""

import contextlib
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import torch

from l2l_opt import ModuleTask, specialise
from l2l_opt.evaluation.statistics import mean_and_interval
from l2l_opt.pretrained import DEFAULT
from l2l_opt.tasks import make_task
from l2l_opt.tasks.images.datasets import load_fashion_subset
from scripts.examples.industry.placeholders import STYLES
from scripts.examples.industry.shops import generate_shop
from scripts.examples.specialising.trainings import Training, adamw, learned, train, tune
from scripts.experiments import records

MODEL = "hidden=32,layers=2"


def write_shop(path: Path, number: int, *, products: int = 300) -> None:
    """Write the pictures of a shop, 14 x 14, and which are placeholders: the arrays x and y of an npz file."""
    random = np.random.default_rng(number)
    images = load_fashion_subset().train_images
    shown = images[torch.from_numpy(random.permutation(len(images))[:products])]
    styles = random.permutation(list(STYLES)).tolist()[:4]
    shop = generate_shop(shown, styles, random, placeholders=products // 3)
    pictures = torch.nn.functional.avg_pool2d(shop.images[:, None], 2)
    np.savez(path, x=pictures.numpy(), y=shop.targets.numpy())


def compared(ours: Sequence[Training], theirs: Sequence[Training]) -> dict:
    """Log ratios of losses over shops, with their intervals, and how many steps sooner their final losses are met."""
    pairs = list(zip(ours, theirs, strict=True))

    def ratio(losses: Sequence[tuple[float, float]]) -> dict:
        logs = [float(np.log(max(own, 1e-12)) - np.log(max(other, 1e-12))) for own, other in losses]
        mean, interval = mean_and_interval(logs)
        return {"ratio": float(np.exp(mean)), "interval": [float(np.exp(edge)) for edge in interval]}

    steps = [own.steps_to(other.final_loss) or len(own.losses) for own, other in pairs]
    return {
        "final_loss": ratio([(own.final_loss, other.final_loss) for own, other in pairs]),
        "held_out": ratio([(own.held_out, other.held_out) for own, other in pairs]),
        "mean_steps_to_their_final_loss": float(np.mean(steps)),
    }


def families_of(paths: Sequence[Path]) -> list[ModuleTask]:
    """A model for each shop."""
    return [make_task(f"table-mlp:data={path},{MODEL}") for path in paths]


@click.command()
@click.option("--known", default=6, show_default=True, help="Shops to specialise and to tune on.")
@click.option("--shops", default=20, show_default=True, help="Others, a model each.")
@click.option("--steps", default=250, show_default=True, help="Of a training.")
@click.option(
    "--loss-on",
    type=click.Choice(["train", "test"]),
    default="train",
    show_default=True,
    help="Losses that count: of shown pictures or of others.",
)
@click.option("--minutes", default=10.0, show_default=True, help="Of specialising.")
@click.option("--rule", default=DEFAULT, show_default=True, help="To begin from.")
@click.option("--seed", default=0, show_default=True, help="Of specialising.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=records.RESULTS / "specialise" / "shop-models.json",
    help="JSON file.",
)
def main(known: int, shops: int, steps: int, loss_on: str, minutes: float, rule: str, seed: int, out: Path) -> None:
    """Specialise once, then train a model for every other shop."""
    torch.set_num_threads(1)
    out = out.resolve()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        paths = [Path(f"shop-{number}.npz") for number in range(known + shops)]
        for number, path in enumerate(paths):
            write_shop(path, number)
        began = time.process_time()
        task = f"table-mlp:data={'|'.join(map(str, paths[:known]))},{MODEL}"
        mine = specialise(
            task,
            rule=rule,
            minutes=minutes,
            out="run",
            say=click.echo,
            horizon=steps,
            loss_on=loss_on,
            seed=seed,
            seeds=4,
            baselines=(),
        )
        of_specialising = time.process_time() - began
        click.echo(mine.sentence)
        tuned, families = tune(families_of(paths[:known]), steps=steps, seed=seed), families_of(paths[known:])
        makes = {"adamw": adamw(tuned.rate), rule: learned(rule), "specialised": learned(mine.rule)}
        before = {"adamw": tuned.seconds, rule: 0.0, "specialised": of_specialising}
        found = {
            name: [train(family, make, steps=steps, seed=number) for number, family in enumerate(families)]
            for name, make in makes.items()
        }
    content = {
        "task": task,
        "specialised": {"gained": mine.gained, "sentence": mine.sentence},
        "rate_of_adamw": tuned.rate,
        "optimizers": {
            name: {
                "seconds_before": before[name],
                "seconds_of_a_training": float(np.mean([own.seconds for own in trainings])),
                "mean_final_loss": float(np.mean([own.final_loss for own in trainings])),
                "mean_held_out": float(np.mean([own.held_out for own in trainings])),
                "final_losses": [own.final_loss for own in trainings],
                "held_out": [own.held_out for own in trainings],
            }
            for name, trainings in found.items()
        },
        "specialised_over": {
            name: compared(found["specialised"], found[name]) for name in found if name != "specialised"
        },
    }
    for name, own in content["optimizers"].items():
        click.echo(
            f"{name}: final loss {own['mean_final_loss']:.4f}, held-out loss {own['mean_held_out']:.4f}; "
            f"{own['seconds_before']:.0f} s once, {own['seconds_of_a_training']:.2f} s a shop"
        )
    for name, own in content["specialised_over"].items():
        low, high = own["final_loss"]["interval"]
        click.echo(
            f"final loss of the specialised rule over {name}'s: {own['final_loss']['ratio']:.3f} ({low:.3f} to "
            f"{high:.3f}), which it has after {own['mean_steps_to_their_final_loss']:.0f} of {steps} steps"
        )
    records.write(out, content)


if __name__ == "__main__":
    main()
