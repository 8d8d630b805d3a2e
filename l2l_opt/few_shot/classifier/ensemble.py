"""An ensemble of fresh students, trained by a rule on a user's own few labelled examples."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from l2l_opt.few_shot.adapt import Drawn, adapt
from l2l_opt.few_shot.methods import Method
from l2l_opt.few_shot.models import make_model
from l2l_opt.randomness import Stream, make_generator
from l2l_opt.rules import UpdateRule
from l2l_opt.tasks.student_module import fresh_parameters, reset_parameters
from l2l_opt.types import Batch, Params, TaskData

LARGEST_BATCH = 4000
"""Examples; of more, each step sees some."""


@dataclass(frozen=True)
class Settings:
    """How an ensemble is made.

    Attributes:
        model: of each student, ``name:option=value,...`` of ``few_shot.models``.
        steps: updates, each by all examples or 4,000 of them.
        members: students.
        decay: of squared weights in the loss.
        hidden_inputs: the share of inputs that each student never sees, so that students differ.
        seed: of everything random.
    """

    model: str = "mlp:hidden=32x32"
    steps: int = 50
    members: int = 16
    decay: float = 0.01
    hidden_inputs: float = 0.3
    seed: int = 0


class _Students:
    """The students of one ensemble as a task family: cross-entropy with decay, on inputs of which each sees a part."""

    def __init__(self, model: nn.Module, decay: float, examples: Batch):
        self.model, self.decay, self.examples = model, decay, examples

    def sample(self, generator: torch.Generator) -> TaskData:
        return {}

    def init_params(self, data: TaskData, generator: torch.Generator) -> Params:
        return fresh_parameters(self.model, reset_parameters, generator, torch.device("cpu"))

    def sample_batch(self, data: TaskData, generator: torch.Generator, split: str = "train") -> Batch:
        """All examples; nothing is drawn."""
        return self.examples

    def loss(self, params: Params, data: TaskData, batch: Batch) -> Tensor:
        outputs = functional_call(self.model, params, (batch["inputs"] * data["seen"],))
        loss = nn.functional.cross_entropy(outputs, batch["targets"])
        return loss + self.decay * sum((p.square().sum() for p in params.values() if p.dim() > 1), loss.new_zeros(()))


@dataclass(frozen=True)
class Ensemble:
    """Students that have adapted.

    Attributes:
        settings: how they were made.
        input_shape: of an example.
        num_classes: that they distinguish.
        params: each ``[members, *param.shape]``.
        seen: ``[members, *input_shape]``, 1 for inputs that a student sees and 0 elsewhere.
    """

    settings: Settings
    input_shape: tuple[int, ...]
    num_classes: int
    params: Params
    seen: Tensor

    def probabilities(self, inputs: Tensor) -> Tensor:
        """Of each class, the mean over students: ``[examples, num_classes]``, float64."""
        model = make_model(self.settings.model, input_shape=self.input_shape, num_outputs=self.num_classes)

        def of_student(params: Params, seen: Tensor) -> Tensor:
            return functional_call(model, params, (inputs * seen,))

        with torch.no_grad():
            outputs = vmap(of_student)(self.params, self.seen)
        return outputs.double().softmax(-1).mean(0)


def _batches(examples: Batch, settings: Settings) -> list[Batch]:
    """Of each step, for all students: all examples, or so many of them in an order drawn once, in turn."""
    count = len(examples["targets"])
    size = min(count, LARGEST_BATCH)
    if size < count:
        order = torch.randperm(count, generator=make_generator(settings.seed, Stream.META_TRAINING, settings.members))
        examples = {key: value[order] for key, value in examples.items()}
    starts = [step * size % (count - size + 1) for step in range(settings.steps)]
    return [
        {
            key: value[start : start + size].expand(settings.members, size, *value.shape[1:])
            for key, value in examples.items()
        }
        for start in starts
    ]


def adapt_ensemble(
    rule: UpdateRule, inputs: Tensor, targets: Tensor, *, num_classes: int, settings: Settings
) -> Ensemble:
    """Train fresh students on the examples.

    Args:
        rule: the update rule.
        inputs: ``[examples, *input_shape]``, of mean 0 and deviation 1 or so.
        targets: ``[examples]``, classes.
        num_classes: how many there are.
        settings: of the ensemble.
    """
    shape = tuple(inputs.shape[1:])
    model = make_model(settings.model, input_shape=shape, num_outputs=num_classes)
    students = _Students(model, settings.decay, {"inputs": inputs, "targets": targets})
    params, seen = [], []
    for member in range(settings.members):
        generator = make_generator(settings.seed, Stream.META_TRAINING, member)
        params.append(students.init_params({}, generator))
        # An image is one input of many pixels; a student sees all of it.
        keep = torch.rand(shape, generator=generator) >= settings.hidden_inputs
        seen.append(keep if len(shape) == 1 and bool(keep.any()) else torch.ones(shape, dtype=torch.bool))
    data = {"seen": torch.stack(seen).to(inputs.dtype)}
    fresh = {name: torch.stack([own[name] for own in params]) for name in params[0]}
    batches = _batches(students.examples, settings)
    method = Method(rule, learns_initialisation=False, second_derivatives=False)
    with torch.no_grad():
        adapted = adapt(method, students, fresh, Drawn(data, batches, batches[-1], fresh))
    return Ensemble(settings, shape, num_classes, adapted.params, data["seen"])
