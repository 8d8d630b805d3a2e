"""Train the small network whose features measure content and style in the task neural-art.

    python -m scripts.experiments.paper.train_picture_features

Some minutes of one core. It learns to tell the ten kinds of garments of the shipped part of Fashion-MNIST apart, each
in a random colour on a random piece of a photograph, so that its features are of colours, edges and textures. Writes
l2l_opt/tasks/data/picture_features.safetensors, and prints its accuracy on the shipped test images.
"""

import click
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from l2l_opt.tasks.images.datasets import load_fashion_subset
from l2l_opt.tasks.images.neural_art.features import CHANNELS, FILE, PictureFeatures
from l2l_opt.tasks.images.photographs import load_pictures

SIDE = 28


def coloured(images: Tensor, generator: torch.Generator) -> Tensor:
    """Grey garments ``[n, 28, 28]`` in random colours on random pieces of photographs: ``[n, 3, 28, 28]``."""
    photographs = load_pictures().float()
    backgrounds = []
    for _ in range(len(images)):
        which = int(torch.randint(2, (), generator=generator))
        top = int(torch.randint(photographs.shape[2] - SIDE, (), generator=generator))
        left = int(torch.randint(photographs.shape[3] - SIDE, (), generator=generator))
        backgrounds.append(photographs[which, :, top : top + SIDE, left : left + SIDE])
    colours = 0.2 + 0.8 * torch.rand(len(images), 3, 1, 1, generator=generator)
    shade = images.unsqueeze(1).float()
    cover = (4 * shade).clamp(max=1)
    return cover * shade * colours + (1 - cover) * torch.stack(backgrounds)


@click.command()
@click.option("--steps", default=3000, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(steps: int, seed: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    images = load_fashion_subset()
    network, head = PictureFeatures(), nn.Linear(CHANNELS[-1] * 4, 10)
    weights = [*network.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def logits(pictures: Tensor) -> Tensor:
        return head(nn.functional.adaptive_avg_pool2d(network(pictures)[-1], 2).flatten(1))

    for step in range(steps):
        rows = torch.randint(len(images.train_labels), (64,), generator=generator)
        loss = nn.functional.cross_entropy(
            logits(coloured(images.train_images[rows], generator)), images.train_labels[rows]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 500 == 0:
            with torch.no_grad():
                right = logits(coloured(images.test_images, generator)).argmax(1) == images.test_labels
            click.echo(f"step {step + 1}: loss {loss.item():.3f}, test accuracy {right.float().mean():.3f}")
    save_file(network.state_dict(), FILE)


if __name__ == "__main__":
    main()
