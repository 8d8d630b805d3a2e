"""An episode as a task: the same model for all, whose examples are the episode's data."""

import copy
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from l2l_opt.few_shot.episodes import EpisodeSource
from l2l_opt.tasks import probe
from l2l_opt.tasks.base import Split, TaskFamily, check_second_derivatives, updated_data
from l2l_opt.tasks.faults import faults_named
from l2l_opt.tasks.student_module import Init, StudentModule, check_weights
from l2l_opt.types import Batch, Params, TaskData

BatchNorm = Literal["transductive", "support"]
BATCH_NORMS: tuple[BatchNorm, ...] = ("transductive", "support")


class EpisodeTask:
    """A task family whose students are episodes: trained on the support set, evaluated on the query set.

    Args:
        model: any module from a batch of inputs to outputs; its own weights are not touched.
        episodes: where they come from.
        loss_fn: ``loss_fn(outputs, targets) -> scalar``; cross-entropy of classes and squared error of numbers where
            None.
        batch_norm: whose statistics batch norm takes. ``"transductive"``: those of the batch at hand, so that query
            examples are seen together, as in the papers; ``"support"``: those of the support set.
        init: where weights begin: ``"fresh"``, drawn by init_fn, or ``"module"``, the model's own, as of a pretrained
            one. What is frozen (``requires_grad=False``) is a constant.
        init_fn: draws fresh weights in place; by default ``reset_parameters()`` of every submodule.
        device: of the model and the episodes.
        dtype: of its weights.

    Raises:
        ValueError: an unknown word; a model whose outputs do not fit the episodes.
    """

    def __init__(
        self,
        model: nn.Module,
        episodes: EpisodeSource,
        *,
        loss_fn: Callable[[Tensor, Tensor], Tensor] | None = None,
        batch_norm: BatchNorm = "transductive",
        init: Init = "fresh",
        init_fn: Callable[[nn.Module], Any] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        if batch_norm not in BATCH_NORMS:
            raise ValueError(f"batch_norm must be one of {', '.join(BATCH_NORMS)}; got {batch_norm!r}")
        self.device, self.dtype = torch.device(device), dtype
        self.episodes = episodes
        check_weights(model, device=self.device, dtype=dtype)
        model = copy.deepcopy(model)
        self.sees_support_again = batch_norm == "support"
        model = _of_given_batches(model, num_rows=episodes.num_support if self.sees_support_again else None)
        usual = nn.functional.cross_entropy if episodes.of_classes else nn.functional.mse_loss
        self.loss_fn = usual if loss_fn is None else loss_fn
        self.student = StudentModule(model, init=init, init_fn=init_fn, device=self.device, dtype=dtype)
        self.model = self.student.module
        with torch.no_grad(), faults_named(self.model):
            outputs = self.model(torch.zeros(2, *episodes.input_shape, device=self.device, dtype=dtype))
        shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else None
        if shape != (2, episodes.num_outputs):
            found = f"a {type(outputs).__name__}" if shape is None else f"shape {shape} for two examples"
            raise ValueError(
                f"a model of these episodes must give {episodes.num_outputs} outputs for each example; got {found}, "
                "change its last layer"
            )
        probe.check_student(self.student, self.loss, *self._draw())

    def _draw(self) -> tuple[Params, TaskData, Batch]:
        generator = torch.Generator().manual_seed(0)
        data = self.sample(generator)
        return self.init_params(data, generator), data, self.sample_batch(data, generator)

    def check_second_derivatives(self) -> None:
        """Refuse a model whose gradients cannot be differentiated, by name of the layer."""
        probe.check_second_derivatives(self.student, self.loss, *self._draw())

    batches_are_data = True
    """A batch is a function of the episode alone, so that it is made once for all episodes and inner steps."""

    def sample(self, generator: torch.Generator) -> TaskData:
        """Return an episode: ``support_inputs``, ``support_targets``, ``query_inputs``, ``query_targets``."""
        episode = self.episodes.sample(generator)
        if self.student.differs_in_training:
            episode["seed"] = torch.randint(2**62, (), generator=generator).to(self.device)
        return episode

    def init_params(self, data: TaskData, generator: torch.Generator) -> Params:
        return self.student.first_weights(generator)

    def sample_batch(self, data: TaskData, generator: torch.Generator, split: Split = "train") -> Batch:
        """Return the whole support set (``"train"``) or query set (``"test"``); nothing is drawn."""
        if split == "train":
            seed = {"seed": data["seed"]} if "seed" in data else {}
            return {"inputs": data["support_inputs"], "targets": data["support_targets"], **seed}
        inputs = data["query_inputs"]
        if self.sees_support_again:
            inputs = torch.cat([data["support_inputs"], inputs])
        return {"inputs": inputs, "targets": data["query_targets"]}

    def outputs(self, params: Params, batch: Batch) -> Tensor:
        """Of the examples that have targets: ``[examples, num_outputs]``."""
        outputs = self.student(params, batch["inputs"], seed=batch.get("seed"))
        return outputs[outputs.shape[0] - batch["targets"].shape[0] :]

    def loss(self, params: Params, data: TaskData, batch: Batch) -> Tensor:
        return self.loss_fn(self.outputs(params, batch), batch["targets"])

    def score(self, params: Params, data: TaskData, batch: Batch) -> Tensor:
        """Accuracy, in 0 to 1, where targets are classes; the loss elsewhere."""
        if not self.episodes.of_classes:
            return self.loss(params, data, batch)
        return (self.outputs(params, batch).argmax(-1) == batch["targets"]).to(self.dtype).mean()


class _BatchNormOf(nn.Module):
    """Batch norm by the statistics of the first rows of a batch, all where None; weights named as in torch's."""

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm, num_rows: int | None):
        super().__init__()
        self.weight: nn.Parameter | None = norm.weight
        self.bias: nn.Parameter | None = norm.bias
        self.eps, self.num_rows = norm.eps, num_rows

    def reset_parameters(self) -> None:
        if self.weight is not None and self.bias is not None:
            nn.init.ones_(self.weight)
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        rows = x if self.num_rows is None else x[: self.num_rows]
        axes = [axis for axis in range(x.dim()) if axis != 1]
        variance, mean = torch.var_mean(rows, dim=axes, correction=0, keepdim=True)
        normal = (x - mean) * (variance + self.eps).rsqrt()
        if self.weight is None or self.bias is None:
            return normal
        shape = [1, -1, *[1] * (x.dim() - 2)]
        return normal * self.weight.reshape(shape) + self.bias.reshape(shape)


def _of_given_batches(model: nn.Module, *, num_rows: int | None) -> nn.Module:
    """Batch norm without running statistics, which belong to no episode."""
    for part in list(model.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                setattr(part, name, _BatchNormOf(child, num_rows))
    return model


HELD_STILL = "held_still."


class PartlyAdapted:
    """A family of which only some parameters are a student's own; the others are data, the same for all students.

    Args:
        family: of the whole model.
        adapts: which parameters are adapted, by name.
    """

    def __init__(self, family: TaskFamily, adapts: Callable[[str], bool]):
        self.family, self.adapts = family, adapts
        if hasattr(family, "update_data"):
            self.update_data = self._update_data

    def divide(self, params: Params) -> tuple[Params, TaskData]:
        """Return the parameters that are adapted, and the others as data."""
        own = {name: p for name, p in params.items() if self.adapts(name)}
        return own, {HELD_STILL + name: p for name, p in params.items() if name not in own}

    def join(self, params: Params, data: TaskData) -> Params:
        held = {name.removeprefix(HELD_STILL): p for name, p in data.items() if name.startswith(HELD_STILL)}
        return params | held

    def sample(self, generator: torch.Generator) -> TaskData:
        return self.family.sample(generator)

    def init_params(self, data: TaskData, generator: torch.Generator) -> Params:
        return self.family.init_params(data, generator)

    def sample_batch(self, data: TaskData, generator: torch.Generator, split: Split = "train") -> Batch:
        return self.family.sample_batch(data, generator, split)

    def loss(self, params: Params, data: TaskData, batch: Batch) -> Tensor:
        return self.family.loss(self.join(params, data), _rest(data), batch)

    def score(self, params: Params, data: TaskData, batch: Batch) -> Tensor:
        return score_of(self.family)(self.join(params, data), _rest(data), batch)

    def _update_data(self, params: Params, data: TaskData, batch: Batch) -> TaskData:
        return data | updated_data(self.family, self.join(params, data), _rest(data), batch)

    def check_second_derivatives(self) -> None:
        check_second_derivatives(self.family)


def _rest(data: TaskData) -> TaskData:
    return {name: value for name, value in data.items() if not name.startswith(HELD_STILL)}


def score_of(family: TaskFamily) -> Callable[[Params, TaskData, Batch], Tensor]:
    """Return the score of a family's students: its ``score`` if it has one, its loss otherwise."""
    found: Callable[[Params, TaskData, Batch], Tensor] = getattr(family, "score", family.loss)
    return found
