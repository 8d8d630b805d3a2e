"""Any nn.Module as a task family."""

import copy
from collections.abc import Callable, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from l2l_opt.tasks.base import Split
from l2l_opt.types import Batch, Params, TaskData


@dataclass(frozen=True)
class Examples:
    """Training and test examples in one pair of tensors, so that a batch is indices whatever its split.

    Attributes:
        inputs: ``[num_train + num_test, ...]``.
        targets: ``[num_train + num_test, ...]``.
        ranges: split -> its first index and the one after its last.
    """

    inputs: Tensor
    targets: Tensor
    ranges: dict[str, tuple[int, int]]

    @classmethod
    def join(cls, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor] | None) -> "Examples":
        """One pair of tensors of two splits; the test split is the training data where there is none."""
        num_train = train[0].shape[0]
        if test is None:
            return cls(*train, {"train": (0, num_train), "test": (0, num_train)})
        inputs, targets = (torch.cat(pair) for pair in zip(train, test, strict=True))
        return cls(inputs, targets, {"train": (0, num_train), "test": (num_train, inputs.shape[0])})

    @classmethod
    def parted(cls, inputs: Tensor, targets: Tensor) -> "Examples":
        """The last fifth is the test split."""
        border = len(inputs) * 4 // 5
        return cls(inputs, targets, {"train": (0, border), "test": (border, len(inputs))})


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
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be a positive integer; got {batch_size!r}, use e.g. 128")
        self.device, self.dtype = torch.device(device), dtype
        self.module = copy.deepcopy(module).to(device=self.device, dtype=dtype)
        self.loss_fn, self.batch_size = loss_fn, batch_size
        self.init_fn = init_fn if init_fn is not None else reset_parameters
        if isinstance(dataset, Examples):
            self.examples = dataset
        else:
            test = None if test_dataset is None else self._tensors(test_dataset)
            self.examples = Examples.join(self._tensors(dataset), test)
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
        index = batch["index"]
        outputs = torch.func.functional_call(self.module, (params, self.buffers), (self.examples.inputs[index],))
        return self.loss_fn(outputs, self.examples.targets[index])

    def _tensors(self, dataset: tuple[Tensor, Tensor] | Dataset[Any]) -> tuple[Tensor, Tensor]:
        if isinstance(dataset, TensorDataset):
            dataset = dataset.tensors  # type: ignore[assignment]
        elif isinstance(dataset, Dataset) and isinstance(dataset, Sized):
            examples: Any = dataset
            pairs = [examples[index] for index in range(len(dataset))]
            inputs, targets = zip(*pairs, strict=True) if pairs else ((), ())
            dataset = (
                torch.stack([torch.as_tensor(x) for x in inputs]),
                torch.stack([torch.as_tensor(y) for y in targets]),
            )
        if not (isinstance(dataset, (tuple, list)) and len(dataset) == 2 and all(torch.is_tensor(x) for x in dataset)):
            raise TypeError(
                f"dataset must be (inputs, targets) tensors or a map-style Dataset of such pairs; "
                f"got {type(dataset).__name__}, use e.g. TensorDataset(inputs, targets)"
            )
        inputs, targets = dataset
        if inputs.shape[0] != targets.shape[0] or inputs.shape[0] == 0:
            raise ValueError(
                f"inputs and targets must have the same number of examples, at least one; "
                f"got {inputs.shape[0]} and {targets.shape[0]}"
            )
        return self._place(inputs), self._place(targets)

    def _place(self, tensor: Tensor) -> Tensor:
        return tensor.to(device=self.device, dtype=self.dtype if tensor.is_floating_point() else tensor.dtype)

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
