"""Put a meta-trained rule among the shipped ones, its whole making and its metrics on the model card.

    python -m scripts.experiments.default.ship_rule runs/default/all --name default-2 --evaluation EVALUATION
    python -m scripts.experiments.default.ship_rule --name default-2 --evaluation EVALUATION
    python -m scripts.experiments.default.ship_rule --name default-3 --weights-of default-2 --set braking=1

    python -m scripts.experiments.default.ship_rule runs/default/constants --name default-4 \\
        --of runs/default/gru/all --of runs/default/attention/all

RUN is the folder of the last of several `l2l-opt meta-train` runs, each of which began with the rule of the one before,
or what was made of the last of several such chains.
Without it the rule that is shipped under the name stays, and its card is brought up to date; --weights-of begins with
another shipped rule, whose evaluations are not those of the new one.
EVALUATION is that of a suite that the rule was not meta-trained on, results/default/held-out/evaluation.json.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from l2l_opt import load_rule, save_rule
from l2l_opt.pretrained import FOLDER
from l2l_opt.registry import parse_spec
from l2l_opt.rules import make_rule
from scripts.experiments import records
from scripts.experiments.default.meta_train_default import RECIPES

RECIPE = "python -m scripts.experiments.default.meta_train_default"


def stages_of(run: Path, root: Path) -> list[dict[str, Any]]:
    """What every stage up to a run below the folder ``root`` was: command, outer steps, minutes, validation metric."""
    about = run / "run.json"
    before = json.loads(about.read_text())["options"]["rule"] if about.exists() else ""
    earlier = stages_of(Path(before).parent, root) if before and Path(before).exists() else []
    card = dict(load_rule(run / "rule.safetensors").card or {})
    provenance = card["provenance"]
    keys = ("command", "seed", "outer_steps", "minutes", "date")
    name = run.resolve().relative_to(root.resolve()).as_posix()
    metrics = {key: value for key, value in card["figures"].items() if isinstance(value, float)}
    stage = {"stage": name} | {key: provenance[key] for key in keys} | metrics
    # Where the folder lay is nobody's business.
    stage["command"] = stage["command"].replace(str(root.resolve()), "runs/default")
    return [*earlier, stage]


def held_out_metrics(path: Path) -> dict[str, Any]:
    """Of an evaluation over a suite, a line a horizon."""
    metrics = {}
    for own in json.loads(path.read_text())["summary"]:
        wins, ratio = own["wins"]["adamw"], own["ratio"]["adamw"]
        metrics[f"{own['horizon']} steps"] = {
            "at or below tuned AdamW": f"{wins['wins']} of {wins['tasks']} tasks",
            "AdamW's loss over ours": round(ratio["geometric_mean"], 3),
            "interval": [round(bound, 3) for bound in ratio["interval"]],
            "speed-up in steps": round(own["speed_up_steps"]["interquartile_mean"], 2),
            "speed-up in seconds": round(own["speed_up_seconds"]["interquartile_mean"], 2),
        }
    return metrics


def gains_on_held_out(path: Path, name: str) -> dict[str, Any]:
    """Of what ``measure_learning`` wrote of a rule: log ratios of losses, nothing learned over it."""
    found: dict[str, Any] = {}
    for row in json.loads(path.read_text())["results"][name]:
        if row["suite"] == "held-out":
            own = found[f"{row['horizon']} steps, beside nothing learned"] = {}
            for key, kind in (("train", "training"), ("test", "test")):
                own[f"gain, {kind} loss"] = round(row[key]["mean"], 3)
                own[f"its interval, {kind}"] = [round(bound, 3) for bound in row[key]["interval"]]
    return found


def provenance_of(name: str, runs: Sequence[Path], versions: dict[str, str]) -> dict[str, Any]:
    """All stages of the making of the last run's rule, which the others' rules went into."""
    root = Path(os.path.commonpath([run.resolve().parent for run in runs]))
    stages = [stage for run in runs for stage in stages_of(run, root)]
    parts = ["--recipe", name] if name in RECIPES else [f"--stage {stage['stage']}" for stage in stages]
    return {
        "command": " ".join([RECIPE, *parts]),
        "core_hours": round(sum(stage["minutes"] for stage in stages) / 60, 2),
        "stages": stages,
        "versions": versions,
    }


@click.command()
@click.argument("run", type=click.Path(exists=True, path_type=Path), required=False)
@click.option("--of", "others", type=click.Path(exists=True, path_type=Path), multiple=True, help="Runs that went in.")
@click.option("--name", required=True, help="With a version: default-2.")
@click.option("--weights-of", default=None, help="Another shipped rule, to begin with.")
@click.option("--evaluation", type=click.Path(exists=True, path_type=Path), default=None)
@click.option("--learning", type=click.Path(exists=True, path_type=Path), default=None, help="Of measure_learning.")
@click.option("--since", default=None, help="What of the rule has changed since its weights were learned.")
@click.option("--set", "changes", multiple=True, metavar="OPTION=VALUE", help="Of the rule, otherwise than trained.")
def main(
    run: Path | None,
    others: tuple[Path, ...],
    name: str,
    weights_of: str | None,
    evaluation: Path | None,
    learning: Path | None,
    since: str | None,
    changes: tuple[str, ...],
) -> None:
    """Ship RUN's best rule under NAME."""
    rule = load_rule(weights_of or name if run is None else run / "rule.safetensors")
    card = dict(rule.card or {})
    if weights_of is not None:
        card["figures"] = {key: value for key, value in card["figures"].items() if key != "held_out"}
    if changes:
        kind, options = parse_spec(f"{rule.registry_name}:{','.join(changes)}")
        weights = rule.state_dict()
        rule = make_rule(kind, **rule.config | options)
        rule.load_state_dict(weights)
    if run is not None:
        card["provenance"] = provenance_of(name, [*others, run], card["provenance"]["versions"])
    if since is not None:
        card["since_meta_training"] = since
    found = {} if evaluation is None else held_out_metrics(evaluation)
    found |= {} if learning is None else gains_on_held_out(learning, name)
    if found:
        metrics = dict(card["figures"])
        card["figures"] = metrics | {"held_out": metrics.get("held_out", {}) | found}
    digest = save_rule(rule, FOLDER / f"{name}.safetensors", card=card)
    records.write(records.RESULTS / "default" / f"{name}.json", {"digest": digest, "card": card})
    click.echo(f"{name}: {digest}")


if __name__ == "__main__":
    main()
