"""A task family of any nn.Module on data that are generated anew for every student."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from l2l_opt.checks import check_positive_integers
from l2l_opt.tasks.examples import place
from l2l_opt.tasks.module_task import ModuleTask
from l2l_opt.types import Batch, TaskData

Generate = Callable[[torch.Generator, int], tuple[Tensor, Tensor]]


class GeneratedTask(ModuleTask):
    """``f(theta) = loss_fn(module_theta(inputs), targets)`` on a data set of each student's own.

    Args:
        module: the student, as ``ModuleTask`` takes it.
        loss_fn: ``loss_fn(outputs, targets) -> scalar``.
        generate: ``generate(generator, number)`` draws inputs ``[number, ...]`` and targets, in any floating-point
            dtype, on the CPU.
        examples: in the training split; a quarter as many more are the test split.
        batch_size: examples a batch, drawn with replacement.
        options: as ``ModuleTask`` takes them: init_fn, device, dtype.

    Raises:
        ValueError: examples that are not a positive integer; what ``ModuleTask`` refuses.
    """

    def __init__(
        self,
        module: nn.Module,
        loss_fn: Callable[[Any, Tensor], Tensor],
        generate: Generate,
        *,
        examples: int = 512,
        batch_size: int = 32,
        **options: Any,
    ):
        check_positive_integers(examples=examples)
        self.generate, self.num_examples = generate, examples + (examples + 3) // 4
        inputs, targets = generate(torch.Generator().manual_seed(0), self.num_examples)
        test = inputs[examples:], targets[examples:]
        train = inputs[:examples], targets[:examples]
        super().__init__(module, loss_fn, train, test_dataset=test, batch_size=batch_size, **options)

    def sample(self, generator: torch.Generator) -> TaskData:
        """``inputs`` and ``targets``, the training examples first."""
        inputs, targets = self.generate(generator, self.num_examples)
        own = {key: place(x, self.device, self.dtype) for key, x in {"inputs": inputs, "targets": targets}.items()}
        return own | super().sample(generator)

    def select(self, data: TaskData, batch: Batch) -> tuple[tuple[Tensor, ...], Tensor]:
        # Without data, as when the module is checked, an example of what is generated.
        if "inputs" not in data:
            return super().select(data, batch)
        return (data["inputs"][batch["index"]],), data["targets"][batch["index"]]
