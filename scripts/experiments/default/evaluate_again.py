"""Evaluate another rule, or one whose code has changed, beside the baselines of an earlier evaluation.

    python -m scripts.experiments.default.evaluate_again results/default/held-out --out results/default/held-out
    python -m scripts.experiments.default.evaluate_again results/default/held-out --horizon 2000 --keep-adamw --out OUT

AdamW runs again too, for speed-ups over it: that it ends where it did, to the last bit, is what shows that students and
batches are those of the earlier runs. With --keep-adamw its earlier runs are kept as all others are, which spares its
tuning, and there are no speed-ups. EARLIER is a folder of `l2l-opt evaluate --suite`; the picture of curves has the new
runs alone.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from l2l_opt.cli.evaluate import write_evaluation
from l2l_opt.evaluation.cache import DEFAULT_FOLDER
from l2l_opt.evaluation.results import Result, TaskEvaluation
from l2l_opt.evaluation.suite import evaluate_suite
from l2l_opt.evaluation.suites import Suite
from l2l_opt.evaluation.summary import as_json
from l2l_opt.evaluation.task import SuiteConfig
from l2l_opt.pretrained import DEFAULT
from l2l_opt.storage.files import make_writable_folder
from l2l_opt.storage.rule_file import load_rule
from scripts.experiments import records


@click.command()
@click.argument("earlier", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--rule", "rule_name", default=DEFAULT, show_default=True)
@click.option("--horizon", "horizons", type=int, multiple=True, help="Of those of EARLIER; all by default.")
@click.option("--keep-adamw", is_flag=True, help="Keep AdamW's runs too, without speed-ups.")
@click.option("--cache", type=click.Path(path_type=Path), default=DEFAULT_FOLDER, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(earlier: Path, rule_name: str, horizons: tuple[int, ...], keep_adamw: bool, cache: Path, out: Path) -> None:
    """Evaluate the rule of EARLIER again."""
    torch.set_num_threads(1)
    make_writable_folder(out)
    before = json.loads((earlier / "evaluation.json").read_text())
    rule, suite = load_rule(rule_name), Suite(before["suite"]["name"], tuple(before["suite"]["tasks"]))
    settings = {"rule": rule_name, "name": rule.registry_name, "digest": (rule.card or {}).get("digest")}
    own = before["protocol"]
    config = SuiteConfig(
        horizons=horizons or tuple(own["horizons"]),
        num_seeds=own["seeds"],
        tuning_seeds=own["tuning_seeds"],
        seed=own["seed"],
        baselines=() if keep_adamw else ("adamw",),
        classical=keep_adamw,
        cache=cache,
    )
    evaluations = evaluate_suite(
        rule, suite, config, settings=settings, say=lambda message: click.echo(message, err=True)
    )
    merged = [with_earlier(own, before["results"]) for own in evaluations]
    content = as_json(merged, suite, config, settings) | {"notes": before["notes"]}
    write_evaluation(out, content, evaluations)
    for summary in content["summary"]:
        click.echo(json.dumps({key: value for key, value in summary.items() if key != "profile"}, indent=2))


def with_earlier(evaluation: TaskEvaluation, rows: list[dict[str, Any]]) -> TaskEvaluation:
    """An evaluation with the earlier results of optimizers that it does not have.

    Raises:
        click.ClickException: an optimizer of both that does not end where it did.
    """
    fresh = {result.optimizer: result for result in evaluation.results}
    kept = []
    for row in rows:
        if (row["task"], row["horizon"]) != (evaluation.task, evaluation.horizon) or row["optimizer"] == "learned":
            continue
        if row["optimizer"] not in fresh:
            kept.append(recorded(row))
        elif fresh[row["optimizer"]].record()["final_losses"] != row["final_losses"]:
            raise click.ClickException(
                f"{row['optimizer']} must end where it did on {evaluation.task} after {evaluation.horizon} steps; got "
                f"{fresh[row['optimizer']].final_losses} instead of {row['final_losses']}, evaluate all baselines again"
            )
    return replace(evaluation, results=[*evaluation.results, *kept])


def recorded(row: dict[str, Any]) -> Result:
    """A result as evaluation.json holds it, without curves."""
    mean, low, high = records.numbers([row["mean"], *row["interval"]])
    return Result(
        row["task"],
        row["horizon"],
        row["optimizer"],
        row["settings"],
        records.numbers(row["final_losses"]),
        mean,
        (low, high),
        row["seconds"],
        np.empty((0, len(row["final_losses"]))),
        records.numbers(row["test_losses"]),
        records.numbers(row["accuracies"]) if "accuracies" in row else None,
    )


if __name__ == "__main__":
    main()
