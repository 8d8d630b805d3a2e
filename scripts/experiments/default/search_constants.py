"""Search the constants of a default rule by CMA-ES on eighteen meta-training tasks at once.

    python -m scripts.experiments.default.search_constants --start runs/merged.safetensors --out runs/constants
                                                                                            # goes on where stopped

Searched are five weights of each head of the tensor's network (`choices` of `ScaleFreeRule`): its constant, and what it
takes from being a vector, from how much of the run is over, from whether steps overshoot, and from how far gradients
have come down. A candidate is trained beside the rule with nothing learned, on the same students. Of each student the
log ratio of losses counts within .1, and a tenth of what is beyond; of each task the mean over its students, of
training and of test losses apart, each twice where it is below zero, so that neither pays for what others gain. Every
generation has students of its own. Source: CMA-ES, arXiv 1604.00772, by the package cma.
"""

import datetime
import json
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import click
import cma
import numpy as np
import torch

from l2l_opt import save_rule
from l2l_opt.evaluation.runs import final_scores, reporting_students
from l2l_opt.evaluation.statistics import EVEN_FLOOR, bounded
from l2l_opt.inner_loop.training import final_losses, train
from l2l_opt.rules import UpdateRule
from l2l_opt.storage.files import write_atomically
from l2l_opt.storage.named_rule import read_rule
from l2l_opt.tasks.mixture import make_tasks
from l2l_opt.types import Params
from scripts.experiments import records

TASKS = {
    "novel-rnn:hidden=24,embedding=12,length=16,batch_size=16": (1, 3.0),
    "novel-rnn:hidden=32,cell=elman,embedding=16,length=12,batch_size=24": (1, 3.0),
    "novel-attention:width=20,length=20,batch_size=16": (1, 3.0),
    "novel-attention:width=28,norm=none,length=12,batch_size=16": (1, 3.0),
    "digits-autoencoder:hidden=48,bottleneck=6,activation=silu,batch_size=32": (2, 1),
    "digits-autoencoder:hidden=64,bottleneck=8,activation=tanh,batch_size=48": (2, 1),
    "fashion-autoencoder:side=8,hidden=32,layers=2,bottleneck=8,activation=tanh,batch_size=48": (2, 1),
    "fashion-conv:side=8,channels=6,norm=group,batch_size=32": (3, 1),
    "digits-conv:channels=6,layers=1,norm=batch,activation=gelu,batch_size=32": (3, 0.5),
    "fashion-mlp:side=8,hidden=32,layers=2,activation=relu,batch_size=32": (4, 1),
    "clusters-mlp:hidden=24,layers=2,dim=12,classes=4,noise=1.0,examples=1024,batch_size=32": (4, 0.5),
    "clusters-mlp:hidden=16,layers=2,dim=8,classes=2,noise=0.8,examples=100,batch_size=16": (4, 0.5),
    "teacher-mlp:hidden=24,layers=2,dim=6,activation=gelu,noise=0.3,examples=2048,batch_size=32": (4, 1),
    "sized-recommendation:rank=8,embeddings=0.1,batch_size=128": (4, 1),
    "least-squares:dim=20,condition=100.0,batch_size=16": (4, 0.5),
    "fashion-linear:batch_size=32": (4, 0.5),
    "navigation:episodes=8,steps=20,hidden=24": (3, 1),
    "cartpole:episodes=8,steps=30,hidden=24": (2, 0.5),
}
"""Each with its students, more where their losses differ more, and its weight: text, whose gains are small but sure,
counts most, and what is memorised least."""
FEATURES = {"vector": 8, "over": 0, "agreement": 13, "fall": 14}
"""Places among a tensor's features, each of which is a unit of its fresh network."""
VECTOR_ONLY = (4, 8)
"""The head and the feature that mean nothing together: vectors are not whitened."""
CAP, BEYOND, WORST, WORSE, POPULATION, DEVIATION = 0.1, 0.1, -5.0, 2.0, 16, 0.1


def places(rule: UpdateRule) -> list[tuple[str, int, int]]:
    """Where each searched constant stands: parameter, head, column."""
    heads = dict(rule.named_parameters())["choices.weight"].shape[0]
    found = [("choices.bias", head, 0) for head in range(heads)]
    pairs = ((head, column) for head in range(heads) for column in FEATURES.values())
    return found + [("choices.weight", *pair) for pair in pairs if pair != VECTOR_ONLY]


def phi_with(rule: UpdateRule, changes: np.ndarray) -> Params:
    """A rule's weights with the changes of a candidate added."""
    phi = {name: weight.clone() for name, weight in rule.state_dict().items()}
    for (name, head, column), change in zip(places(rule), changes, strict=True):
        phi[name].reshape(phi[name].shape[0], -1)[head, column] += float(change)
    return phi


def gains(task: str, candidates: np.ndarray, *, start: str, horizon: int, seed: int) -> np.ndarray:
    """What each candidate, changes of the rule ``start``, gains on a task over nothing learned: ``[candidates]``."""
    torch.set_num_threads(1)
    students, _ = TASKS[task]
    rule, first = read_rule("scale-free", seed=0), read_rule(start, seed=0)
    every = [rule.state_dict(), *(phi_with(first, changes) for changes in candidates)]
    phi = {name: torch.stack([own[name] for own in every]).repeat_interleave(students, 0) for name in every[0]}
    numbers = list(range(students)) * len(every)
    own = reporting_students(rule, make_tasks(task), numbers=numbers, horizon=horizon, seed=seed)
    curves = train(own, phi=phi).double()
    found = []
    for losses in (final_losses(curves), final_scores(own, seed)[0]):
        logs = np.log(bounded(losses.double().numpy(), curves[0].numpy(), floor=EVEN_FLOOR))
        apart = logs.reshape(len(every), students)
        gained = np.nan_to_num(apart[0] - apart[1:], nan=WORST).clip(WORST, -WORST)
        within = np.clip(gained, -CAP, CAP)
        mean = (within + BEYOND * (gained - within)).mean(axis=1)
        found.append(np.where(mean < 0, WORSE * mean, mean))
    return np.mean(found, axis=0)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder; one that is there goes on.")
@click.option("--start", default="scale-free", show_default=True, help="The rule whose constants are searched.")
@click.option("--generations", default=72, show_default=True, help="Of candidates.")
@click.option("--horizon", default=300, show_default=True, help="Inner steps of a student.")
@click.option("--seed", default=0, show_default=True, help="Of candidates and students.")
@click.option("--nproc", default=1, show_default=True, help="Processes that share a generation's candidates.")
def main(out: Path, start: str, generations: int, horizon: int, seed: int, nproc: int) -> None:
    """Search, and save the mean of the last generation as OUT/rule.safetensors."""
    out.mkdir(parents=True, exist_ok=True)
    log = out / "generations.json"
    done = json.loads(log.read_text()) if log.exists() else {"seconds": 0.0, "gains": []}
    rule = read_rule(start, seed=0)
    options = {"seed": seed + 1, "popsize": POPULATION, "verbose": -9}
    search = cma.CMAEvolutionStrategy(np.zeros(len(places(rule))), DEVIATION, options)
    with ProcessPoolExecutor(nproc) as pool:
        for generation in range(generations):
            candidates = np.stack(search.ask())
            if generation == len(done["gains"]):
                began = time.perf_counter()
                own_seed = 1000 * (seed + 1) + generation
                of_task = partial(gains, candidates=candidates, start=start, horizon=horizon, seed=own_seed)
                found = np.stack(list((pool.map if nproc > 1 else map)(of_task, TASKS))).round(6)
                done["gains"].append(found.tolist())
                done["seconds"] += nproc * (time.perf_counter() - began)
                write_atomically(log, json.dumps(done).encode())
            found = total(done["gains"][generation])
            search.tell(list(candidates), list(-found))
            click.echo(f"{generation}: {found.mean():+.4f}, best {found.max():+.4f}")
    rule.load_state_dict(phi_with(rule, search.mean))
    save_rule(rule, out / "rule.safetensors", card=card_of(done, horizon=horizon, seed=seed))


def total(of_tasks: list[list[float]]) -> np.ndarray:
    """What candidates gain on all tasks together, ``[candidates]``, of their gains ``[tasks, candidates]``."""
    return np.average(of_tasks, axis=0, weights=[weight for _, weight in TASKS.values()])


def card_of(done: dict[str, Any], *, horizon: int, seed: int) -> dict[str, Any]:
    """What a searched rule's artefact states."""
    return {
        "task": " + ".join(TASKS),
        "horizon": str(horizon),
        "estimator": "cma-es",
        "truncation_length": horizon,
        "licence": "Apache-2.0",
        "figures": {"gain_on_meta_training_tasks": round(float(total(done["gains"][-1]).mean()), 4)},
        "provenance": {
            "command": records.command(),
            "seed": seed,
            "outer_steps": len(done["gains"]),
            "minutes": round(done["seconds"] / 60, 2),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "versions": records.versions() | {"numpy": np.__version__},
        },
    }


if __name__ == "__main__":
    main()
