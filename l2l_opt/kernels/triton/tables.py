"""What kernels here are given: where everything lies, made once for tensors that stay, and the launches of a step."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l2l_opt.kernels.triton import is_captured
from l2l_opt.kernels.triton.language import CHUNK


class Chunks(NamedTuple):
    """Tensors cut into pieces of CHUNK coordinates, one program each, so that one launch takes all of a model.

    Attributes:
        tensor: ``[chunks]`` int32, of which it is a piece.
        start: ``[chunks]`` int64, its first coordinate there.
        first: ``[tensors + 1]`` int32, the first chunk of each tensor, and behind these the number of all.
        number: ``[1]``, that number.
    """

    tensor: Tensor
    start: Tensor
    first: Tensor
    number: Tensor

    @classmethod
    def of(cls, first: Sequence[int], device: torch.device) -> "Chunks":
        """Return the tables of tensors with so many chunks before each, and of all behind the last."""
        pieces = [after - before for before, after in itertools.pairwise(first)]
        owners = torch.repeat_interleave(torch.arange(len(pieces)), torch.tensor(pieces))
        starts = (torch.arange(first[-1]) - torch.tensor(first)[owners]) * CHUNK.value
        firsts = torch.tensor(first, dtype=torch.int32, device=device)
        return cls(owners.int().to(device), starts.to(device), firsts, firsts[-1:])


class Tensors(NamedTuple):
    """Of each tensor its numbers of coordinates, here and on all devices, and addresses, ``[tensors]`` int64 each.

    0-dim state stays where ``optimizer.state[p]`` has it: kernels find it by its address, as they find the rest.
    """

    length: Tensor
    whole: Tensor
    param: Tensor
    gradient: Tensor
    hidden: Tensor
    cell: Tensor
    averages: Tensor
    squares: Tensor
    step: Tensor
    skipped: Tensor


class Update(NamedTuple):
    """What a group sets for its step, as ``PreparedStep`` takes it; ``rate``, 0-dim, is read when kernels run."""

    lr: float
    decay: float
    sign: float
    rate: Tensor


class Body(NamedTuple):
    """The network's weights: of all layers one after the other, biases of layers and read-out, and the read-out."""

    weights: Tensor
    biases: Tensor
    readout: Tensor


class RecurrentBuffers(NamedTuple):
    """What launches of ``recurrent`` hand one another.

    Attributes:
        found: ``[chunks]``, zero where gradients are finite.
        heads: ``[tensors, NUM_HEADS]``.
        marks: ``[tensors]`` int32, whether a block was left out already.
        scratch: of each program a tile.
    """

    found: Tensor
    heads: Tensor
    marks: Tensor
    scratch: Tensor


class ScaleFreeBuffers(NamedTuple):
    """What launches of ``scale_free`` hand one another.

    Attributes:
        squares: ``[chunks]``.
        sums: ``[NUM_SUMS, chunks]``.
        heads: a row for each tensor.
        marks: ``[tensors]`` int32, whether a block was left out already.
    """

    squares: Tensor
    sums: Tensor
    heads: Tensor
    marks: Tensor


class LogSign(NamedTuple):
    """Options of ``lstm``, by the names in its ``CompiledStep``."""

    p: float
    exp_minus_p: float
    exp_p: float
    output_scale: float


class Ratios(NamedTuple):
    """Options and arrays of ``rnnprop``, by the names in its ``CompiledStep``."""

    beta: float
    eps_squared: float
    output_scale: float
    embedding_weight: Tensor
    embedding_bias: Tensor


class Phi(NamedTuple):
    """Arrays of ``scale-free``, by the names in its ``CompiledStep``: of the tensor's network, and biases."""

    biases: Tensor
    tensor_weight: Tensor
    tensor_bias: Tensor
    head_weight: Tensor
    head_bias: Tensor


class Law(NamedTuple):
    """Options of ``scale-free``, by the names in its ``CompiledStep``, and logarithms of its averages' decays.

    Attributes:
        betas: of three averages of gradients and of that of squares; ``log_betas`` likewise.
        num_steps: planned; negative where unknown.
    """

    tiny: float
    output_scale: float
    zero_start: float
    relative_eps: float
    growth: float
    usual_run: float
    fast_beta: float
    slow_beta: float
    gradient_beta: float
    units: float
    least_annealed: float
    steepness: float
    unplanned_steps: float
    unplanned_power: float
    step_scale_rise: float
    step_scale_fall: float
    agreement_margin: float
    least_log_step_scale: float
    most_log_step_scale: float
    touched_beta: float
    touched_steps: float
    least_touched: float
    random_walk_vector: float
    random_walk_matrix: float
    least_growth: float
    whitened_rms: float
    whitening_steps: float
    growth_power: float
    small_power: float
    natural_share: float
    fall_margin: float
    braking: float
    brake_from: float
    cautious_run: float
    largest_scale: float
    betas: tuple[float, ...]
    log_betas: tuple[float, ...]
    log_fast_beta: float
    log_slow_beta: float
    num_steps: float


class Scalars(NamedTuple):
    """Addresses of a tensor's 0-dim state beside its clock, ``[tensors]`` each, in the order of ``SCALAR_KEYS``."""

    first_rms: Tensor
    agreement_fast: Tensor
    agreement_slow: Tensor
    first_gradient: Tensor
    gradient: Tensor
    log_step_scale: Tensor
    touched_fraction: Tensor
    random_walk_variance: Tensor


SCALAR_KEYS = (
    "first_rms",
    "agreement_fast",
    "agreement_slow",
    "first_gradient",
    "gradient",
    "trust",
    "seen",
    "walk",
)
"""In files and in ``optimizer.state[p]``."""


class Own(NamedTuple):
    """What else ``scale-free`` is given of a tensor, ``[tensors]`` each.

    Attributes:
        direction: address of those of a matrix.
        is_matrix: whether it is whitened, 0 or 1.
        natural_size: of a tensor that started at zero.
        even_scale: what a whitened direction is multiplied by.
    """

    direction: Tensor
    is_matrix: Tensor
    natural_size: Tensor
    even_scale: Tensor


class Launch(NamedTuple):
    """One launch of a kernel.

    Attributes:
        kernel: decorated by ``triton.jit``.
        programs: how many run.
        arguments: of the kernel by name: tensors, floats, tables of them.
        constants: that it is compiled for.
        num_warps: of 32 threads (of 64 on AMD), that a program has.
        most_registers: of a thread; None for as many as the compiler likes.
    """

    kernel: Any
    programs: int
    arguments: Mapping[str, Any]
    constants: Mapping[str, Any]
    num_warps: int = 4
    most_registers: int | None = None

    def run(self) -> None:
        """Launch it, if there is anything to do."""
        if self.programs:
            self.kernel[(self.programs,)](**self.arguments, **self.constants, **self.options)

    @property
    def options(self) -> dict[str, int]:
        """How it is compiled; AMD's compiler knows no limit of registers."""
        if self.most_registers is None or torch.version.hip is not None:
            return {"num_warps": self.num_warps}
        return {"num_warps": self.num_warps, "maxnreg": self.most_registers}


def sent(numbers: Sequence[int], device: torch.device) -> Tensor:
    """Whole numbers as a tensor on a device, by one copy for which nothing waits.

    Raises:
        RuntimeError: it would be captured in a CUDA graph.
    """
    if is_captured(device):
        raise RuntimeError(
            "a captured step must be one that was taken before, with gradients where they lay; got other parameters or "
            "gradients, take steps first and zero_grad(set_to_none=False)"
        )
    here = torch.tensor(numbers, dtype=torch.int64, pin_memory=device.type == "cuda")
    return here.to(device, non_blocking=True)
