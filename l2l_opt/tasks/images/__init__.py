"""Students that learn pictures."""

from l2l_opt.tasks.images import (
    autoencoder,
    cifar10,
    conv,
    denoising,
    drawn_networks,
    linear,
    mixer,
    mlp,
    neural_art,
    siren,
    variational,
)

__all__ = [
    "autoencoder",
    "cifar10",
    "conv",
    "denoising",
    "drawn_networks",
    "linear",
    "mixer",
    "mlp",
    "neural_art",
    "siren",
    "variational",
]
