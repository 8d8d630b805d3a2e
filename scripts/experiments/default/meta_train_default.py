"""Regenerate the default rule from nothing.

    python -m scripts.experiments.default.meta_train_default --out runs/default             # goes on where stopped
    python -m scripts.experiments.default.meta_train_default --out runs/default --seed 1    # another seed

A stage is a run of `l2l-opt meta-train` in a folder of its own, with checkpoints, by noise-reuse evolution over whole
runs of up to 1,000 steps, weighted towards their ends; a next goes on from its best rule. One is left: learning
the biases of the heads (``choices``) first made validation worse (results/NOTEBOOK.md, entry 26):

choices  of a tensor as they follow what it shows, 102 weights
"""

import subprocess
import sys
from pathlib import Path

import click

ACTIVATION = "activation=relu|tanh|sigmoid|gelu|silu|elu"
INIT = "init=default|default|xavier|he|orthogonal"


def mixture(*, hidden: str, layers: str) -> str:
    """The meta-training families; none of their data is shared with tasks of the suites."""
    perceptron = (
        f"hidden={hidden},layers={layers},{ACTIVATION},{INIT},norm=none|none|layer|batch|rms,batch_size=16..128"
    )
    convolutions = f"channels=4..10,layers=1..3,{ACTIVATION},{INIT},norm=none|batch|group,batch_size=16..64"
    autoencoder = f"hidden={hidden},layers=1..2,bottleneck=3..12,{ACTIVATION},loss=mse|bce,batch_size=16..128"
    return " + ".join(
        [
            f"2*fashion-mlp:side=8,{perceptron}",
            f"fashion-mlp:side=14,{perceptron}",
            f"1.5*digits-mlp:{perceptron}",
            f"1.5*clusters-mlp:{perceptron},dim=4..32,classes=2..10,noise=0.3..1.5,labels=clusters|teacher",
            f"1.5*teacher-mlp:{perceptron},dim=2..16,outputs=1..4,noise=0.02..0.5",
            f"digits-conv:{convolutions}",
            f"fashion-conv:side=8,{convolutions}",
            f"digits-autoencoder:{autoencoder}",
            f"fashion-autoencoder:side=8,{autoencoder}",
            "1.5*novel-rnn:hidden=12..40,cell=gru|elman,embedding=8..24,length=6..16,batch_size=8..32",
            "1.5*novel-attention:width=12..32,norm=layer|none,length=8..20,batch_size=8..32",
            "0.7*least-squares:dim=5..50,condition=10.0..10000.0,noise=0.03..0.3,batch_size=8..64",
            "0.3*quadratics:dim=5..30",
        ]
    )


COMMON = ["--normalisation", "log", "--floor-loss", "0.01", "--clip-loss", "1", "--staggered"]
COMMON += ["--reparametrise", "0.2..5", "--meta-lr-schedule", "cosine", "--validation-horizon", "500"]
EVOLUTION = ["--task", mixture(hidden="8..64", layers="1..5"), "--truncation-length", "50"]
EVOLUTION += ["--meta-loss", "progress", "--students", "64", "--group-size", "8"]
STAGES = {
    "choices": [
        *("--rule", "scale-free", *EVOLUTION, "--horizon", "100..1000"),
        *("--estimator", "nres:sigma=0.1,only=choices", "--meta-lr", "0.0005"),
        *("--outer-steps", "1000", "--validate-every", "100"),
    ],
}


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default="runs/default", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--minutes", type=float, default=None, help="Of a stage, in this call.")
@click.option("--stage", "stages", type=click.Choice(list(STAGES)), multiple=True, default=tuple(STAGES))
@click.option("--nproc", default=1, show_default=True, help="Processes that share the students.")
@click.option("--validation-students", default=16, show_default=True)
def main(
    out: Path, seed: int, minutes: float | None, stages: tuple[str, ...], nproc: int, validation_students: int
) -> None:
    """Meta-train the default rule."""
    before = None
    for name, options in STAGES.items():
        folder = out / name
        if name in stages:
            start = [] if before is None else ["--rule", str(before)]
            arguments = [*start, *options, *COMMON, "--seed", str(seed), "--out", str(folder), "--resume"]
            arguments += ["--nproc", str(nproc), "--validation-students", str(validation_students)]
            arguments += [] if minutes is None else ["--minutes", str(minutes)]
            done = subprocess.run([sys.executable, "-m", "l2l_opt.cli", "meta-train", *arguments], check=False)
            if done.returncode:
                raise SystemExit(done.returncode)
        before = folder / "rule.safetensors"


if __name__ == "__main__":
    main()
