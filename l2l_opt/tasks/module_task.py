"""Any nn.Module as a task family."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from l2l_opt.checks import check_positive_integers
from l2l_opt.tasks.base import Split
from l2l_opt.tasks.drawing import placed
from l2l_opt.tasks.examples import Examples, read_dataset
from l2l_opt.tasks.faults import faults_named
from l2l_opt.tasks.probe import check_second_derivatives, check_student
from l2l_opt.tasks.student_module import Init, StudentModule
from l2l_opt.types import Batch, Params, TaskData


class ModuleTask:
    """A task family of any module: ``f(theta) = loss_fn(module_theta(inputs), targets)`` on random batches.

    The module runs through ``torch.func.functional_call`` and ``vmap``. Frozen weights (``requires_grad=False``) and
    buffers take part as constants. Students differ by their initial weights and their batches. Dropout and batch norm
    with running statistics act on training batches, and are as after ``eval()`` on test batches; a module that is in
    evaluation itself stays so.

    Args:
        module: the student; its own weights are not touched.
        loss_fn: ``loss_fn(outputs, targets) -> scalar``, e.g. ``torch.nn.functional.cross_entropy``.
        dataset: ``(inputs, targets)`` tensors with examples along the first axis, or a map-style ``Dataset`` of such
            pairs (it is read into memory once), or ready ``Examples`` that several families share.
        test_dataset: the same for the test split; the training data where None.
        batch_size: examples a batch, drawn with replacement.
        init: where students start: ``"fresh"``, weights drawn by init_fn, or ``"module"``, the module's own, as of a
            pretrained one.
        init_fn: ``init_fn(module)`` draws fresh weights in place with torch's global generator, which is seeded for
            the call; by default ``reset_parameters()`` of every submodule.
        device: of the tensors.
        dtype: of the weights and of floating-point inputs and targets.

    Raises:
        ValueError: an empty or ragged dataset, or one with NaN or infinity; a module that has no weights to train or
            some that cannot be drawn anew, whose forward changes other buffers, is random without dropout, or holds a
            layer that cannot run for many students at once; a loss that is not a scalar.
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
        init: Init = "fresh",
        init_fn: Callable[[nn.Module], Any] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        check_positive_integers(128, batch_size=batch_size)
        self.device, self.dtype = torch.device(device), dtype
        self.student = StudentModule(module, init=init, init_fn=init_fn, device=self.device, dtype=dtype)
        self.module, self.loss_fn, self.batch_size = self.student.module, loss_fn, batch_size
        if not isinstance(dataset, Examples):
            test = None if test_dataset is None else read_dataset(test_dataset)
            dataset = Examples.join(read_dataset(dataset), test)
        self.examples = dataset.to(self.device, self.dtype)
        self.buffers = self.student.constants
        if self.student.current.running:
            self.update_data = self._next_statistics
        check_student(self.student, self.loss, *self._draw())
        self._check_extremes()

    def _draw(self) -> tuple[Params, TaskData, Batch]:
        generator = torch.Generator().manual_seed(0)
        return self.init_params({}, generator), {}, self.sample_batch({}, generator)

    def _check_extremes(self) -> None:
        """Refuse labels and indices out of range, which a single batch may not hold."""
        rows: list[Tensor] = []
        for tensor in (self.examples.inputs, self.examples.targets):
            if not (tensor.is_floating_point() or tensor.is_complex()):
                flat = tensor.reshape(len(tensor), -1)
                rows += [flat.amin(1).argmin(), flat.amax(1).argmax()]
        if rows:
            params, data, batch = self._draw()
            index = batch["index"].clone() if self.batch_size >= len(rows) else torch.stack(rows)
            index[: len(rows)] = torch.stack(rows)
            with torch.no_grad(), faults_named(self.module):
                self.loss(params, data, {"index": index})

    def check_second_derivatives(self) -> None:
        """Refuse a module whose gradients cannot be differentiated, by name of the layer.

        Raises:
            ValueError: there is such a layer.
        """
        check_second_derivatives(self.student, self.loss, *self._draw())

    def sample(self, generator: torch.Generator) -> TaskData:
        """Running statistics, where the module has them; students of one module share all else."""
        return {STATISTICS + name: self.student.constants[name].clone() for name in self.student.current.running}

    def init_params(self, data: TaskData, generator: torch.Generator) -> Params:
        return self.student.first_weights(generator)

    def sample_batch(self, data: TaskData, generator: torch.Generator, split: Split = "train") -> Batch:
        """``index [batch_size]``, the examples of the split that are drawn, and the ``seed`` of a pass of training."""
        index = torch.randint(*self.examples.ranges[split], (self.batch_size,), generator=generator)
        batch = {"index": placed(index, self.device)}
        if split == "train" and self.student.differs_in_training:
            batch["seed"] = placed(torch.randint(2**62, (), generator=generator), self.device)
        return batch

    def loss(self, params: Params, data: TaskData, batch: Batch) -> Tensor:
        inputs, targets = self.select(data, batch)
        outputs = self.student(params, *inputs, seed=batch.get("seed"), statistics=statistics_of(data))
        return self.loss_fn(outputs, targets)

    def accuracy(self, params: Params, data: TaskData, batch: Batch) -> Tensor:
        """The share of right classes, in 0 to 1, 0-dim; NaN where targets are no classes.

        Classes lie along the outputs' last axis, or the second, as of images pixel by pixel.
        """
        inputs, targets = self.select(data, batch)
        outputs = self.student(params, *inputs, seed=batch.get("seed"), statistics=statistics_of(data))
        if not isinstance(outputs, Tensor) or targets.is_floating_point():
            return torch.full((), torch.nan, dtype=self.dtype, device=self.device)
        for axis in (-1, 1):
            chosen = outputs.argmax(axis)
            if outputs.dim() > 1 and chosen.shape == targets.shape:
                return (chosen == targets).to(self.dtype).mean()
        return torch.full((), torch.nan, dtype=self.dtype, device=self.device)

    def _next_statistics(self, params: Params, data: TaskData, batch: Batch) -> TaskData:
        inputs, _ = self.select(data, batch)
        statistics = self.student.next_statistics(params, *inputs, seed=batch["seed"], statistics=statistics_of(data))
        return data | {STATISTICS + name: value for name, value in statistics.items()}

    def select(self, data: TaskData, batch: Batch) -> tuple[tuple[Tensor, ...], Tensor]:
        """What a batch is of: the module's arguments, and the targets."""
        return (self.examples.inputs[batch["index"]],), self.examples.targets[batch["index"]]


STATISTICS = "statistics/"
"""Before the names of running statistics among a student's data."""


def statistics_of(data: TaskData) -> Params:
    """A student's running statistics, by the names of its module's buffers."""
    return {name.removeprefix(STATISTICS): value for name, value in data.items() if name.startswith(STATISTICS)}
