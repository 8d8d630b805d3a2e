"""Regenerate a default rule from nothing.

    python -m scripts.experiments.default.meta_train_default --out runs/default             # goes on where stopped
    python -m scripts.experiments.default.meta_train_default --out runs/default --seed 1    # another seed
    python -m scripts.experiments.default.meta_train_default --recipe default-2 --out runs/default-2

A stage is a run of `l2l-opt meta-train` in a folder of its own, with checkpoints, by noise-reuse evolution over whole
runs of up to 1,000 steps, weighted towards their ends; a next goes on from its rule. What ships is chosen on validation
(`measure_learning`), results/NOTEBOOK.md has what else was tried.

choices  of a tensor as they follow what it shows, 102 weights; of default-2 the only stage
all      837 weights, those of the coordinates' network among them, with less noise and a lower rate
"""

import subprocess
import sys
from pathlib import Path

import click

ACTIVATION = "activation=relu|tanh|sigmoid|gelu|silu|elu"
INIT = "init=default|default|xavier|he|orthogonal"


def first_mixture(*, hidden: str, layers: str) -> str:
    """The families of default-2."""
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


def mixture() -> str:
    """The families of default-4: text and other noisy tasks outweigh those that students memorise, which have little
    to teach (`meta-train --dry-run --signal`)."""
    activation = "activation=relu|tanh|gelu|silu"
    convolutions = f"channels=4..8,layers=1..2,norm=none|batch,{activation},batch_size=16..64"
    autoencoder = f"hidden=16..64,layers=1..2,bottleneck=4..12,{activation},batch_size=16..64"
    perceptron = f"hidden=16..48,layers=1..3,{activation},examples=4096,batch_size=16..64"
    return " + ".join(
        [
            "2*novel-rnn:hidden=16..40,cell=gru|elman,embedding=8..24,length=8..16,batch_size=8..32",
            "2*sized-novel-attention:width=16..32,norm=layer|none,length=8..20,embeddings=0.1..1.0,places=0.1..1.0,"
            "batch_size=8..32",
            f"fashion-autoencoder:side=8,{autoencoder}",
            f"digits-autoencoder:{autoencoder}",
            f"digits-conv:{convolutions}",
            f"fashion-conv:side=8,{convolutions}",
            f"fashion-mlp:side=8,hidden=8..32,layers=1..2,norm=none|layer,{activation},batch_size=16..64",
            f"teacher-mlp:{perceptron},dim=4..16,outputs=1..3,noise=0.3..1.0",
            f"clusters-mlp:{perceptron},dim=8..24,classes=2..6,noise=1.0..2.0",
            "sized-recommendation:rank=4..12,embeddings=0.03..1.0,batch_size=64..256",
            "0.5*least-squares:dim=5..50,condition=10.0..10000.0,noise=0.03..0.3,batch_size=8..64",
        ]
    )


EVOLUTION = ["--truncation-length", "50", "--meta-loss", "progress", "--normalisation", "log", "--clip-loss", "1"]
EVOLUTION += ["--staggered", "--students", "64", "--group-size", "8", "--meta-lr-schedule", "cosine"]
EVOLUTION += ["--validation-horizon", "500"]
FIRST = ["--task", first_mixture(hidden="8..64", layers="1..5"), "--horizon", "100..1000", *EVOLUTION]
FIRST += ["--floor-loss", "0.01", "--reparametrise", "0.2..5"]
BALANCED = ["--task", mixture(), "--horizon", "250..1000", *EVOLUTION, "--average-phi", "0.95", "--validate-every", "0"]
RECIPES = {
    "default-2": {
        "choices": [
            *("--rule", "scale-free", *FIRST, "--estimator", "nres:sigma=0.1,only=choices"),
            *("--meta-lr", "0.0005", "--outer-steps", "1000", "--validate-every", "100"),
        ],
    },
    "default-4": {
        "choices": [
            *("--rule", "scale-free", *BALANCED),
            *("--estimator", "nres:sigma=0.1,only=choices,balance=ranks,learned=0.01"),
            *("--meta-lr", "0.005", "--outer-steps", "400"),
        ],
        "all": [
            *(*BALANCED, "--estimator", "nres:sigma=0.03,balance=ranks,learned=0.01"),
            *("--meta-lr", "0.002", "--outer-steps", "300"),
        ],
    },
}


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default="runs/default", show_default=True)
@click.option("--recipe", type=click.Choice(list(RECIPES)), default="default-4", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--minutes", type=float, default=None, help="Of a stage, in this call.")
@click.option("--stage", "stages", multiple=True, help="Only these; all where none is named.")
@click.option("--nproc", default=1, show_default=True, help="Processes that share the students.")
@click.option("--validation-students", default=16, show_default=True)
def main(
    out: Path,
    recipe: str,
    seed: int,
    minutes: float | None,
    stages: tuple[str, ...],
    nproc: int,
    validation_students: int,
) -> None:
    """Meta-train a default rule."""
    unknown = set(stages) - RECIPES[recipe].keys()
    if unknown:
        raise click.UsageError(f"a stage must be one of {', '.join(RECIPES[recipe])}; got {', '.join(unknown)}")
    before = None
    for name, options in RECIPES[recipe].items():
        folder = out / name
        if name in stages or not stages:
            start = [] if before is None else ["--rule", str(before)]
            arguments = [*start, *options, "--seed", str(seed), "--out", str(folder), "--resume"]
            arguments += ["--nproc", str(nproc), "--validation-students", str(validation_students)]
            arguments += [] if minutes is None else ["--minutes", str(minutes)]
            done = subprocess.run([sys.executable, "-m", "l2l_opt.cli", "meta-train", *arguments], check=False)
            if done.returncode:
                raise SystemExit(done.returncode)
        before = folder / "rule.safetensors"


if __name__ == "__main__":
    main()
