"""Perceptrons on scikit-learn's small tables; for validation (iris) and held out (the others)."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from l2l_opt.checks import check_choices, check_positive_integers
from l2l_opt.tasks.base import register_task
from l2l_opt.tasks.layers.basic import CLASS_LOSSES, Residual, perceptron
from l2l_opt.tasks.module_task import Examples, ModuleTask


@lru_cache(8)
def table_examples(name: str, device: torch.device, dtype: torch.dtype) -> tuple[Examples, int]:
    """A table in an order drawn once, a fifth of it for tests, and its number of classes (0: it has numbers).

    Columns, and targets that are numbers, have mean 0 and deviation 1 over the training rows.

    Args:
        name: iris, wine, breast_cancer or diabetes.
        device: where they live.
        dtype: of them.

    Source: UCI's iris, wine and breast cancer; diabetes: Efron et al., 2004; as scikit-learn ships them (BSD-3).
    """
    from sklearn import datasets

    load: Callable[..., Any] = getattr(datasets, f"load_{name}")
    columns, targets = (torch.from_numpy(array) for array in load(return_X_y=True))
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    border = len(targets) * 4 // 5

    def standardised(values: Tensor) -> Tensor:
        known = values[:border]
        return ((values - known.mean(0)) / known.std(0)).to(device, dtype)

    columns, targets = standardised(columns[order].double()), targets[order]
    of_numbers = targets.is_floating_point()
    targets = standardised(targets).unsqueeze(-1) if of_numbers else targets.long().to(device)
    return Examples.parted(columns, targets), 0 if of_numbers else int(targets.max()) + 1


def table_mlp(
    name: str,
    *,
    hidden: int = 16,
    layers: int = 2,
    activation: str = "relu",
    loss: str = "cross-entropy",
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ModuleTask:
    """Classification, or regression with squared error, of a table's rows by a multilayer perceptron.

    Args:
        name: of the table.
        hidden: units of each hidden layer.
        layers: hidden layers.
        activation: sigmoid, relu, tanh, gelu, elu or silu.
        loss: of classes: cross-entropy, smoothed (a tenth spread over all classes) or squared (to one-hot classes).
        batch_size: rows a batch.
        device: where tensors live.
        dtype: of weights and rows.

    Raises:
        ValueError: a size that is not a positive integer, an unknown word.
    """
    check_positive_integers(hidden=hidden, layers=layers)
    check_choices(CLASS_LOSSES, loss=loss)
    examples, num_classes = table_examples(name, torch.device(device), dtype)
    widths = [examples.inputs.shape[1], *[hidden] * layers, num_classes or 1]
    return ModuleTask(
        nn.Sequential(*perceptron(widths, activation=activation)),
        CLASS_LOSSES[loss] if num_classes else nn.functional.mse_loss,
        examples,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
    )


@register_task("breast-cancer-residual")
def breast_cancer_residual(
    *,
    width: int = 24,
    blocks: int = 6,
    loss: str = "cross-entropy",
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ModuleTask:
    """Deep residual perceptron with layer norm on scikit-learn's breast cancer table.

    Each block adds linear(relu(linear(layer norm(x)))) to x.

    Args:
        width: units throughout.
        blocks: how many.
        loss: cross-entropy, smoothed (a tenth spread over all classes) or squared (to one-hot classes).
        batch_size: rows a batch.
        device: where tensors live.
        dtype: of weights and rows.

    Raises:
        ValueError: a size that is not a positive integer, an unknown loss.
    """
    check_positive_integers(width=width, blocks=blocks)
    check_choices(CLASS_LOSSES, loss=loss)
    examples, num_classes = table_examples("breast_cancer", torch.device(device), dtype)

    def block() -> Residual:
        return Residual(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    return ModuleTask(
        nn.Sequential(
            nn.Linear(examples.inputs.shape[1], width),
            *(block() for _ in range(blocks)),
            nn.LayerNorm(width),
            nn.Linear(width, num_classes),
        ),
        CLASS_LOSSES[loss],
        examples,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
    )


def _register(name: str, table: str, summary: str) -> None:
    factory = partial(table_mlp, table)
    factory.__doc__ = summary
    register_task(name)(factory)


_register("iris-mlp", "iris", "MLP (4-16-16-3 ReLU) on scikit-learn's iris table.")
_register("wine-mlp", "wine", "MLP (13-16-16-3 ReLU) on scikit-learn's wine table.")
_register("breast-cancer-mlp", "breast_cancer", "MLP (30-16-16-2 ReLU) on scikit-learn's breast cancer table.")
_register("diabetes-mlp", "diabetes", "MLP (10-16-16-1 ReLU) for scikit-learn's diabetes table, a regression.")
