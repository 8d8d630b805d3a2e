"""What the scale-free rule sees of a coordinate and of a tensor, relative to what the tensor itself has shown."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from l2l_opt.rules.features import bias_correction, progress, safe_sqrt
from l2l_opt.rules.recurrent import coordinates
from l2l_opt.rules.sharded_sums import tensor_sum
from l2l_opt.types import RuleState

BETAS = (0.5, 0.9, 0.99)
SQUARE_BETA = 0.99
AGREEMENT_BETAS = (0.8, 0.97)
GRADIENT_BETA = 0.9
TINY = 1e-16
"""Below this a root mean square is taken for this."""
TRUST_RISE, TRUST_FALL, TRUST_MARGIN = 0.7, 0.05, 0.05
"""What a step adds to the logarithm of a tensor's trust, per agreement above minus the margin, and below it."""
LEAST_TRUST, MOST_TRUST = -8.0, 0.0
SEEN_BETA, SEEN_STEPS, LEAST_SEEN = 0.8, 20.0, 0.1
"""Of the share of coordinates that batches reach: the decay of its average, the steps after which it only rises, since
units that fall silent later are not rows of an embedding, and below which it is taken for this."""
RELATIVE_EPS = 1e-4
"""Of the tensor's usual root mean square gradient; what is smaller is taken for noise."""
NUM_INPUTS = 6
NUM_CONTEXT = 16
MEMORIES: tuple[str, ...] = ("agreement_fast", "agreement_slow", "first_gradient", "gradient", "trust", "seen", "walk")
"""0-dim state that a step brings up to date."""


class Look(NamedTuple):
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


def look(gradient: Tensor, state: dict[str, Tensor], param: Tensor, betas: Tensor) -> Look:
    """What the network sees of one tensor's coordinates, and sums over them.

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
    masses = -torch.expm1(steps.to(dtype) * betas.log())
    count, squares = tensor_sum(torch.ones_like(g)), tensor_sum(g * g)
    rms_g = safe_sqrt(squares / count.clamp(min=1)).clamp(min=TINY)
    begins = _saw_nothing(state["step"], state["first_gradient"])
    unit = _unit(torch.where(begins, rms_g, state["first_gradient"].to(dtype)))
    usual = torch.where(begins, rms_g, unit * state["gradient"].to(dtype).exp())
    root = safe_sqrt(square / bias_correction(steps, beta=SQUARE_BETA, dtype=dtype)) + RELATIVE_EPS * usual
    momenta = averages / masses / root
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
    return Look(inputs, momenta, inputs[5].clamp(max=3), averages, square, sums)


class Context(NamedTuple):
    """What tensors show as wholes.

    Attributes:
        features: ``[tensors, NUM_CONTEXT]``, as ``ScaleFreeRule`` lists them.
        rms: ``[tensors]``, of the parameters.
        first_rms: ``[tensors]``, before their first update.
        fraction: ``[tensors]``, of the run that is over; 0 where its length is unknown.
        run: ``[tensors]``, its length in steps; where unknown that of the run so far.
        pace: ``[tensors]``, sqrt(usual_run / T), at most 2; 1 where T is unknown.
        is_planned: 0-dim, whether the run's length is known.
        memories: of each of MEMORIES the next, ``[tensors]``; of ``walk``, which waits for the step's size, the last.
    """

    features: Tensor
    rms: Tensor
    first_rms: Tensor
    fraction: Tensor
    run: Tensor
    pace: Tensor
    is_planned: Tensor
    memories: dict[str, Tensor]

    @property
    def reached(self) -> Tensor:
        """The share of coordinates that batches reach, ``[tensors]``, at least LEAST_SEEN."""
        return self.memories["seen"].clamp(min=LEAST_SEEN)


def context_of(
    looks: Mapping[str, Look], state: RuleState, vectors: Sequence[bool], num_steps: Tensor | None, *, usual_run: float
) -> Context:
    """What tensors show as wholes.

    Args:
        looks: parameter name -> what was seen of it.
        state: of the rule.
        vectors: of each tensor whether it is one, and is not whitened.
        num_steps: 0-dim, planned steps; None where unknown.
        usual_run: steps of a run whose pace is 1.
    """
    sums = torch.stack([look.sums for look in looks.values()], 1)
    dtype = sums.dtype

    def of(key: str) -> Tensor:
        return torch.stack([state[name][key] for name in looks]).to(dtype)

    count = sums[0].clamp(min=1)
    rms_p, _, rms_middle, rms_slow = safe_sqrt(sums[1:5] / count)
    rms_g = safe_sqrt(sums[8] / count)
    norms = safe_sqrt(sums[5]) * safe_sqrt(sums[6])
    agreement = torch.where(norms > 0, sums[7] / torch.where(norms > 0, norms, 1.0), 0.0)
    step, first_rms = of("step"), of("first_rms")
    rms_g = rms_g.clamp(min=TINY)
    first, gradient = of("first_gradient"), of("gradient")
    begins = _saw_nothing(step, first)
    first = torch.where(begins, rms_g, first)
    unit = _unit(first)
    log_g = (rms_g / unit).log()
    gradient = torch.where(begins, log_g, gradient + (1 - GRADIENT_BETA) * (log_g - gradient))
    fast, slow = (
        of(f"agreement_{name}") + (1 - beta) * (agreement - of(f"agreement_{name}"))
        for name, beta in zip(("fast", "slow"), AGREEMENT_BETAS, strict=True)
    )
    zero = (first_rms == 0).to(dtype)
    fraction = progress(step, num_steps, dtype=dtype)
    known = torch.zeros_like(step) if fraction is None else torch.ones_like(step)
    fraction = torch.zeros_like(step) if fraction is None else fraction
    run = step if num_steps is None else num_steps.to(dtype).expand_as(step)
    pace = torch.where(known > 0, (usual_run / run.clamp(min=usual_run / 4)).sqrt(), 1.0)
    growth = torch.where(zero > 0, 0.0, (rms_p / torch.where(zero > 0, 1.0, first_rms)).clamp(min=1e-2).log())
    vector = torch.stack([torch.full_like(first_rms[0], float(flag)) for flag in vectors])
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
            vector,
            (count.log() / 5 - 1).clamp(-1, 2),
            2 * rms_slow - 1,
            2 * rms_middle - 1,
            2 * fast / (1 - AGREEMENT_BETAS[0] ** (step + 1)),
            4 * slow / (1 - AGREEMENT_BETAS[1] ** (step + 1)),
            ((gradient - (first / unit).log()) / 2).clamp(-3, 1),
            (log_g - gradient).clamp(-2, 2),
        ],
        dim=1,
    )
    surplus = agreement + TRUST_MARGIN
    trust = of("trust") + pace * torch.where(surplus > 0, TRUST_RISE * surplus, TRUST_FALL * surplus)
    reached = torch.where(sums[10] > 0, (sums[9] / sums[10].clamp(min=1)).clamp(max=1), 1.0)
    seen_before = of("seen")
    seen = seen_before + (1 - SEEN_BETA) * (reached - seen_before)
    seen = torch.where(step < SEEN_STEPS, seen, torch.maximum(seen, seen_before))
    values = (fast, slow, first, gradient, trust.clamp(LEAST_TRUST, MOST_TRUST), seen, of("walk"))
    memories = dict(zip(MEMORIES, values, strict=True))
    return Context(features, rms_p, first_rms, fraction, run, pace, known[0] > 0, memories)


def _saw_nothing(step: Tensor, first_gradient: Tensor) -> Tensor:
    """Whether a tensor has had no gradient yet but zeros, as layers behind one that starts at zero have at first."""
    return (step == 0) | (first_gradient <= 1.001 * TINY)


def _unit(first_gradient: Tensor) -> Tensor:
    """The power of two next above the first root mean square gradient, over which later ones are logarithms.

    So training is the same to the last bit where all of a tensor's gradients are a power of two times as large.
    """
    value = first_gradient.detach()
    return value / torch.frexp(value).mantissa
