"""A task family of any nn.Module on data that are generated anew for every student."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from l2l_opt.checks import check_positive_integers
from l2l_opt.tasks.module_task import ModuleTask
from l2l_opt.types import Batch, Params, TaskData

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
        init_fn: draws fresh weights, as ``ModuleTask`` takes it.
        device: where tensors live.
        dtype: of the weights and of floating-point inputs and targets.

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
        init_fn: Callable[[nn.Module], Any] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        check_positive_integers(examples=examples)
        self.generate, self.num_examples = generate, examples + (examples + 3) // 4
        like = generate(torch.Generator().manual_seed(0), self.num_examples)
        super().__init__(
            module,
            loss_fn,
            (like[0][:examples], like[1][:examples]),
            test_dataset=(like[0][examples:], like[1][examples:]),
            batch_size=batch_size,
            init_fn=init_fn,
            device=device,
            dtype=dtype,
        )

    def sample(self, generator: torch.Generator) -> TaskData:
        """``inputs`` and ``targets``, the training examples first."""
        inputs, targets = self.generate(generator, self.num_examples)
        return {"inputs": self._place(inputs), "targets": self._place(targets)}

    def loss(self, params: Params, data: TaskData, batch: Batch) -> Tensor:
        # Without data, as when the module is checked, an example of what is generated.
        source = data or {"inputs": self.examples.inputs, "targets": self.examples.targets}
        index = batch["index"]
        outputs = torch.func.functional_call(self.module, (params, self.buffers), (source["inputs"][index],))
        return self.loss_fn(outputs, source["targets"][index])
