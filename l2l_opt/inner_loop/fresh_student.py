"""One student before its first step, without a rule: for plain loops, and for looking at what a task gives."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from l2l_opt.randomness import Stream, make_generator
from l2l_opt.tasks.base import Split, TaskFamily, updated_data
from l2l_opt.tasks.mixture import Tasks, draw_family
from l2l_opt.types import Batch, Params, TaskData


@dataclass
class FreshStudent:
    """A student as it is drawn.

    Attributes:
        family: its architecture.
        data: what is particular to it.
        params: as initialised, ``[*shape]`` each.
        generator: of its batches, in the order in which they are drawn.
    """

    family: TaskFamily
    data: TaskData
    params: Params
    generator: torch.Generator

    def batch(self, split: Split = "train") -> Batch:
        """Draw its next batch."""
        return self.family.sample_batch(self.data, self.generator, split)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Copy its params for an optimizer that changes them in place."""
        return {name: nn.Parameter(p.clone()) for name, p in self.params.items()}

    def loss(self, params: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Compute its loss at other params than its first: 0-dim."""
        return self.family.loss(dict(params), self.data, batch)

    def take_in(self, params: Mapping[str, Tensor], batch: Batch) -> None:
        """Keep what a step on a training batch changes beside the weights; call it with the params before the step."""
        self.data = updated_data(self.family, dict(params), self.data, batch)


def fresh_student(tasks: Tasks, *, seed: int, stream: Stream, number: int = 0) -> FreshStudent:
    """Draw the student of a number, the very one that ``Students`` with groups of one starts.

    Args:
        tasks: where it comes from.
        seed: of all students.
        stream: what it is for.
        number: of the student.
    """
    family = draw_family(tasks, make_generator(seed, Stream.GROUP, int(stream), number, 0))
    generator = make_generator(seed, stream, number, 0)
    data = family.sample(generator)
    return FreshStudent(family, data, family.init_params(data, generator), generator)
