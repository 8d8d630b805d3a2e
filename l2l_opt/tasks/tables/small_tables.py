"""Perceptrons on scikit-learn's small tables; iris is for validation, the others are of the suite ``seen``."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from l2l_opt.tasks.base import register_module_task
from l2l_opt.tasks.examples import Examples
from l2l_opt.tasks.layers.basic import CLASS_LOSSES, Activation, ClassLoss, Residual, perceptron
from l2l_opt.tasks.module_task import ModuleTask


@lru_cache(8)
def table_examples(name: str) -> tuple[Examples, int]:
    """A table in an order drawn once, a fifth of it for tests, and its number of classes (0: it has numbers).

    Columns, and targets that are numbers, have mean 0 and deviation 1 over the training rows.

    Args:
        name: iris, wine, breast_cancer or diabetes.

    Source: UCI's iris, wine and breast cancer; diabetes: Efron et al., 2004; as scikit-learn ships them (BSD-3).
    """
    from sklearn import datasets

    load: Callable[..., Any] = getattr(datasets, f"load_{name}")
    columns, targets = (torch.from_numpy(array) for array in load(return_X_y=True))
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    border = len(targets) * 4 // 5

    def standardised(values: Tensor) -> Tensor:
        known = values[:border]
        return (values - known.mean(0)) / known.std(0)

    columns, targets = standardised(columns[order].double()), targets[order]
    of_numbers = targets.is_floating_point()
    targets = standardised(targets).unsqueeze(-1) if of_numbers else targets.long()
    return Examples.parted(columns, targets), 0 if of_numbers else int(targets.max()) + 1


def table_mlp(
    name: str, *, hidden: int = 16, layers: int = 2, activation: Activation = "relu", loss: ClassLoss = "cross-entropy"
) -> partial[ModuleTask]:
    """Classification, or regression with squared error, of a table's rows by a multilayer perceptron.

    Args:
        name: of the table.
        hidden: units of each hidden layer.
        layers: hidden layers.
        activation: sigmoid, relu, tanh, gelu, elu or silu.
        loss: of classes: cross-entropy, smoothed (a tenth spread over all classes) or squared (to one-hot classes).

    Raises:
        ValueError: a size that is not a positive integer, an unknown word.
    """
    examples, num_classes = table_examples(name)
    widths = [examples.inputs.shape[1], *[hidden] * layers, num_classes or 1]
    return partial(
        ModuleTask,
        nn.Sequential(*perceptron(widths, activation=activation)),
        CLASS_LOSSES[loss] if num_classes else nn.functional.mse_loss,
        examples,
    )


@register_module_task("breast-cancer-residual", batch_size=32)
def breast_cancer_residual(
    *, width: int = 24, blocks: int = 6, loss: ClassLoss = "cross-entropy"
) -> partial[ModuleTask]:
    """Deep residual perceptron with layer norm on scikit-learn's breast cancer table.

    Each block adds linear(relu(linear(layer norm(x)))) to x.

    Args:
        width: units throughout.
        blocks: how many.
        loss: cross-entropy, smoothed (a tenth spread over all classes) or squared (to one-hot classes).

    Raises:
        ValueError: a size that is not a positive integer, an unknown loss.
    """
    examples, num_classes = table_examples("breast_cancer")

    def block() -> Residual:
        return Residual(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    return partial(
        ModuleTask,
        nn.Sequential(
            nn.Linear(examples.inputs.shape[1], width),
            *(block() for _ in range(blocks)),
            nn.LayerNorm(width),
            nn.Linear(width, num_classes),
        ),
        CLASS_LOSSES[loss],
        examples,
    )


for _name, _summary in (
    ("iris", "MLP (4-16-16-3 ReLU) on scikit-learn's iris table."),
    ("wine", "MLP (13-16-16-3 ReLU) on scikit-learn's wine table."),
    ("breast_cancer", "MLP (30-16-16-2 ReLU) on scikit-learn's breast cancer table."),
    ("diabetes", "MLP (10-16-16-1 ReLU) for scikit-learn's diabetes table, a regression."),
):
    register_module_task(f"{_name.replace('_', '-')}-mlp", _name, batch_size=32, summary=_summary)(table_mlp)
