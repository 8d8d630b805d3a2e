"""The step of ``lstm`` and ``rnnprop`` on a GPU, in three launches whatever the model: kernels of ``recurrent``."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from l2l_opt.kernels.compiled_step import CompiledStep
from l2l_opt.kernels.spread import Spread
from l2l_opt.kernels.triton import recurrent
from l2l_opt.kernels.triton.device_step import TYPES, DeviceStep, padded
from l2l_opt.kernels.triton.folding import Reduction
from l2l_opt.kernels.triton.tables import Body, Launch, LogSign, Ratios, RecurrentBuffers, Update

MOST_PROGRAMS = 2048
"""That step chunks, of which each has memory of its own to hand rows from layer to layer."""
TILE = 512
"""Numbers of a tile, units times coordinates."""
LEAST_BLOCK = 16
MOST_REGISTERS = 128


class RecurrentStep(DeviceStep):
    """A step of a rule of one of the kinds ``log_sign`` and ``ratios``."""

    def __init__(
        self,
        rule: CompiledStep,
        params: Sequence[Tensor],
        states: Sequence[dict[str, Tensor]],
        spread: Spread | None,
    ):
        super().__init__(rule, params, states, spread)
        self.rule = rule
        device, num_tensors = self.device, len(self.params)
        *layers, readout = [weight.detach().float() for weight in rule.weights]
        self.units, self.num_layers, self.first_inputs = readout.shape[1], len(layers) // 2, layers[0].shape[1]
        arrays = {key: torch.as_tensor(value).detach().float().contiguous() for key, value in rule.arrays.items()}
        biases = arrays.pop("biases")
        # A row for each input, so that those of all gates lie side by side.
        weights = torch.cat([weight.t().reshape(-1) for weight in layers])
        self.body = Body(weights, biases, readout.contiguous())
        kind: type[Any] = LogSign if rule.kind == "log_sign" else Ratios
        self.law = kind(**rule.options, **arrays)
        self.log_beta = math.log(rule.options.get("beta", 0.5))
        self.rule_times_zero = (
            torch.cat([weights, biases, readout.flatten(), *map(torch.flatten, arrays.values())]).sum() * 0
        )
        self.programs = min(self.num_chunks, MOST_PROGRAMS)
        self.rows = max(padded(self.units), padded(self.first_inputs))
        self.block = max(TILE // self.rows, LEAST_BLOCK)
        self.buffers = RecurrentBuffers(
            found=torch.zeros(self.num_chunks, device=device),
            heads=torch.zeros(num_tensors, recurrent.NUM_HEADS.value, device=device),
            marks=torch.zeros(num_tensors, dtype=torch.int32, device=device),
            scratch=torch.empty(self.programs * self.rows * self.block, device=device),
        )
        self.found = self.room_for(self.buffers.found)

    def launches(self, update: Update, *, guarded: bool) -> list[Launch | Reduction]:
        """Return what is launched for a step, in order."""
        tables = {"chunks": self.chunks, "tensors": self.tensors, "buffers": self.buffers}
        finite = {"squared": self.rule.moments is not None, "dtype": TYPES[self.params[0].dtype]}
        find = Launch(recurrent.find_kernel, self.num_chunks, tables, finite)
        rule = {"rule_times_zero": self.rule_times_zero, "log_beta": self.log_beta}
        found = {"chunks": self.totals, "tensors": self.tensors, "buffers": self.buffers._replace(found=self.found)}
        clock = Launch(recurrent.clock_kernel, len(self.params), found | rule, {"guarded": guarded})
        sizes = (
            self.units,
            self.num_layers,
            self.rows,
            self.block,
            TYPES[self.params[0].dtype],
            TYPES[self.state_dtype],
            self.first_inputs,
            TYPES[self.averages_dtype],
        )
        step = Launch(
            recurrent.step_kernel,
            self.programs,
            tables | {"body": self.body, "law": self.law, "update": update},
            {"kind": self.rule.kind, "sizes": sizes, "guarded": guarded},
            num_warps=8,
            most_registers=MOST_REGISTERS,
        )
        return [find, *self.fold(self.buffers.found, self.found), clock, step] if guarded else [clock, step]
