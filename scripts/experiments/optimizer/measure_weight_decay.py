"""AdamW's numbers for weight decay in LearnedOptimizer beside AdamW itself, on three small tasks.

python -m scripts.experiments.optimizer.measure_weight_decay

Writes results/optimizer/weight-decay.json: training losses are means of the last tenth of the steps, test losses of 20
batches after them; AdamW has a rate of .001 and a cosine.
"""

import json
from statistics import fmean
from typing import Any

import click
import torch
from torch import nn

from l2l_opt import LearnedOptimizer
from l2l_opt.pretrained import DEFAULT
from l2l_opt.randomness import Stream, make_generator
from l2l_opt.tasks.mixture import draw_family, make_tasks
from scripts.experiments import records

TASKS = ("digits-mlp", "novel-rnn", "breast-cancer-mlp")
DECAYS = (0.0, 0.01, 0.05, 0.1)
TEST_BATCHES = 20


def train(task: str, optimizer: str, decay: float, *, steps: int, seed: int) -> tuple[float, float]:
    """The training and test loss of one run."""
    generator = make_generator(seed, Stream.REPORTING, 0, 0)
    family = draw_family(make_tasks(task), generator)
    data = family.sample(generator)
    params = {name: nn.Parameter(p) for name, p in family.init_params(data, generator).items()}
    schedule: list[torch.optim.lr_scheduler.LRScheduler] = []
    if optimizer == "adamw":
        made: torch.optim.Optimizer = torch.optim.AdamW(params.values(), lr=1e-3, weight_decay=decay)
        schedule.append(torch.optim.lr_scheduler.CosineAnnealingLR(made, T_max=steps))
    else:
        made = LearnedOptimizer(params.items(), optimizer, weight_decay=decay, num_steps=steps)
    losses: list[float] = []
    for _ in range(steps):
        made.zero_grad()
        loss = family.loss(dict(params), data, family.sample_batch(data, generator))
        loss.backward()
        made.step()
        for scheduler in schedule:
            scheduler.step()
        losses.append(loss.item())
    with torch.no_grad():
        batches = [family.sample_batch(data, generator, "test") for _ in range(TEST_BATCHES)]
        test = fmean(float(family.loss(dict(params), data, batch)) for batch in batches)
    return fmean(losses[-(steps // 10) :]), test


@click.command()
@click.option("--steps", default=300)
@click.option("--seeds", default=3)
def main(steps: int, seeds: int) -> None:
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for task in TASKS:
        for optimizer in (DEFAULT, "adamw"):
            for decay in DECAYS:
                runs = [train(task, optimizer, decay, steps=steps, seed=seed) for seed in range(seeds)]
                training, test = ([run[which] for run in runs] for which in range(2))
                row = {"task": task, "optimizer": optimizer, "weight_decay": decay}
                row |= {"mean_training": fmean(training), "mean_test": fmean(test), "training": training, "test": test}
                rows.append(row)
                click.echo(json.dumps(row))
    records.write(records.RESULTS / "optimizer" / "weight-decay.json", {"steps": steps, "seeds": seeds, "rows": rows})


if __name__ == "__main__":
    main()
