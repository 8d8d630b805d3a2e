"""Train the network that `language-lora` fine-tunes, and write its weights into the package, in half precision.

    python -m scripts.experiments.held_out.train_language_base

Two minutes on one core. Another processor rounds otherwise and ends at other weights: the shipped ones are kept.
"""

from pathlib import Path

import click
import numpy as np
import torch

from l2l_opt.tasks.layers.transformer import CharacterTransformer, gpt2_weights
from l2l_opt.tasks.text import transformer
from l2l_opt.tasks.text.corpus import ALPHABET, next_character_loss, stretches_of
from l2l_opt.tasks.text.language import language_text

OUT = Path(transformer.__file__).parents[1] / "data" / "language_base.npz"


@click.command()
@click.option("--steps", default=3000, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=OUT, show_default="in the package")
def main(steps: int, out: Path) -> None:
    """Train by AdamW at .003 with a cosine, batches of 16."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = CharacterTransformer(len(ALPHABET), transformer.BASE_LENGTH, **transformer.BASE)
    gpt2_weights(module)
    examples = stretches_of(language_text(transformer.SPOKEN), transformer.BASE_LENGTH)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.003)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        index = torch.randint(*examples.ranges["train"], (16,))
        optimizer.zero_grad()
        loss = next_character_loss(module(examples.inputs[index]), examples.targets[index])
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 500 == 0 or step == steps - 1:
            click.echo(f"step {step}: loss {loss.item():.3f}")
    np.savez_compressed(out, **{name: weight.half().numpy() for name, weight in module.state_dict().items()})


if __name__ == "__main__":
    main()
