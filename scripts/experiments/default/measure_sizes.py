"""A rule on one network of three sizes, beside tuned AdamW and Muon: does its lead fall as networks grow?

    python -m scripts.experiments.default.measure_sizes default-4
    python -m scripts.experiments.default.measure_sizes default-4 --family resnet --parameters 30000

A GPT of the Psalms, from GPT-2's first weights, and a residual network of Fashion-MNIST, of some 30,000, 300,000 and a
million parameters, 1,000 steps each; neither is on a list of tasks. AdamW has a warm-up and a cosine, Muon a cosine,
the schedules that do best for them on such networks; each has the best of four learning rates, of more where the best
is at an end, on a student of its own. Writes results/default/sizes.json, after each network, and sizes.md.
"""

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from torch import nn

from l2l_opt.rules import UpdateRule
from l2l_opt.storage.named_rule import read_rule
from l2l_opt.storage.safetensors_file import digest
from l2l_opt.tasks.images.drawn_networks import ResidualConvolutions, he_kernels
from l2l_opt.tasks.images.examples import SHIPPED, image_examples
from l2l_opt.tasks.layers.transformer import CharacterTransformer, gpt2_weights
from l2l_opt.tasks.module_task import ModuleTask
from l2l_opt.tasks.text.corpus import ALPHABET, VERSE, next_character_loss, shipped_text, text_examples
from scripts.experiments import records
from scripts.experiments.tuned import Subjects, at_their_best, losses_of

HORIZON = 1000
OTHERS = ("adamw", "muon")
SEED = 40
"""Of all students."""


def gpt(width: int) -> ModuleTask:
    """Three blocks with four heads, 32 characters, 8 at a time."""
    module = CharacterTransformer(len(ALPHABET), 32, width=width, blocks=3, heads=4)
    examples = text_examples(shipped_text(VERSE), 32)
    return ModuleTask(module, next_character_loss, examples, batch_size=8, init_fn=gpt2_weights)


def resnet(channels: int) -> ModuleTask:
    """Three stages of a block with batch norm, 14 x 14 pixels, 16 pictures at a time."""
    widths = [channels, 2 * channels, 4 * channels]
    blocks = [ResidualConvolutions(before, own) for before, own in zip([channels, *widths], widths, strict=False)]
    start = [nn.Unflatten(1, (1, 14)), nn.Conv2d(1, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)]
    examples, classes = image_examples(SHIPPED["fashion"], None, 14)
    end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes)]
    module = nn.Sequential(*start, nn.ReLU(), *blocks, *end)
    return ModuleTask(module, nn.functional.cross_entropy, examples, batch_size=16, init_fn=he_kernels)


FAMILIES: dict[str, tuple[Callable[[int], ModuleTask], dict[int, int]]] = {
    "gpt": (gpt, {30_000: 28, 300_000: 92, 1_000_000: 168}),
    "resnet": (resnet, {30_000: 10, 300_000: 32, 1_000_000: 58}),
}
"""Of each family, how to make it from its width, and the width of each size."""


def measure(rule: UpdateRule, make: Callable[[int], ModuleTask], width: int, *, students: int) -> dict[str, Any]:
    """Train the reporting students with the rule and with each optimizer at its best rate."""
    task = make(width)
    about = {"width": width, "parameters": sum(p.numel() for p in task.module.parameters())}
    others = at_their_best(task, "", horizon=HORIZON, tuning_students=1, seed=SEED)
    subjects: Subjects = {"rule": (rule, {})} | others
    return about | losses_of(subjects, task, horizon=HORIZON, students=students, seed=SEED)


def ratios(found: dict[str, Any], other: str, which: str) -> list[float]:
    """Losses of the rule over another optimizer's, student by student; none where that was not run."""
    theirs = found[other][which] if other in found else []
    return [mine / their for mine, their in zip(found["rule"][which], theirs, strict=bool(theirs))]


def table(results: dict[str, dict[str, Any]]) -> str:
    """Markdown of all that was measured."""
    lines = [
        "# The default as networks grow",
        "",
        f"Written by `python -m scripts.experiments.default.measure_sizes`: {HORIZON:,} steps, losses of the rule over",
        "those of AdamW (warm-up and cosine) and Muon (cosine), each at its best learning rate; below 1 the rule is",
        "ahead. Geometric means, and every student in brackets; Muon is for matrices, which convolutions are not.",
        "",
        "| network, parameters | rule | training, over AdamW | over Muon | test, over AdamW | over Muon |",
        "|---|---|---|---|---|---|",
    ]
    for key, sizes in results.items():
        for found in sorted(sizes.values(), key=lambda one: one["parameters"]):
            cells = []
            for which in ("train", "test"):
                for other in OTHERS:
                    each = ratios(found, other, which)
                    shown = ", ".join(f"{ratio:.3f}" for ratio in each)
                    cells.append(f"{statistics.geometric_mean(each):.3f} ({shown})" if each else "-")
            family, rule = key.split(" ")
            lines.append(f"| {family}, {found['parameters']:,} | `{rule}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


@click.command()
@click.argument("source")
@click.option("--family", "families", multiple=True, type=click.Choice(list(FAMILIES)), default=tuple(FAMILIES))
@click.option("--parameters", "sizes", multiple=True, type=int, default=(30_000, 300_000, 1_000_000), show_default=True)
@click.option("--students", default=2, show_default=True, type=click.IntRange(1), help="Reported on.")
@click.option("--out", type=click.Path(path_type=Path), default=records.RESULTS / "default", show_default=True)
def main(source: str, families: tuple[str, ...], sizes: tuple[int, ...], students: int, out: Path) -> None:
    """Measure the rule SOURCE, a shipped name or a path, as networks grow."""
    rule = read_rule(source, seed=0)
    path = out / "sizes.json"
    for size in sizes:
        for family in families:
            make, widths = FAMILIES[family]
            found = measure(rule, make, widths[size], students=students) | {
                "digest": digest(dict(rule.named_parameters()))
            }
            before = json.loads(path.read_text())["results"] if path.exists() else {}
            own = before.setdefault(f"{family} {source}", {})
            own[str(size)] = found
            records.write(path, {"results": before})
            (out / "sizes.md").write_text(table(before))
            shown = {other: [round(each, 3) for each in ratios(found, other, "train")] for other in OTHERS}
            click.echo(f"{family}, {found['parameters']:,}: {shown}", err=True)


if __name__ == "__main__":
    main()
