"""Multilayer perceptrons on random clusters and random teachers, drawn anew for every student."""

import torch
from torch import Tensor, nn

from l2l_opt.checks import check_choices, check_numbers, check_positive_integers
from l2l_opt.tasks.base import register_task
from l2l_opt.tasks.generated import GeneratedTask
from l2l_opt.tasks.layers.basic import CLASS_LOSSES, INITS, perceptron

LABELS = ("clusters", "teacher")


@register_task("clusters-mlp")
def clusters_mlp(
    *,
    hidden: int = 32,
    layers: int = 1,
    activation: str = "relu",
    norm: str = "none",
    init: str = "default",
    loss: str = "cross-entropy",
    dim: int = 16,
    classes: int = 5,
    labels: str = "clusters",
    noise: float = 1.0,
    examples: int = 512,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> GeneratedTask:
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
        labels: where they come from, clusters or teacher.
        noise: standard deviation within a cluster, where that of centres is 1; or of the noise on the teacher's
            outputs, where theirs is 1.
        examples: in the training split of each student.
        batch_size: examples a batch.
        device: where tensors live.
        dtype: of weights and points.

    Raises:
        ValueError: a size that is not a positive integer, a negative noise, an unknown word.
    """
    check_positive_integers(hidden=hidden, layers=layers, dim=dim, classes=classes)
    check_numbers(0, noise=noise)
    check_choices(LABELS, labels=labels)
    check_choices(INITS, init=init)
    check_choices(CLASS_LOSSES, loss=loss)

    def of_clusters(generator: torch.Generator, number: int) -> tuple[Tensor, Tensor]:
        centres = torch.randn(2 * classes, dim, generator=generator, dtype=torch.float64)
        cloud = torch.randint(2 * classes, (number,), generator=generator)
        spread = torch.randn(number, dim, generator=generator, dtype=torch.float64)
        return (centres[cloud] + noise * spread) / (1 + noise**2) ** 0.5, cloud % classes

    def of_teacher(generator: torch.Generator, number: int) -> tuple[Tensor, Tensor]:
        points, outputs = _teach(generator, number, dim, classes)
        outputs = outputs + noise * torch.randn(outputs.shape, generator=generator, dtype=torch.float64)
        return points, outputs.argmax(-1)

    return GeneratedTask(
        nn.Sequential(*perceptron([dim, *[hidden] * layers, classes], activation=activation, norm=norm)),
        CLASS_LOSSES[loss],
        of_clusters if labels == "clusters" else of_teacher,
        examples=examples,
        batch_size=batch_size,
        init_fn=INITS[init],
        device=device,
        dtype=dtype,
    )


@register_task("teacher-mlp")
def teacher_mlp(
    *,
    hidden: int = 32,
    layers: int = 1,
    activation: str = "tanh",
    norm: str = "none",
    init: str = "default",
    dim: int = 8,
    outputs: int = 1,
    noise: float = 0.1,
    examples: int = 512,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> GeneratedTask:
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
        batch_size: examples a batch.
        device: where tensors live.
        dtype: of weights and points.

    Raises:
        ValueError: a size that is not a positive integer, a negative noise, an unknown word.
    """
    check_positive_integers(hidden=hidden, layers=layers, dim=dim, outputs=outputs)
    check_numbers(0, noise=noise)
    check_choices(INITS, init=init)

    def generate(generator: torch.Generator, number: int) -> tuple[Tensor, Tensor]:
        points, targets = _teach(generator, number, dim, outputs)
        return points, targets + noise * torch.randn(targets.shape, generator=generator, dtype=torch.float64)

    return GeneratedTask(
        nn.Sequential(*perceptron([dim, *[hidden] * layers, outputs], activation=activation, norm=norm)),
        nn.functional.mse_loss,
        generate,
        examples=examples,
        batch_size=batch_size,
        init_fn=INITS[init],
        device=device,
        dtype=dtype,
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
