"""Random quadratics, the original paper's first task."""

import torch
from torch import Tensor

from l2l_opt.checks import check_numbers, check_positive_integers
from l2l_opt.tasks.base import Split, register_task
from l2l_opt.types import Batch, Params, TaskData


@register_task("quadratics")
class Quadratics:
    """Random quadratics, ``f(theta) = ||W theta - y||^2`` with Gaussian W and y, fresh for every student.

    Args:
        dim: length of theta.
        init_scale: standard deviation of the initial theta.
        device: of the tensors.
        dtype: of all tensors.

    Source: arXiv 1606.04474, section 3.1.
    Differs from source: the paper leaves the initial theta open; their released code draws it with deviation 0.01.
    """

    def __init__(
        self,
        *,
        dim: int = 10,
        init_scale: float = 0.01,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        check_positive_integers(10, dim=dim)
        check_numbers(0, init_scale=init_scale)
        self.dim, self.init_scale, self.device, self.dtype = dim, init_scale, torch.device(device), dtype

    def _normal(self, *shape: int, generator: torch.Generator) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=self.dtype).to(self.device)

    def sample(self, generator: torch.Generator) -> TaskData:
        """W ``[dim, dim]`` and y ``[dim]``."""
        return {
            "W": self._normal(self.dim, self.dim, generator=generator),
            "y": self._normal(self.dim, generator=generator),
        }

    def init_params(self, data: TaskData, generator: torch.Generator) -> Params:
        return {"theta": self.init_scale * self._normal(self.dim, generator=generator)}

    def sample_batch(self, data: TaskData, generator: torch.Generator, split: Split = "train") -> Batch:
        """Nothing: a quadratic has no batches."""
        return {}

    def loss(self, params: Params, data: TaskData, batch: Batch) -> Tensor:
        residual = data["W"] @ params["theta"] - data["y"]
        return residual @ residual
