"""How long the scale-free rule's steps are: its options, and the size of a tensor's update before the network's say."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from l2l_opt.rules.features import safe_sqrt
from l2l_opt.rules.scale_free.features import TINY, Context
from l2l_opt.rules.scale_free.whitening import is_matrix

LEAST_ANNEALED = 0.01
"""Of the size of updates, what is left at the end of a planned run and beyond it."""
UNPLANNED_STEPS, UNPLANNED_POWER = 100.0, -1.25
"""Of the size of updates in a run of unknown length: (1 + t / UNPLANNED_STEPS)^UNPLANNED_POWER."""
LEAST_GROWTH = 2.0
"""Of the base, up to which sizes follow any tensor; they follow none below the first root mean square over this."""
RANDOM_WALK_VECTOR, RANDOM_WALK_MATRIX = 0.6, 0.27
"""Of the squared size of an update, what counts as random walk. Of pure noise 1.2 would, for vectors and matrices;
it is less since tasks are not pure noise (results/NOTEBOOK.md, entry 36)."""
BRAKE_FROM = -2.0
"""The logarithm of the usual gradient over the first one, below which steps become smaller."""


class StepLaw(NamedTuple):
    """Options of ``ScaleFreeRule`` that decide how long its steps are; all dimensionless but the runs, in steps.

    Attributes:
        output_scale, zero_scale, zero_start, growth, growth_power, small_power, natural_share, usual_run,
            largest_scale, steepness, cautious_run, step_scale_fall, fall_margin, braking: as the rule documents them.
    """

    output_scale: float
    zero_scale: float
    zero_start: float
    growth: float
    growth_power: float
    small_power: float
    natural_share: float
    usual_run: float
    largest_scale: float
    steepness: float
    cautious_run: float
    step_scale_fall: float
    fall_margin: float
    braking: float

    def natural_size(self, shape: Sequence[int]) -> float:
        """Return the root mean square of ``nn.Linear``'s first weights of this shape; of vectors ``zero_scale``."""
        return (3 * math.prod(shape[1:])) ** -0.5 if is_matrix(shape) else self.zero_scale

    def decay_schedule(self, progress: float) -> float:
        """Return what sizes are multiplied by where ``progress``, 0 to 1, of a planned run is over."""
        return max((1 - progress) / (1 + self.steepness * progress), LEAST_ANNEALED)


def sizes_of(context: Context, shapes: Sequence[Sequence[int]], law: StepLaw) -> Tensor:
    """Return the sizes of updates of one before the network's head: schedule, reach, log_step_scale and brake.

    Args:
        context: of the tensors.
        shapes: of whole tensors.
        law: the rule's options.

    Returns:
        ``[tensors]``, in the parameters' unit.
    """
    annealed = (1 - context.fraction) / (1 + law.steepness * context.fraction)
    planned = annealed.clamp(min=LEAST_ANNEALED) * context.length_scale
    unplanned = (1 + context.run / UNPLANNED_STEPS) ** UNPLANNED_POWER
    schedule = torch.where(context.is_planned, planned, unplanned)
    caution = torch.ones_like(context.run)
    if law.cautious_run > 0:
        caution = torch.where(context.is_planned, (context.run / law.cautious_run).clamp(max=1), caution)
    brake = (law.braking * (context.fallen_gradient - BRAKE_FROM)).clamp(max=0)
    scale = torch.exp(caution * context.tensor_scalars["trust"] + brake)
    return law.output_scale * schedule / context.touched_fraction * _reach(context, shapes, law) * scale


def random_walk_variance(context: Context, sizes: Tensor) -> Tensor:
    """Return the mean square that a random walk of the steps so far would have given each tensor.

    Args:
        context: of the tensors.
        sizes: ``[tensors]``, of the step that is about to be taken.

    Returns:
        ``[tensors]``, in the square of the parameters' unit.
    """
    share = RANDOM_WALK_VECTOR + (RANDOM_WALK_MATRIX - RANDOM_WALK_VECTOR) * context.matrix
    return context.tensor_scalars["walk"] + share * sizes * sizes * context.touched_fraction


def _reach(context: Context, shapes: Sequence[Sequence[int]], law: StepLaw) -> Tensor:
    """How large each tensor is taken to be, ``[tensors]``."""
    first = context.first_rms
    natural = torch.stack([torch.full_like(first[0], law.natural_size(shape)) for shape in shapes])
    gone = safe_sqrt((context.rms.square() - context.tensor_scalars["walk"]).clamp(min=0))
    least = min(law.growth, LEAST_GROWTH)
    most = (law.growth * context.touched_fraction).clamp(min=least)
    start = torch.where(first == 0, law.zero_start * natural, first)
    floor = torch.where(first == 0, start, start / least)
    base = torch.maximum(start, law.natural_share * natural).clamp(min=TINY)
    grown = base * torch.minimum((gone / base).clamp(min=1) ** law.growth_power, most)
    below = torch.maximum(gone, floor)
    if law.small_power != 1:
        smaller = (torch.maximum(gone, start) / base).clamp(min=TINY, max=1) ** law.small_power
        below = base * smaller * (below / start.clamp(min=TINY)).clamp(max=1)
    reach = torch.where(gone > base, grown, below)
    stays = torch.ones_like(first) if law.zero_start == 0 else context.matrix
    return torch.where((first == 0) & (stays > 0), natural, reach)
