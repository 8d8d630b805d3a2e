"""Any nn.Module as a task family."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from l2l_opt.checks import check_positive_integers
from l2l_opt.tasks.base import Split
from l2l_opt.tasks.examples import Examples, read_dataset
from l2l_opt.types import Batch, Params, TaskData


class ModuleTask:
    """A task family of any module: ``f(theta) = loss_fn(module_theta(inputs), targets)`` on random batches.

    The module runs through ``torch.func.functional_call`` and ``vmap``. Buffers that its forward only reads take part
    as constants. Students differ by their initial weights and their batches.

    Args:
        module: the student; its own weights are not touched.
        loss_fn: ``loss_fn(outputs, targets) -> scalar``, e.g. ``torch.nn.functional.cross_entropy``.
        dataset: ``(inputs, targets)`` tensors with examples along the first axis, or a map-style ``Dataset`` of such
            pairs (it is read into memory once), or ready ``Examples`` that several families share.
        test_dataset: the same for the test split; the training data where None.
        batch_size: examples a batch, drawn with replacement.
        init_fn: ``init_fn(module)`` draws fresh weights in place with torch's global generator, which is seeded for
            the call; by default ``reset_parameters()`` of every submodule.
        device: where tensors live.
        dtype: of the weights and of floating-point inputs and targets.

    Raises:
        ValueError: an empty or ragged dataset; a module whose forward changes its buffers (batch norm with running
            statistics), is random (dropout) or holds weights that cannot be drawn anew; a loss that is not a scalar.
        TypeError: a module that is not an nn.Module, or a dataset of another kind.

    Example:
        >>> family = ModuleTask(nn.Linear(3, 1), nn.functional.mse_loss, (torch.randn(50, 3), torch.randn(50, 1)))
    """

    def __init__(
        self,
        module: nn.Module,
        loss_fn: Callable[[Any, Tensor], Tensor],
        dataset: tuple[Tensor, Tensor] | Dataset[Any] | Examples,
        *,
        test_dataset: tuple[Tensor, Tensor] | Dataset[Any] | None = None,
        batch_size: int = 128,
        init_fn: Callable[[nn.Module], Any] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        if not isinstance(module, nn.Module):
            raise TypeError(f"module must be an nn.Module; got {type(module).__name__}, use e.g. nn.Linear(10, 2)")
        check_positive_integers(128, batch_size=batch_size)
        self.device, self.dtype = torch.device(device), dtype
        self.module = copy.deepcopy(module).to(device=self.device, dtype=dtype)
        self.loss_fn, self.batch_size = loss_fn, batch_size
        self.init_fn = init_fn if init_fn is not None else reset_parameters
        if not isinstance(dataset, Examples):
            test = None if test_dataset is None else read_dataset(test_dataset)
            dataset = Examples.join(read_dataset(dataset), test)
        self.examples = dataset.to(self.device, self.dtype)
        self.buffers = dict(self.module.named_buffers())
        self._refuse_what_unroll_cannot_run()

    def sample(self, generator: torch.Generator) -> TaskData:
        """Nothing: students of one module share their data."""
        return {}

    def init_params(self, data: TaskData, generator: torch.Generator) -> Params:
        return fresh_parameters(self.module, self.init_fn, generator, self.device)

    def sample_batch(self, data: TaskData, generator: torch.Generator, split: Split = "train") -> Batch:
        """``index [batch_size]``, the examples of the split that are drawn."""
        index = torch.randint(*self.examples.ranges[split], (self.batch_size,), generator=generator)
        return {"index": index.to(self.device)}

    def loss(self, params: Params, data: TaskData, batch: Batch) -> Tensor:
        inputs, targets = self.select(data, batch)
        return self.loss_fn(torch.func.functional_call(self.module, (params, self.buffers), inputs), targets)

    def select(self, data: TaskData, batch: Batch) -> tuple[tuple[Tensor, ...], Tensor]:
        """What a batch is of: the module's arguments, and the targets."""
        return (self.examples.inputs[batch["index"]],), self.examples.targets[batch["index"]]

    def _refuse_what_unroll_cannot_run(self) -> None:
        generator = torch.Generator().manual_seed(0)
        params, batch = self.init_params({}, generator), self.sample_batch({}, generator)
        before = {name: buffer.clone() for name, buffer in self.buffers.items()}
        with torch.no_grad():
            first, second = self.loss(params, {}, batch), self.loss(params, {}, batch)
        changed = [name for name, buffer in self.buffers.items() if not torch.equal(before[name], buffer)]
        for name, value in before.items():
            self.buffers[name].copy_(value)
        if changed:
            raise ValueError(
                f"a student's forward must leave its buffers unchanged; got {changed[0]!r}, which it writes: "
                "use track_running_stats=False for batch norm, or module.eval()"
            )
        if first.dim() != 0:
            raise ValueError(f"loss_fn must return a scalar; got shape {tuple(first.shape)}, use its mean")
        if not torch.equal(first, second) and torch.isfinite(first):
            raise ValueError(
                f"a student's loss must be deterministic; got {first.item():.6g} and {second.item():.6g} "
                "for one batch: remove dropout, or use module.eval()"
            )


def fresh_parameters(
    module: nn.Module, init_fn: Callable[[nn.Module], Any], generator: torch.Generator, device: torch.device
) -> Params:
    """A module's weights drawn anew by ``init_fn``; the module's own are not touched."""
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    template = copy.deepcopy(module).cpu()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        init_fn(template)
    return {name: param.detach().to(device) for name, param in template.named_parameters()}


def reset_parameters(module: nn.Module) -> None:
    for name, part in module.named_modules():
        reset = getattr(part, "reset_parameters", None) or getattr(part, "_reset_parameters", None)
        if reset is not None:
            reset()
        elif next(part.parameters(recurse=False), None) is not None:
            raise ValueError(
                f"every submodule with weights must have reset_parameters(); got {name or 'the module'!r} "
                f"({type(part).__name__}), which has none: pass init_fn"
            )
