"""l2l-opt inspect."""

from pathlib import Path

import click
import torch
from torch.utils.tensorboard import SummaryWriter

from l2l_opt.cli.common import device_options, prepare
from l2l_opt.inspection.monitor import UnrollMonitor
from l2l_opt.optimizer import LearnedOptimizer
from l2l_opt.randomness import Stream, make_generator
from l2l_opt.tasks.mixture import draw_family


@click.command()
@click.argument("rule")
@click.option("--task", default="digits-mlp", show_default=True, help="NAME or NAME:OPTION=VALUE,...")
@click.option("--horizon", type=click.IntRange(min=1), default=100, show_default=True, help="Inner steps.")
@click.option(
    "--histogram-every", type=click.IntRange(min=0), default=1, show_default=True, help="Steps; 0 for no histograms."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the student.")
@click.option(
    "--logdir", type=click.Path(path_type=Path), default="runs/inspection", show_default=True, help="For TensorBoard."
)
@device_options
def inspect(
    rule: str,
    task: str,
    horizon: int,
    histogram_every: int,
    seed: int,
    logdir: Path,
    device: str,
    threads: int,
    dtype: str,
) -> None:
    """Train one student with RULE (a shipped name or a path) in a plain loop, and write each inner step to TensorBoard.

    The student's loss, norms and histograms of gradients and updates, and statistics of the rule's hidden state.

    Example: l2l-opt inspect default-1 --task digits-mlp --logdir runs/inspection
    """
    teacher, tasks = prepare(rule, task, logdir, device=device, threads=threads, dtype=dtype)
    generator = make_generator(seed, Stream.REPORTING, 0, 0)
    family = draw_family(tasks, generator)
    data = family.sample(generator)
    params = {name: torch.nn.Parameter(p) for name, p in family.init_params(data, generator).items()}
    optimizer = LearnedOptimizer(params.items(), teacher, num_steps=horizon)
    first = last = float("nan")
    with (
        SummaryWriter(str(logdir)) as writer,
        UnrollMonitor(optimizer, writer, histogram_every=histogram_every) as monitor,
    ):
        for step in range(horizon):
            loss = family.loss(dict(params), data, family.sample_batch(data, generator))
            monitor.log_loss(loss.detach())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            last = loss.item()
            first = last if step == 0 else first
    click.echo(f"loss {first:.4g} at the first step, {last:.4g} at step {horizon}")
    click.echo(f"look at it: tensorboard --logdir {logdir}")
