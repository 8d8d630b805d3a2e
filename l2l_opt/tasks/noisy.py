"""A task family of any nn.Module whose loss needs noise, which comes with the batch."""

from typing import Any

import torch
from torch import Tensor

from l2l_opt.tasks.base import Split
from l2l_opt.tasks.drawing import placed
from l2l_opt.tasks.module_task import ModuleTask
from l2l_opt.types import Batch, TaskData


class NoisyTask(ModuleTask):
    """``f(theta) = loss_fn(module_theta(inputs, noise), targets)`` with standard Gaussian noise for every example.

    Given a batch the loss is deterministic, as it must be.

    Args:
        arguments: as ``ModuleTask`` takes them: module, called with inputs and noise; loss_fn; dataset.
        noise_shape: of an example's noise.
        options: likewise: batch_size, device, dtype.
    """

    def __init__(self, *arguments: Any, noise_shape: tuple[int, ...], **options: Any):
        self.noise_shape = noise_shape
        super().__init__(*arguments, **options)

    def sample_batch(self, data: TaskData, generator: torch.Generator, split: Split = "train") -> Batch:
        """``index [batch_size]`` of examples and ``noise [batch_size, *noise_shape]``."""
        batch = super().sample_batch(data, generator, split)
        noise = torch.randn(self.batch_size, *self.noise_shape, generator=generator, dtype=self.dtype)
        return {**batch, "noise": placed(noise, self.device)}

    def select(self, data: TaskData, batch: Batch) -> tuple[tuple[Tensor, ...], Tensor]:
        inputs, targets = super().select(data, batch)
        return (*inputs, batch["noise"]), targets
