"""A task family of any nn.Module whose loss needs noise, which comes with the batch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from l2l_opt.tasks.base import Split
from l2l_opt.tasks.module_task import Examples, ModuleTask
from l2l_opt.types import Batch, Params, TaskData


class NoisyTask(ModuleTask):
    """``f(theta) = loss_fn(module_theta(inputs, noise), targets)`` with standard Gaussian noise for every example.

    Given a batch the loss is deterministic, as it must be.

    Args:
        module: the student, called with inputs and noise.
        loss_fn: ``loss_fn(outputs, targets) -> scalar``.
        examples: inputs and targets.
        noise_shape: of an example's noise.
        batch_size: examples a batch, drawn with replacement.
        device: where tensors live.
        dtype: of weights and noise.
    """

    def __init__(
        self,
        module: nn.Module,
        loss_fn: Callable[[Any, Tensor], Tensor],
        examples: Examples,
        *,
        noise_shape: tuple[int, ...],
        batch_size: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        self.noise_shape = noise_shape
        super().__init__(module, loss_fn, examples, batch_size=batch_size, device=device, dtype=dtype)

    def sample_batch(self, data: TaskData, generator: torch.Generator, split: Split = "train") -> Batch:
        """``index [batch_size]`` of examples and ``noise [batch_size, *noise_shape]``."""
        batch = super().sample_batch(data, generator, split)
        noise = torch.randn(self.batch_size, *self.noise_shape, generator=generator, dtype=self.dtype)
        return {**batch, "noise": noise.to(self.device)}

    def loss(self, params: Params, data: TaskData, batch: Batch) -> Tensor:
        index = batch["index"]
        inputs = self.examples.inputs[index], batch["noise"]
        outputs = torch.func.functional_call(self.module, (params, self.buffers), inputs)
        return self.loss_fn(outputs, self.examples.targets[index])
