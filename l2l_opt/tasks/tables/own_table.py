"""Perceptrons on a table of a user's own."""

from functools import partial
from typing import Annotated

from torch import nn

from l2l_opt.checks import check_choices, check_fractions
from l2l_opt.tasks.base import register_module_task
from l2l_opt.tasks.data_files import DataPath
from l2l_opt.tasks.layers.basic import Activation, perceptron
from l2l_opt.tasks.module_task import ModuleTask
from l2l_opt.tasks.tables.own_rows import read_rows

Kind = Annotated[str, partial(check_choices, ("auto", "classes", "numbers"))]
Share = Annotated[float, partial(check_fractions, 0.1)]


@register_module_task("table-mlp", batch_size=32)
def table_mlp(
    *,
    data: DataPath,
    target: str | None = None,
    kind: Kind = "auto",
    hidden: int = 32,
    layers: int = 2,
    activation: Activation = "relu",
    dropout: Share = 0.0,
    words: str = "",
    numbers: str = "",
    ignore: str = "",
) -> partial[ModuleTask]:
    """MLP on a table of your own, a CSV or an npz file: classification, or regression with squared error.

    A fifth of the rows, drawn once, is the test split. Inputs, and targets that are numbers, have mean 0 and deviation
    1 over the training rows.

    Args:
        data: a CSV file with a header, or an npz file of the arrays x ``[rows, ...]`` and y ``[rows]``.
        target: the CSV file's column that is learned.
        kind: of what is learned: classes, numbers, or auto: words are classes, and so are whole numbers of few values.
        hidden: units of each hidden layer.
        layers: hidden layers.
        activation: sigmoid, relu, tanh, gelu, elu or silu.
        dropout: the share of each hidden layer's outputs that a training batch goes without.
        words: columns to read as words, with ``;`` between them.
        numbers: columns to read as numbers, likewise.
        ignore: columns to leave out, likewise.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a size that is not a positive integer, an unknown word, a file that ``read_rows`` refuses.
    """
    named = {"words": words, "numbers": numbers, "ignore": ignore}
    roles = {name.strip(): role for role, names in named.items() for name in filter(None, str(names).split(";"))}
    rows = read_rows(str(data), target=None if target is None else str(target), kind=kind, roles=roles)
    widths = [rows.examples.inputs.shape[1], *[hidden] * layers, rows.num_outputs]
    return partial(
        ModuleTask,
        nn.Sequential(*perceptron(widths, activation=activation, dropout=dropout)),
        nn.functional.cross_entropy if rows.classes else nn.functional.mse_loss,
        rows.examples,
    )
