"""l2l-opt few-shot evaluate."""

from pathlib import Path
from typing import Any

import click
import torch

from l2l_opt.cli.common import place_of, print_table, wrong_usage
from l2l_opt.cli.options import JSON, SEED, GroupedCommand, count, device_options, option, option_group, path_option
from l2l_opt.evaluation.statistics import refuse_without_finite_results
from l2l_opt.few_shot.evaluation import Scores, differences, evaluate_learner, written
from l2l_opt.few_shot.saved_learner import load_learner
from l2l_opt.few_shot.sources import make_episodes
from l2l_opt.storage.files import make_writable_folder, write_atomically


@click.command(cls=GroupedCommand)
@click.argument("learners", nargs=-1, required=True, type=click.Path(path_type=Path))
@option_group(
    "Evaluation",
    option("--episodes", None, "Episodes, as in meta-train.", show_default="as meta-trained"),
    count(
        "--inner-steps", None, "Updates by a support set; repeatable.", show_default="as meta-trained", multiple=True
    ),
    count("--num-episodes", 600, "Test episodes.", least=2),
    SEED,
)
@option_group("Output", path_option("--out", "runs/few-shot", "Folder of evaluation.json."), JSON)
@device_options
def evaluate(learners: tuple[Path, ...], out: Path, as_json: bool, **options: Any) -> None:
    """Evaluate LEARNERS (files, or folders of runs) on test episodes, the same for all.

    Accuracy of classes, mean squared error of numbers; means over episodes with 95 % intervals, and each learner's
    paired difference from the first. Writes evaluation.json under --out.

    Example: l2l-opt few-shot evaluate runs/maml runs/meta-sgd --inner-steps 1 --inner-steps 3
    """
    torch.set_num_threads(options["threads"])
    make_writable_folder(out)
    place, results = place_of(options), []
    asked = {key: options[key] for key in ("episodes", "num_episodes", "seed")}
    for path in learners:
        learner = load_learner(path, device=place["device"])
        with wrong_usage():
            spec = asked["episodes"] or learner.card["episodes"]
            family = learner.config.family(make_episodes(spec, phase="test", **place), **place)
        theta = {name: p.to(place["dtype"]) for name, p in learner.theta.items()}
        for steps in dict.fromkeys(options["inner_steps"] or (learner.config.inner_steps,)):
            how = {"inner_steps": steps, "episodes": asked["num_episodes"], "seed": asked["seed"]}
            results.append(evaluate_learner(str(path), learner.method, theta, family, **how))
    refuse_without_finite_results("test episodes", (float(loss) for own in results for loss in own.losses))
    content = written(results, asked)
    write_atomically(out / "evaluation.json", content.encode())
    if as_json:
        click.echo(content, nl=False)
        return
    _print(results)
    click.echo(f"results: {out / 'evaluation.json'}")


def _print(results: list[Scores]) -> None:
    apart = {(found["learner"], found["inner_steps"]): found for found in differences(results)}
    rows = []
    for result in results:
        record, other = result.record(), apart.get((result.name, result.inner_steps))
        low, high = record["interval"]
        less = "" if other is None else "{:.4f} ({:.4f} to {:.4f})".format(other["mean"], *other["interval"])
        row = [result.name, str(result.inner_steps), f"{record['mean']:.4f}", f"{low:.4f} to {high:.4f}", less]
        rows.append([*row, f"{1e3 * result.seconds:.3g}"])
    headings = ("learner", "inner steps", "score", "95 % interval", "less the first", "ms an episode")
    print_table(f"{len(results[0].scores)} test episodes", headings, rows)
