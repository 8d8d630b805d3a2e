"""l2l-opt few-shot evaluate."""

from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

from l2l_opt.cli.common import COUNT, DTYPES, JSON, SEED, device_options, option, option_group, read_device, wrong_usage
from l2l_opt.few_shot.evaluation import Scores, differences, evaluate_learner, written
from l2l_opt.few_shot.saved_learner import load_learner
from l2l_opt.few_shot.sources import make_episodes
from l2l_opt.storage.files import make_writable_folder, write_atomically


@click.command()
@click.argument("learners", nargs=-1, required=True, type=click.Path(path_type=Path))
@option_group(
    "Evaluation",
    option("--episodes", None, "As in meta-train.", show_default="as meta-trained"),
    option(
        "--inner-steps",
        None,
        "Updates by a support set; repeatable.",
        show_default="as meta-trained",
        type=COUNT,
        multiple=True,
    ),
    option("--num-episodes", 600, "Test episodes.", type=click.IntRange(min=2)),
    SEED,
    option("--out", "runs/few-shot", "Folder.", type=click.Path(path_type=Path)),
    JSON,
)
@device_options
def evaluate(
    learners: tuple[Path, ...],
    episodes: str | None,
    inner_steps: tuple[int, ...],
    num_episodes: int,
    seed: int,
    out: Path,
    as_json: bool,
    device: str,
    threads: int,
    dtype: str,
) -> None:
    """Evaluate LEARNERS (files, or folders of runs) on test episodes, the same for all.

    Accuracy of classes, mean squared error of numbers; means over episodes with 95 % intervals, and each learner's
    paired difference from the first. Writes evaluation.json under --out.

    Example: l2l-opt few-shot evaluate runs/maml runs/meta-sgd --inner-steps 1 --inner-steps 3
    """
    torch.set_num_threads(threads)
    make_writable_folder(out)
    place: dict[str, Any] = {"device": read_device(device), "dtype": DTYPES[dtype]}
    results: list[Scores] = []
    for path in learners:
        learner = load_learner(path, device=place["device"])
        with wrong_usage():
            spec = episodes or learner.card["episodes"]
            family = learner.config.family(make_episodes(spec, phase="test", **place), **place)
        for steps in dict.fromkeys(inner_steps or (learner.config.inner_steps,)):
            theta = {name: p.to(place["dtype"]) for name, p in learner.theta.items()}
            results.append(
                evaluate_learner(
                    str(path),
                    learner.method,
                    theta,
                    family,
                    inner_steps=steps,
                    episodes=num_episodes,
                    seed=seed,
                )
            )
    content = written(results, {"episodes": episodes, "num_episodes": num_episodes, "seed": seed})
    write_atomically(out / "evaluation.json", content.encode())
    if as_json:
        click.echo(content, nl=False)
        return
    _print(results)
    click.echo(f"results: {out / 'evaluation.json'}")


def _print(results: list[Scores]) -> None:
    apart = {(found["learner"], found["inner_steps"]): found for found in differences(results)}
    table = Table(title=f"{len(results[0].scores)} test episodes")
    for heading in ("learner", "inner steps", "score", "95 % interval", "less the first", "ms an episode"):
        table.add_column(heading, justify="left" if heading == "learner" else "right")
    for result in results:
        record, other = result.record(), apart.get((result.name, result.inner_steps))
        low, high = record["interval"]
        less = "" if other is None else "{:.4f} ({:.4f} to {:.4f})".format(other["mean"], *other["interval"])
        row = [result.name, str(result.inner_steps), f"{record['mean']:.4f}", f"{low:.4f} to {high:.4f}", less]
        table.add_row(*row, f"{1e3 * result.seconds:.3g}")
    Console(width=None if Console().is_terminal else 120).print(table)
