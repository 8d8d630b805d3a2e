"""What a specialisation buys on six families that are of no suite for evaluation, from the default rule.

    python -m scripts.experiments.specialise.measure_specialise                    # all families, two seeds
    python -m scripts.experiments.specialise.measure_specialise --family autoencoder --seed 0 --minutes 15
    python -m scripts.experiments.specialise.measure_specialise --family gru --seed 0 --rule rnnprop

Each run is resumed where an earlier call has left it in --runs. Writes the run's specialised.json as
results/specialise/FAMILY-RULE-MINUTES-SEED.json, and README.md, the table of all that are there. The families were
committed before the first run.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import click
import torch

from l2l_opt.pretrained import DEFAULT
from l2l_opt.specialising.comparison import BEFORE, SPECIALISED
from l2l_opt.specialising.options import SpecialiseOptions
from l2l_opt.specialising.run import Specialisation
from scripts.experiments.records import RESULTS

FOLDER = RESULTS / "specialise"
FAMILIES = {
    "gru": "novel-rnn:hidden=32,batch_size=16",
    "attention": "novel-attention:width=24,batch_size=16",
    "autoencoder": "fashion-autoencoder:side=8,hidden=32,activation=tanh",
    "convolution": "digits-conv:channels=8,layers=2",
    "regression": "teacher-mlp:hidden=32,layers=2,dim=8,outputs=2",
    "table": "clusters-mlp:hidden=32,layers=2,labels=teacher,dim=16,classes=4",
}
"""Two of text, two of pictures (one convolutional), a regression and a table."""
WIDER = {
    "gru": "hidden=256",
    "attention": "width=192",
    "autoencoder": "hidden=256",
    "convolution": "channels=64",
    "regression": "hidden=256",
    "table": "hidden=256",
}
"""Eight times as wide."""
HORIZON, LONGER = 250, 1000


def run(family: str, seed: int, *, minutes: float, rule: str, runs: Path) -> None:
    """Specialise on one family, from where an earlier call has left it, and keep what it came to."""
    options = SpecialiseOptions(
        task=FAMILIES[family],
        rule=rule,
        minutes=minutes,
        horizon=HORIZON,
        seed=seed,
        checks=(WIDER[family], f"horizon={LONGER}"),
    )
    name = f"{family}-{rule}-{minutes:g}-{seed}"
    folder = runs / name
    found = Specialisation(folder, options, resume=True, say=click.echo).go()
    click.echo(found.sentence)
    FOLDER.mkdir(parents=True, exist_ok=True)
    source = folder / ("specialised.json" if found.gained else "run.json")
    shutil.copy(source, FOLDER / f"{name}.json")


def page(contents: dict[str, dict[str, Any]]) -> str:
    """The table of all runs."""
    lines = [
        "# Specialised rules",
        "",
        "Written by `python -m scripts.experiments.specialise.measure_specialise`. Loss ratios of the specialised rule",
        "over another optimizer, geometric means over students with 95 % intervals; below 1 the specialised rule is",
        f"better. Fresh students, {HORIZON} steps. `before` is the rule it began from, `resized` that rule with its",
        "best step size. Losses below 1/1000 of the first count as that, and no student for more than a factor of 2.",
        "",
        "| family, rule, minutes, seed | before | resized | tuned AdamW | tuned Muon | test, before | "
        "8 times as wide, before | 4 times as long, before | speed-up over constant AdamW: before, specialised | "
        "worth it from |",
        "|" + "---|" * 10,
    ]
    for name, content in sorted(contents.items()):
        if "comparison" not in content:
            lines.append(f"| {name} | nothing gained: the old rule is kept |" + " |" * 8)
            continue
        ratios = content["comparison"]["log_ratio"]
        cells = [_ratio(ratios.get(other, {}).get("train")) for other in ("before", "resized", "adamw", "muon")]
        cells.append(_ratio(ratios["before"]["test"]))
        cells += [_ratio(check["log_ratio"]["before"]["train"]) for check in content["checks"]]
        faster = content["comparison"]["speed_ups"]
        cells.append(", ".join(f"{sum(faster[key]) / len(faster[key]):.2f}" for key in (BEFORE, SPECIALISED)))
        count = content["break_even"]
        cells.append("never" if count is None else f"training {count}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def speed_ups_page(content: dict[str, Any]) -> str:
    """The table of speed-ups where AdamW trains longer, which `measure_speed_ups` has measured."""
    lines = [
        "",
        f"AdamW at a constant rate, {content['times']} times as long (`python -m "
        "scripts.experiments.specialise.measure_speed_ups`): how many times as many",
        f"steps it needs to a rule's loss, mean over students, at most {content['times']}.",
        "",
        "| family, rule, minutes, seed | before | specialised | ratio |",
        "|---|---|---|---|",
    ]
    for name, own in content["speed_ups"].items():
        before, ours = (sum(own[key]) / len(own[key]) for key in (BEFORE, SPECIALISED))
        lines.append(f"| {name} | {before:.2f} | {ours:.2f} | {ours / before:.2f} |")
    return "\n".join(lines) + "\n"


def publish() -> None:
    """Write the table of all runs, and that of speed-ups where it has been measured."""
    text = page({path.stem: json.loads(path.read_text()) for path in FOLDER.glob("*-[0-9]*.json")})
    place = FOLDER / "speed-ups.json"
    if place.exists():
        text += speed_ups_page(json.loads(place.read_text()))
    (FOLDER / "README.md").write_text(text)


def _ratio(found: list[Any] | None) -> str:
    if found is None:
        return "not run"
    mean, (low, high) = found
    return f"{math.exp(mean):.3f} ({math.exp(low):.3f} to {math.exp(high):.3f})"


@click.command()
@click.option("--family", "families", type=click.Choice(list(FAMILIES)), multiple=True, help="All where none is named.")
@click.option("--seed", "seeds", type=int, multiple=True, help="0 and 1 where none is named.")
@click.option("--minutes", default=8.0, show_default=True)
@click.option("--rule", default=DEFAULT, show_default=True)
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs/specialise"), show_default=True)
def main(families: tuple[str, ...], seeds: tuple[int, ...], minutes: float, rule: str, runs: Path) -> None:
    torch.set_num_threads(1)
    for family in families or FAMILIES:
        for seed in seeds or (0, 1):
            run(family, seed, minutes=minutes, rule=rule, runs=runs)
            publish()


if __name__ == "__main__":
    main()
