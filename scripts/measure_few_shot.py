"""Few-shot figures: meta-trains each learner (resumable), and judges all of a group on the same test episodes.

    python scripts/measure_few_shot.py train sinusoid-maml --minutes 30       # go on with one learner
    python scripts/measure_few_shot.py judge sinusoid                          # results/few_shot/sinusoid.json

Learners lie under runs/few-shot/NAME.
"""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import records

RUNS = Path("runs/few-shot")
RESULTS = records.RESULTS / "few_shot"

SINUSOID = "--episodes sinusoids:shots=10,queries=10 --model mlp:hidden=40x40 --meta-batch 25 --outer-steps 70000"
SINUSOID += " --validate-every 2500 --validation-episodes 500 --validation-inner-steps 1"
OMNIGLOT = "--model mlp:hidden=256x128x64x64,norm=batch --meta-batch 32 --outer-steps 12000 --meta-lr-schedule cosine"
OMNIGLOT += " --validate-every 500 --validation-episodes 300 --validation-inner-steps 3"
CHARACTERS = "omniglot:ways=5,shots=1,split="

LEARNERS: dict[str, str] = {
    "sinusoid-maml": f"{SINUSOID} --method maml:lr=0.01",
    "sinusoid-fomaml": f"{SINUSOID} --method fomaml:lr=0.01",
    "sinusoid-meta-sgd": f"{SINUSOID} --method meta-sgd:lr=0.01",
    "sinusoid-meta-lstm": f"{SINUSOID} --method meta-lstm:lr=0.01,hidden_size=8,second_derivatives=True",
    **{
        f"omniglot-{split}-{name}": f"--episodes {CHARACTERS}{split} {OMNIGLOT} --method {method}"
        for split in ("random", "background")
        for name, method in {
            "maml": "maml:lr=0.4",
            "meta-sgd": "meta-sgd:lr=0.4",
            "fomaml": "fomaml:lr=0.4",
        }.items()
    },
}

JUDGEMENTS: dict[str, tuple[str, list[int], int]] = {
    "sinusoid": ("sinusoids:shots=5,queries=100", [1, 5, 10], 600),
    "omniglot-random": (f"{CHARACTERS}random", [1, 3], 1000),
    "omniglot-background": (f"{CHARACTERS}background", [1, 3], 1000),
}
"""Group -> test episodes, inner steps, number; the first learner of a group is MAML, which others are compared with."""


@click.group()
def group() -> None:
    """Meta-train and judge."""


def command_of(name: str) -> list[str]:
    return ["few-shot", "meta-train", *shlex.split(LEARNERS[name]), "--out", str(RUNS / name)]


@group.command()
@click.argument("names", nargs=-1, required=True, type=click.Choice(list(LEARNERS)))
@click.option("--minutes", type=float, default=None, help="Of each learner, in this call.")
def train(names: tuple[str, ...], minutes: float | None) -> None:
    """Meta-train learners one after the other, or go on with them."""
    for name in names:
        limit = [] if minutes is None else ["--minutes", str(minutes)]
        subprocess.run([sys.executable, "-m", "l2l_opt.cli", *command_of(name), "--resume", *limit], check=True)


@group.command("judge")
@click.argument("which", type=click.Choice(list(JUDGEMENTS)))
def judge_group(which: str) -> None:
    """Judge all learners of a group that have been meta-trained."""
    episodes, inner_steps, number = JUDGEMENTS[which]
    names = [name for name in LEARNERS if name.startswith(f"{which}-") and (RUNS / name / "run.json").exists()]
    steps = [argument for count in inner_steps for argument in ("--inner-steps", str(count))]
    arguments = ["few-shot", "evaluate", *(str(RUNS / name) for name in names), "--episodes", episodes, *steps]
    arguments += ["--num-episodes", str(number), "--out", str(RUNS / f"judged-{which}")]
    subprocess.run([sys.executable, "-m", "l2l_opt.cli", *arguments], check=True)
    found = json.loads((RUNS / f"judged-{which}" / "evaluation.json").read_text())
    learners: dict[str, Any] = {}
    for name in names:
        run = json.loads((RUNS / name / "run.json").read_text())
        learners[name] = {
            "command": shlex.join(["l2l-opt", *command_of(name)]),
            "outer_steps": run["outer_step"],
            "minutes": run["minutes"],
            "figures": run["figures"],
        }
    content = {"evaluation": shlex.join(["l2l-opt", *arguments]), "learners": learners, **found}
    records.write(RESULTS / f"{which}.json", content)


if __name__ == "__main__":
    group()
