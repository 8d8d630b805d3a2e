"""One call of the compiled kernels that takes a rule's whole step, in place."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from l2l_opt.kernels import native
from l2l_opt.kernels.compiled_step import RECURRENT, CompiledStep


class PackedRule:
    """A rule's weights and options where the kernels read them: one set, or one for each of P particles.

    Attributes:
        weights: each ``[sets, ...]``, in float32.
        options: ``[sets, numbers]``, its options and arrays one after the other.
        addresses: of these in each set.
    """

    def __init__(self, rule: CompiledStep):
        weights = [weight.detach().float().contiguous() for weight in rule.weights]
        self.weights = weights if weights[-1].dim() == 3 else [weight.unsqueeze(0) for weight in weights]
        num_sets = self.weights[-1].shape[0]
        options = native.in_order(f"{rule.kind}.options", rule.options)
        parts = [
            value.detach().float().reshape(num_sets, -1)
            if isinstance(value, Tensor)
            else torch.tensor(value, dtype=torch.float32).reshape(1, -1).expand(num_sets, -1)
            for value in (options, *native.in_order(f"{rule.kind}.arrays", rule.arrays))
        ]
        self.options, starts = native.join(parts)
        rows = [self.options.data_ptr() + 4 * row * self.options.shape[1] for row in range(num_sets)]
        self.addresses = native.integers([row + 4 * start for row in rows for start in starts])


class NativeStep:
    """A step in place of tensors that stay where they are, but for their gradients. What is passed in is kept alive.

    Args:
        rule: what to compute.
        packed: the same.
        params: the parameters; of P particles ``[P, ...]``, contiguous in float32.
        states: their states, contiguous, of the same dtypes.
        grads: gradients, of whose types and strides those of all steps must be.
        num_steps: planned steps; None where unknown; of P particles ``[P]``.
        particles: P; None for parameters that have no such axis.
    """

    def __init__(
        self,
        rule: CompiledStep,
        packed: PackedRule,
        params: Sequence[Tensor],
        states: Sequence[dict[str, Tensor]],
        grads: Sequence[Tensor],
        num_steps: Any,
        particles: int | None = None,
    ):
        self.kind, self.packed, self.num_particles = rule.kind.encode(), packed, particles or 1
        self.given = _given(rule, states, num_steps, particles)
        scalars = [[state[key].data_ptr() for key in rule.tensor_scalars] for state in states]
        self.scalars = native.integers([address for own in scalars for address in own])
        base, size = ctypes.addressof(self.scalars), 8 * len(rule.tensor_scalars)
        self.formats = native.Formats()
        counts = [param.numel() // self.num_particles for param in params]
        nowhere, remembers = [native.NOWHERE] * len(params), "hidden" in states[0]

        def rows_of(key: str) -> list[native.Rows]:
            return self._rows([state[key] for state in states], counts)

        averages, squares = map(rows_of, rule.moments) if rule.moments else (nowhere, nowhere)
        self.table = native.tensor_table(
            "step",
            counts,
            param=[(p.data_ptr(), self.formats.of(p), count) for p, count in zip(params, counts, strict=True)],
            gradient=[(0, self.formats.of(grad), count) for grad, count in zip(grads, counts, strict=True)],
            **{key: rows_of(key) if remembers else nowhere for key in RECURRENT},
            averages=averages,
            squares=squares,
            given=[(given.data_ptr(), 0, given.shape[1]) for given in self.given],
            scalars=[(base + index * size, 0, 0) for index in range(len(params))],
        )
        self.problem = native.problem(
            packed.weights,
            particles=self.num_particles,
            tensors=len(params),
            state_dtype=states[0]["hidden"].dtype if remembers else torch.float32,
            averages_dtype=states[0][rule.moments[0]].dtype if rule.moments else torch.float32,
            options=packed.options.shape[1],
        )
        self.weights = native.addresses(packed.weights)
        self.kept = (list(params), [list(state.values()) for state in states])

    def _rows(self, tensors: Sequence[Tensor], counts: Sequence[int]) -> list[native.Rows]:
        """Where contiguous ``[particles, rows, *param.shape]`` lie."""
        return [
            (tensor.data_ptr(), count, tensor.numel() // self.num_particles)
            for tensor, count in zip(tensors, counts, strict=True)
        ]

    def run(self, gradients: Sequence[int], *, lr: float, decay: float, sign: float, guarded: bool) -> Tensor:
        """Take one step.

        Args:
            gradients: addresses, in the order of params.
            lr: of the update.
            decay: of the parameters, per step.
            sign: of the gradients: -1 to climb.
            guarded: as for ``PreparedStep``.

        Returns:
            Flags ``[tensors]``: what became of each, as in layouts.h.
        """
        assert native.library is not None
        flags = torch.zeros(len(gradients), dtype=torch.uint8)
        native.point(self.table, "step", "gradient", gradients)
        self.problem[native.layouts["problem"].index("threads")] = torch.get_num_threads()
        update = native.in_order("update", {"lr": lr, "decay": decay, "sign": sign, "guarded": guarded})
        native.library.l2l_opt_step(
            self.kind,
            self.problem,
            self.weights,
            self.table,
            self.packed.addresses,
            (ctypes.c_float * len(update))(*update),
            ctypes.c_void_p(flags.data_ptr()),
        )
        return flags


def _given(rule: CompiledStep, states: Sequence[dict[str, Tensor]], num_steps: Any, particles: int | None) -> Tensor:
    """Return the kind's numbers of each tensor, ``[tensors, P, numbers]``."""
    rows = [native.in_order(f"{rule.kind}.given", rule.given(state, num_steps)) for state in states]
    if particles is None:
        return torch.tensor([[row] for row in rows], dtype=torch.float32)
    found = torch.empty(len(rows), particles, len(rows[0]), dtype=torch.float32)
    for index, row in enumerate(rows):
        for place, value in enumerate(row):
            found[index, :, place] = value
    return found
