"""Few-shot results: meta-trains each learner (resumable), and evaluates all of a group on the same test episodes.

    python -m scripts.experiments.few_shot.measure_few_shot train sinusoid-maml --minutes 30   # go on
    python -m scripts.experiments.few_shot.measure_few_shot evaluate sinusoid # of all its learners
    python -m scripts.experiments.few_shot.measure_few_shot costs             # of second derivatives

Learners lie under runs/few-shot/NAME.
"""

import json
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import torch

from l2l_opt.cli.few_shot_meta_train import make_learner, meta_train
from l2l_opt.few_shot.evaluation import Scores, written
from l2l_opt.few_shot.meta_learner import MetaLearner
from scripts.experiments import commands, records

RUNS = Path("runs/few-shot")
RESULTS = records.RESULTS / "few_shot"

SINUSOID = "--episodes sinusoids:shots=10,queries=10 --model mlp:hidden=40x40 --init small --meta-batch 25"
SINUSOID += " --validate-every 2500 --validation-episodes 500"
OMNIGLOT = "--model mlp:hidden=256x128x64x64,norm=batch --meta-batch 32 --meta-lr-schedule cosine"
OMNIGLOT += " --validate-every 500 --validation-episodes 300 --validation-inner-steps 3"
OUTER_STEPS = {"random-maml": 20000, "random-anil": 20000, "random-meta-sgd": 12000}
OUTER_STEPS |= {"background-maml": 15000, "background-anil": 15000}
ORDER_STEPS = 2000
CHARACTERS = "omniglot:ways=5,shots=1,split="

LEARNERS: dict[str, str] = {
    # Chosen by the most inner steps that it is evaluated after; others are compared after one.
    "sinusoid-maml": f"{SINUSOID} --outer-steps 70000 --validation-inner-steps 10 --method maml:lr=0.01",
    "sinusoid-maml-3": f"{SINUSOID} --outer-steps 40000 --inner-steps 3 --meta-loss mean --validation-inner-steps 10 "
    "--method maml:lr=0.01",
    "sinusoid-fomaml": f"{SINUSOID} --outer-steps 70000 --method fomaml:lr=0.01",
    "sinusoid-meta-sgd": f"{SINUSOID} --outer-steps 40000 --method meta-sgd:lr=0.01",
    "sinusoid-meta-lstm": f"{SINUSOID} --outer-steps 30000 "
    "--method meta-lstm:lr=0.01,hidden_size=8,second_derivatives=True",
    **{
        f"omniglot-{name}": f"--episodes {CHARACTERS}{name.partition('-')[0]} {OMNIGLOT} --outer-steps {steps} "
        f"--method {name.partition('-')[2]}:lr=0.4"
        for name, steps in OUTER_STEPS.items()
    },
    "omniglot-background-anil-rate": f"--episodes {CHARACTERS}background {OMNIGLOT} --outer-steps 15000 "
    "--method anil:lr=0.4,learns_rate=True",
    **{
        f"orders-{name}": f"--episodes {CHARACTERS}random {OMNIGLOT} --outer-steps {ORDER_STEPS} --method {name}:lr=0.4"
        for name in ("maml", "fomaml")
    },
}

EVALUATIONS: dict[str, tuple[str, list[int], int]] = {
    "sinusoid": ("sinusoids:shots=5,queries=100", [1, 5, 10], 600),
    "omniglot-random": (f"{CHARACTERS}random", [1, 3], 1000),
    "omniglot-background": (f"{CHARACTERS}background", [1, 3], 4000),
    "orders": (f"{CHARACTERS}random", [1, 3], 1000),
}
"""Group -> test episodes, inner steps, number; the first learner of a group is MAML, which others are compared with."""


@click.group()
def group() -> None:
    """Meta-train and evaluate."""


def command_of(name: str) -> list[str]:
    return ["few-shot", "meta-train", *shlex.split(LEARNERS[name]), "--out", str(RUNS / name)]


@group.command()
@click.argument("names", nargs=-1, required=True, type=click.Choice(list(LEARNERS)))
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=None,
    help="Of each learner, in this call.",
)
def train(names: tuple[str, ...], minutes: float | None) -> None:
    """Meta-train learners one after the other, or go on with them."""
    for name in names:
        limit = [] if minutes is None else ["--minutes", str(minutes)]
        commands.run("l2l_opt.cli", *command_of(name), "--resume", *limit)


@group.command("evaluate")
@click.argument("which", type=click.Choice(list(EVALUATIONS)))
def evaluate_group(which: str) -> None:
    """Evaluate the learners of a group whose runs are here; others keep the scores that they were given before."""
    episodes, inner_steps, number = EVALUATIONS[which]
    names = [name for name in LEARNERS if name.startswith(f"{which}-") and (RUNS / name / "run.json").exists()]
    steps = [argument for count in inner_steps for argument in ("--inner-steps", str(count))]
    arguments = ["few-shot", "evaluate", *(str(RUNS / name) for name in names), "--episodes", episodes, *steps]
    arguments += ["--num-episodes", str(number), "--out", str(RUNS / f"evaluated-{which}")]
    commands.run("l2l_opt.cli", *arguments)
    found = json.loads((RUNS / f"evaluated-{which}" / "evaluation.json").read_text())
    path = RESULTS / f"{which}.json"
    before = json.loads(path.read_text()) if path.exists() else {"learners": {}, "results": []}
    if before["results"] and any(before[key] != found[key] for key in ("episodes", "num_episodes", "seed")):
        raise click.ClickException(f"learners must be evaluated on the same episodes; got others in {path}, delete it")
    learners: dict[str, Any] = before["learners"]
    for name in names:
        run = json.loads((RUNS / name / "run.json").read_text())
        learners[name] = {
            "command": shlex.join(["l2l-opt", *command_of(name)]),
            "evaluation": shlex.join(["l2l-opt", *arguments]),
            "outer_steps": run["outer_step"],
            "minutes": run["minutes"],
            "figures": run["figures"],
        }
    rows = [row for row in before["results"] if name_of(row) not in names] + found["results"]
    rows.sort(key=lambda row: (list(LEARNERS).index(name_of(row)), row["inner_steps"]))
    paired = json.loads(written([scores_of(row) for row in rows], {}, with_scores=False))["differences"]
    kept = {key: before[key] for key in ("costs",) if key in before}
    records.write(path, found | {"learners": learners, "results": rows, "differences": paired} | kept)


def name_of(row: dict[str, Any]) -> str:
    return Path(row["learner"]).name


def scores_of(row: dict[str, Any]) -> Scores:
    """A learner's scores as a results file has them, null where a student diverged."""
    scores = torch.tensor(records.numbers(row["scores"]), dtype=torch.float64)
    return Scores(row["learner"], row["inner_steps"], scores, scores, row["seconds_an_episode"])


def learner_of(name: str) -> MetaLearner:
    """A fresh learner of a name above, in this process."""
    _, _, *arguments = command_of(name)
    return make_learner(**meta_train.make_context("meta-train", arguments, resilient_parsing=True).params)[1]


@group.command()
@click.option("--rounds", default=9, show_default=True)
def costs(rounds: int) -> None:
    """What second derivatives cost: seconds and bytes of an outer step. Goes into results/few_shot/orders.json."""
    torch.set_num_threads(1)
    names = [name for name in LEARNERS if name.startswith("orders-")]
    learners = {name: learner_of(name) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for round_ in range(rounds + 1):
        for name, learner in learners.items():
            taken = learner.outer_step().seconds
            if round_:
                seconds[name].append(taken)
    command = [sys.executable, "-m", __spec__.name, "peak"]
    peaks = {name: float(subprocess.run([*command, name], check=True, capture_output=True).stdout) for name in names}
    found = {
        name: {"seconds_an_outer_step": statistics.median(seconds[name]), "peak_mebibytes": peaks[name]}
        for name in names
    }
    path = RESULTS / "orders.json"
    content = json.loads(path.read_text()) if path.exists() else {}
    records.write(path, content | {"costs": found})
    click.echo(json.dumps(found, indent=2))


@group.command(hidden=True)
@click.argument("name", type=click.Choice(list(LEARNERS)))
def peak(name: str) -> None:
    """How far a process's memory grows in a few outer steps, in MiB."""
    torch.set_num_threads(1)
    learner = learner_of(name)
    # Linux keeps a process's peak; this puts it back to what is in use now.
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak_mebibytes()
    for _ in range(3):
        learner.outer_step()
    click.echo(_peak_mebibytes() - before)


def _peak_mebibytes() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    group()
