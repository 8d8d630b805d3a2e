"""What a command says when a resumable run ends."""

import json
import math
from pathlib import Path

import click

from l2l_opt.meta_training.outer_loop import OuterLoop


def say_ending(ending: str, out: Path, trainer: OuterLoop, *, artefact: str, as_json: bool) -> None:
    """Print how a run ended and where what it made lies.

    Raises:
        click.ClickException: a signal ended it.
    """
    record = json.loads((out / "run.json").read_text())
    if as_json:
        click.echo(json.dumps(record, indent=2))
    else:
        figure = record["figures"]["validation"]
        shown = "none yet" if figure is None or not math.isfinite(figure) else f"{figure:.4g}"
        click.echo(
            f"{ending} after outer step {record['outer_step']} of {trainer.outer_steps}, best validation figure {shown}"
        )
        click.echo(f"{artefact}: {out / artefact}.safetensors")
        click.echo(f"curves: tensorboard --logdir {out / 'events'}")
    if ending.startswith("SIG"):
        raise click.ClickException(
            f"a run must reach its last outer step to be done; got {ending} after {trainer.outer_steps_done}, "
            "go on with --resume"
        )
