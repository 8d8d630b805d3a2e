"""Three tables of a hundred, a thousand and ten thousand rows, with plain cross-entropy; held out."""

from functools import lru_cache, partial

import torch
from torch import Tensor, nn

from l2l_opt.tasks.base import register_module_task
from l2l_opt.tasks.examples import Examples
from l2l_opt.tasks.module_task import ModuleTask

TEST_ROWS = 1000


def _drawn(seed: int, rows: int, columns: int) -> tuple[torch.Generator, Tensor]:
    """A generator, and columns that hang together by a few causes: ``[rows, columns]``, deviation about 1."""
    generator = torch.Generator().manual_seed(seed)
    causes = torch.randn(rows, columns // 2, generator=generator, dtype=torch.float64)
    mixed = causes @ torch.randn(columns // 2, columns, generator=generator, dtype=torch.float64)
    own = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return generator, mixed / (columns // 2) ** 0.5 + 0.6 * own


def _examples(columns: Tensor, classes: Tensor, train: int) -> Examples:
    known = columns[:train]
    columns = (columns - known.mean(0)) / known.std(0)
    return Examples(columns, classes, {"train": (0, train), "test": (train, len(columns))})


@lru_cache(1)
def loans() -> Examples:
    """A hundred rows of ten columns, some of them skewed, and two classes: a noisy sum with two interactions."""
    rows = 100
    generator, x = _drawn(11, rows + TEST_ROWS, 10)
    score = x[:, 0] - x[:, 1] + x[:, 2] * x[:, 3] + 0.8 * x[:, 4].abs() - 0.6
    score = score + torch.randn(len(x), generator=generator, dtype=torch.float64)
    x[:, 5:] = x[:, 5:].exp()
    return _examples(x, (score > 0).long(), rows)


@lru_cache(1)
def patients() -> Examples:
    """A thousand rows of sixteen columns, a tenth of the cells missing and marked in others; five classes."""
    rows, classes = 1000, 5
    generator, x = _drawn(12, rows + TEST_ROWS, 16)
    centres = torch.randn(classes, 16, generator=generator, dtype=torch.float64)
    scores = x @ centres.T / 4 + torch.tanh(x[:, :5] * x[:, 5:10])
    uniform = torch.rand(scores.shape, generator=generator, dtype=torch.float64)
    drawn = (scores / 0.5 - (-uniform.log()).log()).argmax(-1)
    missing = torch.rand(x.shape, generator=generator, dtype=torch.float64) < 0.1
    return _examples(torch.cat([x.masked_fill(missing, 0), missing.double()], 1), drawn, rows)


@lru_cache(1)
def visitors() -> Examples:
    """Ten thousand rows of twelve columns; eight classes are leaves of a random tree, a tenth of them drawn anew."""
    rows, depth, classes = 10_000, 5, 8
    generator, x = _drawn(13, rows + TEST_ROWS, 12)
    column = torch.randint(12, (2**depth,), generator=generator)
    border = 0.7 * torch.randn(2**depth, generator=generator, dtype=torch.float64)
    leaf = torch.randint(classes, (2**depth,), generator=generator)
    node = torch.ones(len(x), dtype=torch.long)
    for _ in range(depth):
        right = x.gather(1, column[node][:, None]).squeeze(1) > border[node]
        node = 2 * node + right
    other = torch.rand(len(x), generator=generator, dtype=torch.float64) < 0.1
    drawn = torch.randint(classes, (len(x),), generator=generator)
    return _examples(x, torch.where(other, drawn, leaf[node - 2**depth]), rows)


@register_module_task("loans-mlp", batch_size=16)
def loans_mlp(*, hidden: int = 32) -> partial[ModuleTask]:
    """Perceptron with dropout on a generated table of a hundred rows, two classes; a thousand rows for tests.

    Args:
        hidden: units of each hidden layer.

    Raises:
        ValueError: a size that is not a positive integer.
    """
    module = nn.Sequential(
        nn.Linear(10, hidden), nn.Mish(), nn.Dropout(0.1), nn.Linear(hidden, hidden), nn.Mish(), nn.Linear(hidden, 2)
    )
    return partial(ModuleTask, module, nn.functional.cross_entropy, loans())


@register_module_task("patients-mlp", batch_size=32)
def patients_mlp(*, hidden: int = 48) -> partial[ModuleTask]:
    """Perceptron with batch norm on a generated table of a thousand rows with missing cells, five classes.

    Batch norm has running statistics, which tests use.

    Args:
        hidden: units of each of the two hidden layers.

    Raises:
        ValueError: a size that is not a positive integer.
    """
    module = nn.Sequential(
        nn.Linear(32, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, 5),
    )
    return partial(ModuleTask, module, nn.functional.cross_entropy, patients())


class Bins(nn.Module):
    """Each number as how far it fills each of some bins, ``[batch, columns] -> [batch, columns * bins]``.

    Source: arXiv 2203.05556, section 3.2.
    """

    edges: Tensor

    def __init__(self, columns: int, bins: int):
        super().__init__()
        self.register_buffer("edges", torch.linspace(-2, 2, bins + 1))
        self.columns = columns

    def forward(self, x: Tensor) -> Tensor:
        low, high = self.edges[:-1], self.edges[1:]
        return ((x.unsqueeze(-1) - low) / (high - low)).clamp(0, 1).flatten(1)


@register_module_task("visitors-bins", batch_size=64)
def visitors_bins(*, hidden: int = 48, bins: int = 8) -> partial[ModuleTask]:
    """Perceptron on binned columns of a generated table of ten thousand rows, eight classes, labelled by a random tree.

    Args:
        hidden: units of each of the two hidden layers.
        bins: of each column.

    Raises:
        ValueError: a size that is not a positive integer.
    """
    module = nn.Sequential(
        Bins(12, bins),
        nn.Linear(12 * bins, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, 8),
    )
    return partial(ModuleTask, module, nn.functional.cross_entropy, visitors())
