"""Multilayer perceptrons on random clusters and random networks, drawn anew for every student."""

from functools import partial
from typing import Annotated

import torch
from torch import Tensor, nn

from l2l_opt.checks import NotNegative, check_choices
from l2l_opt.tasks.base import register_module_task
from l2l_opt.tasks.generated import GeneratedTask
from l2l_opt.tasks.layers.basic import CLASS_LOSSES, INITS, Activation, ClassLoss, Init, perceptron

LABELS = ("clusters", "teacher")  # A teacher is a random network; cards of rules hold these words.


@register_module_task("clusters-mlp", batch_size=32)
def clusters_mlp(
    *,
    hidden: int = 32,
    layers: int = 1,
    activation: Activation = "relu",
    norm: str = "none",
    init: Init = "default",
    loss: ClassLoss = "cross-entropy",
    dim: int = 16,
    classes: int = 5,
    labels: Annotated[str, partial(check_choices, LABELS)] = "clusters",
    noise: NotNegative = 1.0,
    examples: int = 512,
) -> partial[GeneratedTask]:
    """MLP that classifies random clusters, or points labelled by a random network; each student has its own.

    Clusters: two Gaussian clouds for each class. Teacher: the largest output of a random tanh network of 16 hidden
    units.

    Args:
        hidden: units of each hidden layer.
        layers: hidden layers.
        activation: sigmoid, relu, tanh, gelu, elu or silu.
        norm: before each activation: none, layer, batch (statistics of the batch at hand) or rms.
        init: how first weights are drawn: default (PyTorch's way), zero-bias, xavier, he or orthogonal.
        loss: cross-entropy, smoothed (a tenth spread over all classes) or squared (to one-hot classes).
        dim: of the points.
        classes: how many.
        labels: where they come from, clusters or teacher (a random network).
        noise: standard deviation within a cluster, where that of centres is 1; or of the noise on the
            network's outputs, where theirs is 1.
        examples: in the training split of each student.

    Raises:
        ValueError: a size that is not a positive integer, a negative noise, an unknown word.
    """

    def of_clusters(generator: torch.Generator, number: int) -> tuple[Tensor, Tensor]:
        centres = torch.randn(2 * classes, dim, generator=generator, dtype=torch.float64)
        cloud = torch.randint(2 * classes, (number,), generator=generator)
        spread = torch.randn(number, dim, generator=generator, dtype=torch.float64)
        return (centres[cloud] + noise * spread) / (1 + noise**2) ** 0.5, cloud % classes

    def of_network(generator: torch.Generator, number: int) -> tuple[Tensor, Tensor]:
        points, outputs = _teach(generator, number, dim, classes)
        outputs = outputs + noise * torch.randn(outputs.shape, generator=generator, dtype=torch.float64)
        return points, outputs.argmax(-1)

    return partial(
        GeneratedTask,
        nn.Sequential(*perceptron([dim, *[hidden] * layers, classes], activation=activation, norm=norm)),
        CLASS_LOSSES[loss],
        of_clusters if labels == "clusters" else of_network,
        examples=examples,
        init_fn=INITS[init],
    )


@register_module_task("teacher-mlp", batch_size=32)
def random_network_mlp(
    *,
    hidden: int = 32,
    layers: int = 1,
    activation: Activation = "tanh",
    norm: str = "none",
    init: Init = "default",
    dim: int = 8,
    outputs: int = 1,
    noise: NotNegative = 0.1,
    examples: int = 512,
) -> partial[GeneratedTask]:
    """MLP that learns the outputs of a random tanh network (16 hidden units), one for each student; squared error.

    Args:
        hidden: units of each hidden layer.
        layers: hidden layers.
        activation: sigmoid, relu, tanh, gelu, elu or silu.
        norm: before each activation: none, layer, batch (statistics of the batch at hand) or rms.
        init: how first weights are drawn: default (PyTorch's way), zero-bias, xavier, he or orthogonal.
        dim: of the points.
        outputs: of the network.
        noise: standard deviation of what is added to the outputs, where theirs is 1.
        examples: in the training split of each student.

    Raises:
        ValueError: a size that is not a positive integer, a negative noise, an unknown word.
    """

    def generate(generator: torch.Generator, number: int) -> tuple[Tensor, Tensor]:
        points, targets = _teach(generator, number, dim, outputs)
        return points, targets + noise * torch.randn(targets.shape, generator=generator, dtype=torch.float64)

    return partial(
        GeneratedTask,
        nn.Sequential(*perceptron([dim, *[hidden] * layers, outputs], activation=activation, norm=norm)),
        nn.functional.mse_loss,
        generate,
        examples=examples,
        init_fn=INITS[init],
    )


def _teach(generator: torch.Generator, number: int, dim: int, outputs: int) -> tuple[Tensor, Tensor]:
    """Gaussian points and what a random tanh network makes of them, of mean 0 and deviation 1."""
    units = 16
    points, first, last = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((number, dim), (dim, units), (units, outputs))
    )
    values = torch.tanh(2 * points @ first / dim**0.5) @ last
    return points, (values - values.mean(0)) / values.std(0)
