"""Ill-conditioned linear regressions, a spectrum of its own for every student."""

import torch
from torch import Tensor

from l2l_opt.checks import check_numbers, check_positive_integers
from l2l_opt.tasks.base import Split, register_task
from l2l_opt.tasks.drawing import placed
from l2l_opt.types import Batch, Params, TaskData


@register_task("least-squares")
class LeastSquares:
    """Linear regressions, ``f(theta) = mean over rows a of (a theta - y)^2``, ill-conditioned, fresh for every student.

    The rows' covariance has eigenvalues log-uniform from 1 / condition to 1, both there, in random directions. The
    weights that y comes from are large where the spectrum is small, to a power that is uniform from 0 to 1 (at 0 all
    directions of theta weigh the same, at 1 all directions of y). y has variance 1 before noise.

    Args:
        dim: length of theta.
        condition: number of the rows' covariance, the ratio of its greatest eigenvalue to its least.
        noise: standard deviation of what is added to y.
        examples: rows in the training split; a quarter as many more are the test split.
        batch_size: rows a batch, drawn with replacement; all of them, and no noise from batches, where None.
        init_scale: standard deviation of the initial theta.
        device: of the tensors.
        dtype: of all tensors.

    Raises:
        ValueError: a size that is not a positive integer, a condition below 1, a negative noise.
    """

    def __init__(
        self,
        *,
        dim: int = 20,
        condition: float = 1000.0,
        noise: float = 0.1,
        examples: int = 256,
        batch_size: int | None = 32,
        init_scale: float = 0.01,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        check_positive_integers(dim=dim, examples=examples, batch_size=1 if batch_size is None else batch_size)
        check_numbers(1, condition=condition)
        check_numbers(0, noise=noise, init_scale=init_scale)
        self.dim, self.condition, self.noise, self.init_scale = dim, condition, noise, init_scale
        self.batch_size, self.device, self.dtype = batch_size, torch.device(device), dtype
        self.ranges = {"train": (0, examples), "test": (examples, examples + (examples + 3) // 4)}

    def sample(self, generator: torch.Generator) -> TaskData:
        """``A [rows, dim]`` and ``y [rows]``, the training rows first."""
        rows, dim = self.ranges["test"][1], self.dim

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        exponents = torch.rand(dim, generator=generator, dtype=torch.float64)
        exponents[0], exponents[-1] = 1, 0
        deviations = self.condition ** (-exponents / 2)
        directions = torch.linalg.qr(normal(dim, dim))[0]
        power = torch.rand((), generator=generator, dtype=torch.float64)
        whitened = normal(rows, dim)
        weights = deviations ** (1 - power) * normal(dim)
        y = whitened @ (weights / weights.norm()) + self.noise * normal(rows)
        matrix = (whitened * deviations) @ directions.T
        return {"A": matrix.to(self.device, self.dtype), "y": y.to(self.device, self.dtype)}

    def init_params(self, data: TaskData, generator: torch.Generator) -> Params:
        theta = torch.randn(self.dim, generator=generator, dtype=torch.float64)
        return {"theta": (self.init_scale * theta).to(self.device, self.dtype)}

    def sample_batch(self, data: TaskData, generator: torch.Generator, split: Split = "train") -> Batch:
        """``index [batch_size]`` of rows."""
        first, end = self.ranges[split]
        if self.batch_size is None:
            return {"index": torch.arange(first, end, device=self.device)}
        return {"index": placed(torch.randint(first, end, (self.batch_size,), generator=generator), self.device)}

    def loss(self, params: Params, data: TaskData, batch: Batch) -> Tensor:
        index = batch["index"]
        return (data["A"][index] @ params["theta"] - data["y"][index]).square().mean()
