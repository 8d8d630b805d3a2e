"""Features of a coordinate and of a tensor for the scale-free rule, relative to what the tensor itself has shown."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from l2l_opt.rules.features import bias_correction, progress, safe_sqrt
from l2l_opt.rules.recurrent import coordinates
from l2l_opt.rules.sharded_sums import tensor_sum
from l2l_opt.types import RuleState

if TYPE_CHECKING:
    from l2l_opt.rules.scale_free.law import StepLaw

BETAS = (0.5, 0.9, 0.99)
SQUARE_BETA = 0.99
AGREEMENT_BETAS = (0.8, 0.97)
GRADIENT_BETA = 0.9
TINY = 1e-16
"""Below this a root mean square is taken for this."""
STEP_SCALE_RISE, AGREEMENT_MARGIN = 0.7, 0.05
"""What a step adds to a tensor's log_step_scale, per agreement above minus the margin."""
LEAST_LOG_STEP_SCALE, MOST_LOG_STEP_SCALE = -8.0, 0.0
TOUCHED_BETA, TOUCHED_STEPS, LEAST_TOUCHED = 0.8, 20.0, 0.1
"""Of the touched fraction: the decay of its average, the steps after which it only rises, since units that fall silent
later are not rows of an embedding, and below which it is taken for this."""
RELATIVE_EPS = 1e-4
"""Of the tensor's usual root mean square gradient; what is smaller is taken for noise."""
NUM_INPUTS = 6
NUM_CONTEXT = 16
TENSOR_SCALARS: tuple[str, ...] = (
    "agreement_fast",
    "agreement_slow",
    "first_gradient",
    "gradient",
    "trust",
    "seen",
    "walk",
)
"""0-dim state that a step brings up to date, by its keys in files: ``trust`` is log_step_scale, ``seen`` the touched
fraction, ``walk`` the random walk's variance."""


class CoordinateFeatures(NamedTuple):
    """One tensor of N coordinates before the network.

    Attributes:
        inputs: ``[NUM_INPUTS, N]``.
        momenta: ``[len(BETAS), N]``, averages of gradients over r, the root of their mean square.
        log_root: ``[N]``, of r over its root mean square; at most 3.
        averages: ``[len(BETAS), N]``, the next.
        square: ``[1, N]``, the next.
        sums: ``[11]``, over the tensor's coordinates: their number, p^2, r^2, (m_.9 / r)^2, (m_.99 / r)^2, (g / r)^2,
            (m_.9 before / r)^2, the product of the last two's roots, g^2, one where g is not 0, one where v is not 0.
    """

    inputs: Tensor
    momenta: Tensor
    log_root: Tensor
    averages: Tensor
    square: Tensor
    sums: Tensor


def coordinate_features(gradient: Tensor, state: dict[str, Tensor], param: Tensor, betas: Tensor) -> CoordinateFeatures:
    """Features of one tensor's coordinates, and sums over them.

    Args:
        gradient: ``[*shape]``.
        state: of the rule.
        param: ``[*shape]``.
        betas: ``[len(BETAS)]``, as a tensor on this device.
    """
    dtype = gradient.dtype
    g, p = gradient.reshape(1, -1), param.reshape(1, -1)
    steps = state["step"] + 1
    betas = betas.to(dtype).unsqueeze(1)
    before = coordinates(state["averages"])
    averages = betas * before + (1 - betas) * g
    square = SQUARE_BETA * coordinates(state["square_average"]) + (1 - SQUARE_BETA) * g * g
    corrections = -torch.expm1(steps.to(dtype) * betas.log())
    count, squares = tensor_sum(torch.ones_like(g)), tensor_sum(g * g)
    rms_g = safe_sqrt(squares / count.clamp(min=1)).clamp(min=TINY)
    begins = _saw_nothing(state["step"], state["first_gradient"])
    unit = _unit(torch.where(begins, rms_g, state["first_gradient"].to(dtype)))
    usual = torch.where(begins, rms_g, unit * state["gradient"].to(dtype).exp())
    root = safe_sqrt(square / bias_correction(steps, beta=SQUARE_BETA, dtype=dtype)) + RELATIVE_EPS * usual
    momenta = averages / corrections / root
    ratio, past = g / root, before[1:2] / root
    sums = torch.stack(
        [
            count,
            tensor_sum(p * p),
            tensor_sum(root * root),
            tensor_sum(momenta[1] * momenta[1]),
            tensor_sum(momenta[2] * momenta[2]),
            tensor_sum(ratio * ratio),
            tensor_sum(past * past),
            tensor_sum(ratio * past),
            squares,
            tensor_sum((g != 0).to(dtype)),
            tensor_sum((square > 0).to(dtype)),
        ]
    )
    rms = safe_sqrt(sums[1:3] / sums[0].clamp(min=1))
    inputs = torch.cat(
        [
            torch.cat([ratio, momenta, p / rms[0].clamp(min=TINY)]).clamp(-5, 5),
            (root / rms[1].clamp(min=TINY) + 1e-3).log(),
        ]
    )
    return CoordinateFeatures(inputs, momenta, inputs[5].clamp(max=3), averages, square, sums)


class Context(NamedTuple):
    """What tensors show as wholes.

    Attributes:
        features: ``[tensors, NUM_CONTEXT]``, as ``ScaleFreeRule`` lists them.
        rms: ``[tensors]``, of the parameters.
        first_rms: ``[tensors]``, before their first update.
        fraction: ``[tensors]``, of the run that is over; 0 where its length is unknown.
        run: ``[tensors]``, its length in steps; where unknown that of the run so far.
        length_scale: ``[tensors]``, sqrt(usual_run / T), at most ``largest_scale``; 1 where T is unknown.
        fallen_gradient: ``[tensors]``, log of the usual rms(g) over the first one.
        is_planned: 0-dim, whether the run's length is known.
        matrix: ``[tensors]``, 1 for matrices, 0 for vectors.
        tensor_scalars: of each of TENSOR_SCALARS the next, ``[tensors]``; of ``walk``, which waits for the step's size,
            the last.
    """

    features: Tensor
    rms: Tensor
    first_rms: Tensor
    fraction: Tensor
    run: Tensor
    length_scale: Tensor
    fallen_gradient: Tensor
    is_planned: Tensor
    matrix: Tensor
    tensor_scalars: dict[str, Tensor]

    @property
    def touched_fraction(self) -> Tensor:
        """The average share of coordinates that have a gradient, ``[tensors]``, at least LEAST_TOUCHED."""
        return self.tensor_scalars["seen"].clamp(min=LEAST_TOUCHED)


def context_of(
    per_tensor: Mapping[str, CoordinateFeatures],
    state: RuleState,
    matrices: Sequence[bool],
    num_steps: Tensor | None,
    law: "StepLaw",
) -> Context:
    """Return what tensors show as wholes.

    Args:
        per_tensor: parameter name -> features of its coordinates.
        state: of the rule.
        matrices: of each tensor whether it is one, and is whitened.
        num_steps: 0-dim, planned steps; None where unknown.
        law: the rule's options: ``usual_run``, ``largest_scale``, ``step_scale_fall`` and ``fall_margin`` of it.
    """
    sums = torch.stack([own.sums for own in per_tensor.values()], 1)
    dtype = sums.dtype

    def of(key: str) -> Tensor:
        return torch.stack([state[name][key] for name in per_tensor]).to(dtype)

    count = sums[0].clamp(min=1)
    rms_p, _, rms_middle, rms_slow = safe_sqrt(sums[1:5] / count)
    agreement, step, first_rms = _agreement(sums), of("step"), of("first_rms")
    rms_g = safe_sqrt(sums[8] / count).clamp(min=TINY)
    first, unit, log_g, gradient = _gradient_scale(rms_g, step, of("first_gradient"), of("gradient"))
    fast, slow = (
        of(f"agreement_{name}") + (1 - beta) * (agreement - of(f"agreement_{name}"))
        for name, beta in zip(("fast", "slow"), AGREEMENT_BETAS, strict=True)
    )
    zero, (fraction, known, run, length_scale) = (first_rms == 0).to(dtype), _length(step, num_steps, law)
    fallen_gradient = gradient - (first / unit).log()
    growth = torch.where(zero > 0, 0.0, (rms_p / torch.where(zero > 0, 1.0, first_rms)).clamp(min=1e-2).log())
    # Not torch.tensor, for whose copy to a GPU everything would wait.
    matrix = torch.stack([torch.full_like(first_rms[0], float(flag)) for flag in matrices])
    features = torch.stack(
        [
            fraction,
            fraction * fraction,
            fraction.sqrt(),
            torch.tanh(step / 10 - 1),
            (run / 500).clamp(0.1, 10).log() / 2 * known,
            known,
            growth.clamp(-2, 2),
            zero,
            1 - matrix,
            (count.log() / 5 - 1).clamp(-1, 2),
            2 * rms_slow - 1,
            2 * rms_middle - 1,
            2 * fast / (1 - AGREEMENT_BETAS[0] ** (step + 1)),
            4 * slow / (1 - AGREEMENT_BETAS[1] ** (step + 1)),
            (fallen_gradient / 2).clamp(-3, 1),
            (log_g - gradient).clamp(-2, 2),
        ],
        dim=1,
    )
    log_step_scale = _next_log_step_scale(of("trust"), agreement, length_scale, law)
    values = (fast, slow, first, gradient, log_step_scale, _next_touched(of("seen"), sums, step), of("walk"))
    scalars = dict(zip(TENSOR_SCALARS, values, strict=True))
    return Context(
        features, rms_p, first_rms, fraction, run, length_scale, fallen_gradient, known[0] > 0, matrix, scalars
    )


def _agreement(sums: Tensor) -> Tensor:
    """Return the cosine between a tensor's gradient now and the average before, both over the root of their squares."""
    norms = safe_sqrt(sums[5]) * safe_sqrt(sums[6])
    return torch.where(norms > 0, sums[7] / torch.where(norms > 0, norms, 1.0), 0.0)


def _gradient_scale(
    rms_g: Tensor, step: Tensor, first: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the first gradient's size, its unit, the logarithm of the size now, and the average of those."""
    begins = _saw_nothing(step, first)
    first = torch.where(begins, rms_g, first)
    unit = _unit(first)
    log_g = (rms_g / unit).log()
    return first, unit, log_g, torch.where(begins, log_g, gradient + (1 - GRADIENT_BETA) * (log_g - gradient))


def _length(step: Tensor, num_steps: Tensor | None, law: "StepLaw") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the fraction of the run that is over, whether that is known, the run's steps, and their length_scale."""
    fraction = progress(step, num_steps, dtype=step.dtype)
    known = torch.zeros_like(step) if fraction is None else torch.ones_like(step)
    fraction = torch.zeros_like(step) if fraction is None else fraction
    run = step if num_steps is None else num_steps.to(step.dtype).expand_as(step)
    length_scale = (law.usual_run / run.clamp(min=1)).sqrt().clamp(max=law.largest_scale)
    return fraction, known, run, torch.where(known > 0, length_scale, 1.0)


def _next_log_step_scale(before: Tensor, agreement: Tensor, length_scale: Tensor, law: "StepLaw") -> Tensor:
    surplus, opposed = agreement + AGREEMENT_MARGIN, (agreement + law.fall_margin).clamp(max=0)
    change = torch.where(surplus > 0, STEP_SCALE_RISE * surplus, law.step_scale_fall * opposed)
    return (before + length_scale * change).clamp(LEAST_LOG_STEP_SCALE, MOST_LOG_STEP_SCALE)


def _next_touched(before: Tensor, sums: Tensor, step: Tensor) -> Tensor:
    touched = torch.where(sums[10] > 0, (sums[9] / sums[10].clamp(min=1)).clamp(max=1), 1.0)
    average = before + (1 - TOUCHED_BETA) * (touched - before)
    return torch.where(step < TOUCHED_STEPS, average, torch.maximum(average, before))


def _saw_nothing(step: Tensor, first_gradient: Tensor) -> Tensor:
    """Whether a tensor has had no gradient yet but zeros, as layers behind one that starts at zero have at first."""
    return (step == 0) | (first_gradient <= 1.001 * TINY)


def _unit(first_gradient: Tensor) -> Tensor:
    """Return the power of two next above the first root mean square gradient, over which later ones are logarithms.

    So training is the same to the last bit where all of a tensor's gradients are a power of two times as large.
    """
    value = first_gradient.detach()
    return value / torch.frexp(value).mantissa
