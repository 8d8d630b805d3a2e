"""What a step of an optimizer costs on this machine: bytes of state, and seconds predicted from a short measurement."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Step = Callable[[], object]
Make = Callable[[list[Tensor]], Step]
Seconds = Callable[[Sequence[tuple[int, ...]], torch.dtype], float]
"""Of a step of tensors of these shapes and this dtype."""
MOST_MEASURED = 768
"""Shorter side of the largest matrix that is measured; from there on products grow with its cube."""
ENOUGH = 1 << 20
"""Coordinates of a measurement, if the model has as many: so many do not stay in a cache from one step to the next."""
ROUNDS = 5
CACHE, TOUCHED = 1 << 24, 48
"""Numbers that are written before a step is measured, at most, and for each parameter: what a forward and a backward
pass leave in the cache is not the optimizer's state."""


class StepCost(NamedTuple):
    """Of one optimizer on some parameters.

    Attributes:
        optimizer: its name.
        state_bytes: kept between steps.
        seconds: of a step, predicted; processor time, where torch has one thread.
    """

    optimizer: str
    state_bytes: int
    seconds: float


class _Kind(NamedTuple):
    """Tensors of one shorter side: 1 for vectors. ``length``: of all their longer sides together."""

    side: int
    number: int
    length: int


class _Prices(NamedTuple):
    """Seconds of a tensor, and of each unit of its longer side."""

    tensor: float
    unit: float

    def of(self, kind: _Kind) -> float:
        return kind.number * self.tensor + kind.length * self.unit


def predicted_seconds(make: Make, params: Sequence[Tensor]) -> float:
    """Predict how long an optimizer's step takes, which is linear in the longer side of each of its tensors.

        seconds = c + sum over tensors of a(shorter side) + b(shorter side) longer side

    a and b are measured for every shorter side up to MOST_MEASURED, on a square matrix and one four times as long;
    beyond it a grows with the cube of the side, and b with its square, less what a coordinate alone costs. Parameters
    of each dtype are measured by themselves; complex ones as pairs of real ones.

    Args:
        make: makes an optimizer of parameters that have gradients, and returns what takes its step.
        params: what it is to step; only their shapes and dtypes are used.
    """
    real = [torch.view_as_real(p.detach()) if p.is_complex() else p for p in params]
    touched = torch.empty(min(CACHE, TOUCHED * sum(p.numel() for p in real)))

    def seconds(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> float:
        return _seconds(make, shapes, dtype, touched)

    dtypes = {p.dtype for p in real}
    return sum(_predicted(seconds, [p for p in real if p.dtype == dtype], dtype) for dtype in dtypes)


def _predicted(seconds: Seconds, params: Sequence[Tensor], dtype: torch.dtype) -> float:
    fixed = seconds([(1,)], dtype)
    kinds = _kinds(params)
    vectors = _Kind(1, len(params), sum(p.numel() for p in params))
    coordinate = _prices(seconds, vectors, fixed, dtype)
    total = fixed
    for kind in kinds:
        if kind.side == 1:
            total += coordinate.of(kind)
        elif kind.side <= MOST_MEASURED:
            total += _prices(seconds, kind, fixed, dtype).of(kind)
        else:
            times = kind.side / MOST_MEASURED
            largest = _prices(seconds, kind._replace(side=MOST_MEASURED), fixed, dtype)
            products = largest.unit - MOST_MEASURED * coordinate.unit
            unit = kind.side * coordinate.unit + times**2 * products
            total += _Prices(times**3 * largest.tensor, unit).of(kind)
    return total


def _kinds(params: Iterable[Tensor]) -> list[_Kind]:
    found: dict[int, _Kind] = {}
    for p in params:
        rows = p.shape[0] if p.dim() > 1 else 1
        sides = sorted((rows, p.numel() // max(rows, 1)))
        before = found.get(sides[0], _Kind(sides[0], 0, 0))
        found[sides[0]] = before._replace(number=before.number + 1, length=before.length + sides[1])
    return [kind for side, kind in found.items() if side]


def _prices(seconds: Seconds, kind: _Kind, fixed: float, dtype: torch.dtype) -> _Prices:
    """Measure tensors of a kind at two lengths, of as many coordinates as the kind has, up to ENOUGH."""
    side = kind.side
    if side == 1:
        most = max(min(kind.length, ENOUGH), 2)
        sizes = [([(64,)] * min(kind.number, 64), 64), ([(most,)], most)]
    else:
        sizes = list[tuple[list[tuple[int, ...]], int]]()
        for length in (side, 4 * side):
            times = min(kind.number, max(1, ENOUGH // (side * length)))
            sizes.append(([(side, length)] * times, length))
    (few, short), (many, long) = (((seconds(shapes, dtype) - fixed) / len(shapes), length) for shapes, length in sizes)
    unit = max(many - few, 0.0) / max(long - short, 1)
    return _Prices(max(few - short * unit, 0.0), unit)


def _seconds(make: Make, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, touched: Tensor) -> float:
    """Least seconds of a step of random tensors: what else runs here can only add to them."""
    generator = torch.Generator().manual_seed(0)
    params = [(0.05 * torch.randn(shape, generator=generator)).to(dtype).requires_grad_() for shape in shapes]
    for p in params:
        p.grad = 0.01 * torch.randn(p.shape, generator=generator).to(dtype)
    step, clock = make(params), time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    found: list[float] = []
    for round_number in range(ROUNDS):
        touched.fill_(round_number)
        start = clock()
        step()
        found.append(clock() - start)
    return min(found[1:])


def adamw(params: list[Tensor]) -> Step:
    """Return the step of fused AdamW."""
    return torch.optim.AdamW(params, fused=True).step  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def muon(params: list[Tensor]) -> Step:
    """Return the step of torch's Muon on matrices, convolutions flattened, and of fused AdamW on all else."""
    flat: list[Tensor] = []
    for p in params:
        if p.dim() > 1:
            flat.append(p.detach().flatten(1).requires_grad_())
            flat[-1].grad = None if p.grad is None else p.grad.flatten(1)
    others = [p for p in params if p.dim() <= 1]
    optimizer, step_others = torch.optim.Muon(flat) if flat else None, adamw(others) if others else None

    def step() -> None:
        if optimizer is not None:
            optimizer.step()  # pyright: ignore[reportUnknownMemberType]
        if step_others is not None:
            step_others()

    return step


def step_costs(title: str, make: Make, params: Sequence[Tensor], *, kept: int) -> list[StepCost]:
    """Return what an optimizer costs, fused AdamW, and Muon with AdamW.

    Args:
        title: of the optimizer.
        make: makes it, as ``predicted_seconds`` takes it.
        params: what is stepped.
        kept: bytes of its state.

    Raises:
        ValueError: a parameter that is not on the CPU.
    """
    elsewhere = next((p.device for p in params if p.device.type != "cpu"), None)
    if elsewhere is not None:
        raise ValueError(f"cost() must be given parameters on the CPU; got some on {elsewhere}, make the model there")
    of_adamw = sum(2 * p.nbytes + 4 for p in params)
    of_muon = sum(p.nbytes if p.dim() > 1 else 2 * p.nbytes + 4 for p in params)
    return [
        StepCost(title, kept, predicted_seconds(make, params)),
        StepCost("AdamW, fused", of_adamw, predicted_seconds(adamw, params)),
        StepCost("Muon, AdamW for vectors", of_muon, predicted_seconds(muon, params)),
    ]


def state_bytes(states: Iterable[dict[str, Tensor]]) -> int:
    """Return what states take, of tensors on any device, meta among them."""
    return sum(math.prod(value.shape) * value.element_size() for own in states for value in own.values())
