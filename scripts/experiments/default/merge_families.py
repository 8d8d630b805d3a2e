"""Add up what rules of single families have learned, each by the factor that validation favours.

    python -m scripts.experiments.default.merge_families runs/default --out runs/default/merged.safetensors

phi = phi_0 + sum over families of c_f (phi_f - phi_0), where phi_0 is the rule with nothing learned, and phi_f the last
rule of a family's folder. Factors are found one after the other, each among a few, by the mean over the list
validation of the log ratio of losses, training and test alike, of each student within .1, so that tasks that are
memorised, whose losses differ by factors, do not outweigh the others; all of one family's candidates are trained side
by side on the same students. Source: averages of weights, arXiv 2203.05482; differences of
weights that are added up, arXiv 2212.04089.
"""

from collections.abc import Mapping
from pathlib import Path

import click
import numpy as np
import torch

from l2l_opt import load_rule, save_rule
from l2l_opt.evaluation.runs import final_scores, reporting_students
from l2l_opt.evaluation.statistics import EVEN_FLOOR, bounded
from l2l_opt.evaluation.suites import load_suite
from l2l_opt.inner_loop.training import final_losses, train
from l2l_opt.rules import UpdateRule
from l2l_opt.storage.named_rule import read_rule
from l2l_opt.tasks.mixture import make_tasks
from l2l_opt.types import Params
from scripts.experiments.default.meta_train_default import FAMILIES

FACTORS = (0.0, 0.3, 0.6, 1.0, 1.5)
FIRST = dict.fromkeys(("gru", "attention"), 0.5)
"""Where the search begins: half of what each family of text has learned, nothing of the others."""
CAP = 0.1
SEED = 30
"""Of the students: others than those that are reported on."""


def phi_of(rule: UpdateRule) -> Params:
    """Return a rule's weights, detached."""
    return {name: weight.detach() for name, weight in rule.named_parameters()}


def merged(start: Params, changes: Mapping[str, Params], factors: Mapping[str, float]) -> Params:
    """Return ``phi_0 + sum of c_f (phi_f - phi_0)``."""
    return {
        name: weight + sum(factor * (changes[family][name] - weight) for family, factor in factors.items())
        for name, weight in start.items()
    }


def scores(rule: UpdateRule, candidates: list[Params], *, suite: str, horizon: int, students: int) -> np.ndarray:
    """Mean log ratio of the first candidate's losses over each one's, training and test alike: ``[candidates]``."""
    phi = {
        name: torch.stack([own[name] for own in candidates]).repeat_interleave(students, 0) for name in candidates[0]
    }
    numbers = list(range(students)) * len(candidates)
    ratios = []
    for task in load_suite(suite).tasks:
        own = reporting_students(rule, make_tasks(task), numbers=numbers, horizon=horizon, seed=SEED)
        curves = train(own, phi=phi).double()
        for losses in (final_losses(curves), final_scores(own, SEED)[0]):
            logs = np.log(bounded(losses.double().numpy(), curves[0].numpy(), floor=EVEN_FLOOR))
            apart = logs.reshape(len(candidates), students)
            ratios.append(np.clip(apart[0] - apart, -CAP, CAP).mean(axis=1))
    return np.mean(ratios, axis=0)


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True))
@click.option("--suite", default="validation", show_default=True)
@click.option("--horizon", default=500, show_default=True)
@click.option("--students", default=8, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(run: Path, suite: str, horizon: int, students: int, out: Path) -> None:
    """Merge the rules of the families in the folder RUN, which `meta_train_default` wrote."""
    torch.set_num_threads(1)
    rule = read_rule("scale-free", seed=0)
    start = phi_of(rule)
    changes = {name: phi_of(load_rule(run / name / "all" / "rule.safetensors")) for name in FAMILIES}
    factors = dict.fromkeys(FAMILIES, 0.0) | FIRST
    for family in FAMILIES:
        tried = [start, *(merged(start, changes, factors | {family: factor}) for factor in FACTORS)]
        found = scores(rule, tried, suite=suite, horizon=horizon, students=students)[1:]
        factors[family] = FACTORS[int(found.argmax())]
        click.echo(f"{family}: " + ", ".join(f"{c:g} {s:+.4f}" for c, s in zip(FACTORS, found, strict=True)))
    chosen = merged(start, changes, factors)
    for name, weight in rule.named_parameters():
        weight.data = chosen[name].clone()
    save_rule(rule, out, card={"task": " + ".join(FAMILIES.values()), "horizon": "250", "factors": factors})


if __name__ == "__main__":
    main()
