"""A variational autoencoder; of the suite ``seen``."""

from functools import partial

import torch
from torch import Tensor, nn

from l2l_opt.tasks.base import register_module_task
from l2l_opt.tasks.images.photographs import grey_tiles
from l2l_opt.tasks.layers.basic import perceptron
from l2l_opt.tasks.noisy import NoisyTask

SIDE, DEVIATION = 8, 0.1


class VariationalAutoencoder(nn.Module):
    """Images and noise to reconstructions, and to mean and log-variance of the latent variables.

    Args:
        hidden: units of the one hidden layer on each side.
        latent: variables.
    """

    def __init__(self, hidden: int, latent: int):
        super().__init__()
        self.encoder = nn.Sequential(*perceptron([SIDE**2, hidden, 2 * latent], activation="gelu"))
        self.decoder = nn.Sequential(*perceptron([latent, hidden, SIDE**2], activation="gelu"))

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encoder(images.flatten(1)).chunk(2, -1)
        latent = mean + noise * torch.exp(log_variance / 2)
        return self.decoder(latent).reshape(images.shape), mean, log_variance


def evidence_loss(outputs: tuple[Tensor, Tensor, Tensor], images: Tensor) -> Tensor:
    """The negative evidence lower bound, in nats a pixel, but for a constant; pixels have deviation 0.1.

    Source: arXiv 1312.6114, equation 10.
    """
    reconstruction, mean, log_variance = outputs
    misfit = (reconstruction - images).square().sum((-1, -2)) / (2 * DEVIATION**2)
    divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1) / 2
    return (misfit + divergence).mean() / SIDE**2


@register_module_task("picture-vae", batch_size=64)
def picture_vae(*, hidden: int = 48, latent: int = 8) -> partial[NoisyTask]:
    """Variational autoencoder of 8 x 8 grey pieces of two photographs.

    Args:
        hidden: units of the hidden layer on each side.
        latent: variables.

    Raises:
        ValueError: a size that is not a positive integer.

    Source: arXiv 1312.6114.
    """
    return partial(
        NoisyTask, VariationalAutoencoder(hidden, latent), evidence_loss, grey_tiles(SIDE), noise_shape=(latent,)
    )
