"""What every step on a GPU has in common: tables of addresses made once, gradients found anew, launches."""

import abc
import itertools
from collections.abc import Sequence

import torch
import triton.language as tl
from torch import Tensor

from l2l_opt.kernels.compiled_step import RECURRENT, CompiledStep
from l2l_opt.kernels.native_perceptron import CompiledPerceptron
from l2l_opt.kernels.spread import Spread
from l2l_opt.kernels.triton.folding import Reduction, fold_kernel
from l2l_opt.kernels.triton.language import CHUNK
from l2l_opt.kernels.triton.tables import Chunks, Launch, Tensors, Update, sent

TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


class DeviceStep(abc.ABC):
    """A step in place of tensors on a GPU that will stay where they are, again and again; nothing waits for the device.

    Clocks, and counts of steps that were left out, are brought up to date there.

    Args:
        rule: what to compute.
        params: the parameters, contiguous, all of one dtype.
        states: their states, recurrent ones all of one dtype, and averages.
        spread: how tensors are divided over devices; None where each lies here alone.
    """

    def __init__(
        self,
        rule: CompiledStep | CompiledPerceptron,
        params: Sequence[Tensor],
        states: Sequence[dict[str, Tensor]],
        spread: Spread | None,
    ):
        self.params, self.device, self.spread = list(params), params[0].device, spread
        self.remembers = "hidden" in states[0]
        self.state_dtype = states[0]["hidden"].dtype if self.remembers else torch.float32
        self.averages_dtype = states[0][rule.moments[0]].dtype if rule.moments else torch.float32
        self.kept = [list(state.values()) for state in states]
        counts = [param.numel() for param in params]
        pieces = [-(-count // CHUNK.value) for count in counts]
        self.first_chunks = [0, *itertools.accumulate(pieces)]
        self.chunks, self.num_chunks = Chunks.of(self.first_chunks, self.device), self.first_chunks[-1]
        self.totals = self.chunks if spread is None else Chunks.of(range(len(counts) + 1), self.device)
        nowhere = [0] * len(counts)

        def of(key: str | None) -> list[int]:
            return nowhere if key is None or key not in states[0] else [state[key].data_ptr() for state in states]

        averages, squares = rule.moments or (None, None)
        columns = {
            "length": counts,
            "whole": counts if spread is None else spread.counts(),
            "param": [param.data_ptr() for param in params],
            "gradient": nowhere,
            **{key: of(key) for key in RECURRENT},
            "averages": of(averages),
            "squares": of(squares),
            "step": of("step"),
            "skipped": of("skipped"),
        }
        table = sent([number for column in columns.values() for number in column], self.device)
        self.tensors = Tensors(**dict(zip(columns, table.reshape(len(columns), -1), strict=True)))
        self.one = torch.ones((), device=self.device)
        self._gradients: list[int] = []

    @abc.abstractmethod
    def launches(self, update: Update, *, guarded: bool) -> list[Launch | Reduction]:
        """Return what is launched for a step, in order."""

    def __call__(
        self,
        grads: Sequence[Tensor],
        *,
        lr: float,
        decay: float,
        sign: float,
        guarded: bool,
        rate: Tensor | None = None,
    ) -> list[int]:
        """Take a step.

        Args:
            grads: gradients, contiguous and of the parameters' dtype. Their addresses are sent where they are new.
            lr: of the update.
            decay: of the parameters, per step.
            sign: of the gradients: -1 to climb.
            guarded: leave a tensor as it was where its gradient (its square, for rules that average squares) or a
                weight is not finite, and a block of coordinates where what would follow is not; count it.
            rate: 0-dim on the device, multiplies lr and decay, and is read there when kernels run; None for 1.

        Returns:
            Nothing that the caller would have to count.
        """
        addresses = [gradient.data_ptr() for gradient in grads]
        with torch.cuda.device_of(self.params[0]):
            if addresses != self._gradients:
                self._gradients, self.tensors = addresses, self.tensors._replace(gradient=sent(addresses, self.device))
            self.run(Update(lr, decay, sign, self.one if rate is None else rate), guarded=guarded)
        torch.autograd.graph.increment_version(self.params)
        return []

    def room_for(self, partial: Tensor) -> Tensor:
        """Return memory for what ``fold`` makes of sums ``[..., chunks]``: these where nothing is divided."""
        return partial if self.spread is None else partial.new_empty(*partial.shape[:-1], len(self.params))

    def fold(self, partial: Tensor, folded: Tensor) -> list[Launch | Reduction]:
        """Return what makes sums over chunks those over devices, as ``totals`` has them; nothing where all is here."""
        if self.spread is None:
            return []
        rows = {"num_rows": partial.shape[0] if partial.dim() > 1 else 1}
        tables = {"chunks": self.chunks, "partial": partial, "folded": folded}
        return [Launch(fold_kernel, len(self.params), tables, rows), Reduction(folded, self.spread)]

    def run(self, update: Update, *, guarded: bool) -> None:
        """Launch all that a step takes."""
        for launch in self.launches(update, guarded=guarded):
            launch.run()


def padded(number: int) -> int:
    """Return the next power of two, as tiles have their sizes; at least 2."""
    return max(2, 1 << (number - 1).bit_length())
