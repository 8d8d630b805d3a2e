"""Regenerate a default rule from nothing.

    python -m scripts.experiments.default.meta_train_default --out runs/default             # goes on where stopped
    python -m scripts.experiments.default.meta_train_default --out runs/default --seed 1    # another seed
    python -m scripts.experiments.default.meta_train_default --recipe default-2 --out runs/default-2

A stage is a run of `l2l-opt meta-train` in a folder of its own, with checkpoints, by noise-reuse evolution over whole
runs, weighted towards their ends; or one of the scripts beside this one.

default-2  one stage on a mixture of 13 families: ``choices`` of a tensor as they follow what it shows, 102 weights
default-4  on each of two families of text, from nothing: ``choices``, then ``all`` 837 weights with less noise; half of
           what each has changed is added up (`merge_families`), and the constants of that are searched on 18 tasks at
           once, so that nothing loses what text has gained (`search_constants`). Signals of text drown in a mixture
"""

from pathlib import Path

import click

from scripts.experiments import commands

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


EVOLUTION = ["--truncation-length", "50", "--meta-loss", "progress", "--normalisation", "log", "--clip-loss", "1"]
EVOLUTION += ["--staggered", "--meta-lr-schedule", "cosine"]
FIRST = ["--task", first_mixture(hidden="8..64", layers="1..5"), "--horizon", "100..1000", *EVOLUTION]
FIRST += ["--floor-loss", "0.01", "--reparametrise", "0.2..5", "--students", "64", "--group-size", "8"]
FIRST += ["--validation-horizon", "500", "--validation-students", "16"]
FAMILIES = {
    "gru": "novel-rnn:hidden=24,embedding=12,length=16,batch_size=16",
    "attention": "novel-attention:width=20,length=20,batch_size=16",
    "autoencoder": "digits-autoencoder:hidden=48,bottleneck=6,activation=silu,batch_size=32",
    "convolution": "fashion-conv:side=8,channels=6,norm=group,batch_size=32",
    "regression": "teacher-mlp:hidden=24,layers=2,dim=6,activation=gelu",
}
"""None is among those that `measure_specialise` shows what specialising buys on."""
MERGED = ("gru", "attention")
"""Those that default-4 is made of."""
OF_FAMILY = ["--horizon", "250", *EVOLUTION, "--students", "32", "--average-phi", "0.95", "--validate-every", "0"]


def stages_of_family(name: str) -> dict[str, list[str]]:
    """What is meta-trained on one family, by folder."""
    own = ["--task", FAMILIES[name], *OF_FAMILY]
    few, many = "nres:sigma=0.1,only=choices,balance=ranks", "nres:sigma=0.03,balance=ranks"
    return {
        f"{name}/choices": [
            "--rule",
            "scale-free",
            *own,
            "--estimator",
            few,
            "--meta-lr",
            "0.005",
            "--outer-steps",
            "300",
        ],
        f"{name}/all": [*own, "--estimator", many, "--meta-lr", "0.002", "--outer-steps", "150"],
    }


RECIPES = {
    "default-2": [
        {
            "choices": [
                *("--rule", "scale-free", *FIRST, "--estimator", "nres:sigma=0.1,only=choices"),
                *("--meta-lr", "0.0005", "--outer-steps", "1000", "--validate-every", "100"),
            ],
        }
    ],
    "default-4": [stages_of_family(name) for name in MERGED],
}
"""Chains of stages, each of which goes on from the rule of the one before."""


def afterwards(out: Path, *, seed: int, nproc: int) -> dict[str, list[str]]:
    """Return what makes default-4 of its families' rules: commands by stage."""
    merged = out / "merged.safetensors"
    search = ["--start", str(merged), "--seed", str(seed), "--nproc", str(nproc), "--out", str(out / "constants")]
    return {
        "merged": ["scripts.experiments.default.merge_families", str(out), "--out", str(merged)],
        "constants": ["scripts.experiments.default.search_constants", *search],
    }


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default="runs/default", show_default=True)
@click.option("--recipe", type=click.Choice(list(RECIPES)), default="default-4", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=None, help="Of a stage, in this call.")
@click.option("--stage", "stages", multiple=True, help="Only these; all where none is named.")
@click.option("--nproc", default=1, show_default=True, help="Processes that share the students.")
def main(out: Path, recipe: str, seed: int, minutes: float | None, stages: tuple[str, ...], nproc: int) -> None:
    """Meta-train a default rule."""
    last = afterwards(out, seed=seed, nproc=nproc) if recipe == "default-4" else {}
    known = [*(name for chain in RECIPES[recipe] for name in chain), *last]
    unknown = [name for name in stages if name not in known]
    if unknown:
        raise click.UsageError(f"a stage must be one of {', '.join(known)}; got {', '.join(unknown)}")
    for chain in RECIPES[recipe]:
        before = None
        for name, options in chain.items():
            folder = out / name
            if name in stages or not stages:
                start = [] if before is None else ["--rule", str(before)]
                arguments = [*start, *options, "--seed", str(seed), "--out", str(folder), "--resume"]
                arguments += ["--nproc", str(nproc)] + ([] if minutes is None else ["--minutes", str(minutes)])
                commands.run("l2l_opt.cli", "meta-train", *arguments)
            before = folder / "rule.safetensors"
    for name, command in last.items():
        if name in stages or not stages:
            commands.run(*command)


if __name__ == "__main__":
    main()
