"""A rule's whole step by the compiled kernels, in place."""

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from l2l_opt.kernels import native

KINDS = ("log_sign", "ratios", "residual", "scale_free")
"""Rules whose whole step is compiled: by what their network sees."""
MOST_WHITENED = 128
"""Rows or columns, whichever are fewer, of matrices that the kernels whiten themselves; as in whiten.h."""
MOST_MEMORIES = 9
"""Numbers that a kind may keep of a tensor; as in lstm.cpp."""


class PreparedStep:
    """A step in place of tensors that stay where they are, but for their gradients.

    What is passed in is kept alive. Of P particles every tensor of a student has a leading axis of length P.

    Args:
        kind: of ``KINDS``.
        params: the parameters.
        hidden: ``[P, rows, *param.shape]``; the cell and moments likewise, these lists empty for a kind without any.
        memories: each ``[P]``, all tensors' first memory first.
        numbers: ``[tensors, P, numbers]``.
        weights: of each layer input and hidden weights, then the read-out's, each ``[sets, ...]``.
        biases: ``[sets, biases]``.
        options: ``[sets, options]``.
        whitening: as ``CompiledStep`` has it.
        leaves_directions: whether updates are made of directions.
    """

    ROW, GRADIENT, DIRECTION = 18 + MOST_MEMORIES, 2, 17 + MOST_MEMORIES

    def __init__(
        self,
        kind: str,
        params: Sequence[Tensor],
        hidden: Sequence[Tensor],
        cell: Sequence[Tensor],
        averages: Sequence[Tensor],
        squares: Sequence[Tensor],
        memories: Sequence[Tensor],
        numbers: Tensor,
        weights: Sequence[Tensor],
        biases: Tensor,
        options: Tensor,
        whitening: Tensor,
        *,
        leaves_directions: bool,
    ):
        weights = [weight.contiguous() for weight in weights]
        numbers, biases, options = numbers.contiguous(), biases.contiguous(), options.contiguous()
        num_sets, num_outputs, units = weights[-1].shape
        particles = numbers.shape[1]
        table: list[int] = []
        for index, (p, h, c) in enumerate(zip(params, hidden, cell, strict=True)):
            count = p.numel() // particles
            table += (count, p.data_ptr(), 0, *_whole(h, count, particles), *_whole(c, count, particles))
            if averages:
                table += (*_whole(averages[index], count, particles), *_whole(squares[index], count, particles))
            else:
                table += (0,) * 6
            table += (numbers[index].data_ptr() if numbers.numel() else 0, numbers.shape[2])
            kept = [memory.data_ptr() for memory in memories[index :: len(params)]]
            table += (*kept, *[0] * (MOST_MEMORIES - len(kept)), 0)
        self.table, self.addresses = native.table(table), native.addresses(weights)
        self.shape = native.table(
            [weights[0].shape[2], units, len(weights) // 2, num_outputs, particles, num_sets, len(params)]
        )
        self.kind, self.is_bfloat16 = KINDS.index(kind), bool(hidden) and hidden[0].dtype == torch.bfloat16
        self.numbers, self.biases, self.options, self.whitening = numbers, biases, options, whitening
        self.starts = [0]
        for p in params:
            self.starts.append(self.starts[-1] + (p.numel() if leaves_directions else 0))
        self.kept = (list(params), list(hidden), list(cell), list(averages), list(squares), list(memories), weights)

    def run(
        self, gradients: Sequence[int], *, lr: float, decay: float, sign: float, guarded: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Take one step.

        Args:
            gradients: addresses, of contiguous float32 in the order of params.
            lr: of the update; decay, sign and guarded as for ``recurrent_step_``.

        Returns:
            Flags ``[tensors]``, choices ``[tensors, P, 2]``, and all directions one after the other (see ``starts``).
        """
        assert native.library is not None
        count = len(gradients)
        flags = torch.zeros(count, dtype=torch.uint8)
        choices = torch.zeros(count, self.numbers.shape[1], 2)
        directions = torch.empty(self.starts[-1])
        base = directions.data_ptr()
        for index, address in enumerate(gradients):
            row = index * self.ROW
            self.table[row + self.GRADIENT] = address
            if self.starts[-1]:
                self.table[row + self.DIRECTION] = base + 4 * self.starts[index]
        if count:
            native.library.l2l_opt_step(
                self.shape,
                ctypes.c_int(self.kind),
                self.addresses,
                self.table,
                ctypes.c_void_p(self.biases.data_ptr()),
                ctypes.c_void_p(self.options.data_ptr()),
                ctypes.c_int64(self.options.shape[1]),
                (ctypes.c_float * 3)(lr, decay, sign),
                ctypes.c_int(guarded),
                ctypes.c_int(self.is_bfloat16),
                ctypes.c_int(torch.get_num_threads()),
                ctypes.c_void_p(flags.data_ptr()),
                ctypes.c_void_p(choices.data_ptr()),
                ctypes.c_void_p(self.whitening.data_ptr()),
                ctypes.c_int64(self.whitening.numel() // 3),
            )
        return flags, choices, directions


def step(
    kind: str,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    *state: Any,
    leaves_directions: bool,
    lr: float,
    decay: float,
    sign: float,
    guarded: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """``operator.recurrent_step_`` by the compiled kernels."""
    prepared = PreparedStep(kind, params, *state, leaves_directions=leaves_directions)
    addresses = [gradient.data_ptr() for gradient in grads]
    return prepared.run(addresses, lr=lr, decay=decay, sign=sign, guarded=guarded)


def finishes(shape: Sequence[int]) -> bool:
    """Whether the kernels make updates of directions of this shape, or leave that to the caller."""
    rows = shape[0] if len(shape) else 1
    return min(rows, math.prod(shape) // max(rows, 1)) <= MOST_WHITENED


def _whole(state: Tensor, count: int, particles: int) -> tuple[int, int, int]:
    """Address and strides of a contiguous ``[particles, rows, *param.shape]`` of so many coordinates a particle."""
    return state.data_ptr(), count, state.numel() // particles
