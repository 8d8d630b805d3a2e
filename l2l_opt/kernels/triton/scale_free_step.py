"""The step of the ``scale-free`` rule on a GPU: kernels of ``scale_free`` and ``scale_free_tensor``, and whitening."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l2l_opt.kernels.compiled_step import CompiledStep
from l2l_opt.kernels.spread import Spread
from l2l_opt.kernels.triton import scale_free, scale_free_tensor
from l2l_opt.kernels.triton.device_step import TYPES, DeviceStep, padded
from l2l_opt.kernels.triton.folding import Reduction
from l2l_opt.kernels.triton.tables import (
    SCALAR_KEYS,
    Body,
    Chunks,
    Launch,
    Law,
    Own,
    Phi,
    Scalars,
    ScaleFreeBuffers,
    Update,
    sent,
)
from l2l_opt.kernels.triton.whitening import mixed_whitening, write_products

BLOCK = 128
"""Coordinates of which a program keeps all in registers."""
MOST_REGISTERS = 128


class Shape(NamedTuple):
    """Matrices of one shape.

    Attributes:
        tensors: which they are.
        chunks: theirs.
        directions: ``[matrices, rows, columns]``, where kernels leave them: all of wide ones, of others this device's.
        own_rows: of wide ones those of this device.
        is_wide: fewer rows than columns.
        dtype: in which they are multiplied.
    """

    tensors: slice
    chunks: Chunks
    directions: Tensor
    own_rows: slice
    is_wide: bool
    dtype: torch.dtype

    def write_grams(self, gram: Tensor, spread: Spread | None) -> None:
        """Write the products of the shorter side's vectors, or this device's terms of them, ``[matrices, m, m]``."""
        found = self.directions if self.is_wide else self.directions.mT
        if self.is_wide and spread is not None:
            bounds = [found.shape[2] * place // spread.devices for place in (spread.place, spread.place + 1)]
            found = found[:, :, slice(*bounds)]
        found = found.to(self.dtype)
        write_products(gram, found, found.mT)

    def changes(self, mix: Tensor) -> Tensor:
        """Return the changes of this device's rows, ``[matrices, own rows, columns]``."""
        directions = self.directions.to(self.dtype)
        a, b = (mix[:, self.own_rows], directions) if self.is_wide else (directions, mix)
        found = self.directions.new_empty(a.shape[0], a.shape[1], b.shape[2])
        write_products(found, a, b)
        return found


class ScaleFreeStep(DeviceStep):
    """A step of a rule of the kind ``scale_free``; matrices lie in the order of their shapes, then vectors.

    Of matrices that are divided over devices by rows, products of columns are sums over these; wide ones, which have
    fewer products of rows, are put together on each device. So a step makes four reductions: of squares, of other
    sums, of wide matrices' directions, and of products.

    Args:
        rule: what to compute.
        params: the parameters, contiguous, all of one dtype.
        states: their states.
        num_steps: planned steps; None where unknown.
        spread: how tensors are divided over devices; None where each lies here alone.
    """

    def __init__(
        self,
        rule: CompiledStep,
        params: Sequence[Tensor],
        states: Sequence[dict[str, Tensor]],
        num_steps: int | None,
        spread: Spread | None,
    ):
        whole = states if spread is None else spread.whole_states(states)
        counts = [param.numel() for param in params] if spread is None else spread.counts()
        given = [rule.given(state, num_steps) for state in whole]
        rows = [int(own["rows"]) for own in given]
        columns = [count // max(number, 1) for count, number in zip(counts, rows, strict=True)]

        def place(index: int) -> tuple[int, int, int]:
            shorter = min(rows[index], columns[index])
            return (shorter, rows[index], columns[index]) if rows[index] else (1 << 62, 0, 0)

        self.order = sorted(range(len(params)), key=place)
        ordered = [params[index] for index in self.order], [states[index] for index in self.order]
        super().__init__(rule, *ordered, None if spread is None else spread.of(self.order))
        self.rule = rule
        self._take_rule(num_steps)
        self._lay_out([(rows[index], columns[index]) for index in self.order])
        scalars = [[state.data_ptr() for state in (states[index][key] for index in self.order)] for key in SCALAR_KEYS]
        self.scalars = Scalars(*sent(list(itertools.chain(*scalars)), self.device).reshape(len(scalars), -1))
        natural = torch.tensor([float(given[index]["natural_size"]) for index in self.order])
        self.own = self.own._replace(natural_size=natural.to(self.device, non_blocking=True))

    def _take_rule(self, num_steps: int | None) -> None:
        arrays = dict(self.rule.arrays)
        betas = [float(beta) for beta in arrays.pop("betas")]  # pyright: ignore[reportArgumentType]
        self.newton_schulz: Any = arrays.pop("newton_schulz")
        tensors = {key: torch.as_tensor(value).detach().float().contiguous() for key, value in arrays.items()}
        weight_input, weight_hidden, readout = [weight.detach().float() for weight in self.rule.weights]
        self.units, num_biases = readout.shape[1], 4 * readout.shape[1] + readout.shape[0]
        self.phi = Phi(**tensors)
        self.body = Body(
            torch.cat([weight_input.flatten(), weight_hidden.flatten()]), self.phi.biases, readout.contiguous()
        )
        options = dict(self.rule.options)
        self.least_rounded = options.pop("least_rounded") or math.inf
        self.law = Law(
            **options,
            betas=tuple(betas),
            log_betas=tuple(map(math.log, betas)),
            log_fast_beta=math.log(options["fast_beta"]),
            log_slow_beta=math.log(options["slow_beta"]),
            num_steps=-1.0 if num_steps is None else float(num_steps),
        )
        tensor_units, length = int(options["units"]), padded(num_biases + 3)
        self.width = scale_free.BIASES.value + length
        self.sizes = (tensor_units, padded(tensor_units), num_biases, length, self.width)
        self.buffers = ScaleFreeBuffers(
            squares=torch.empty(self.num_chunks, device=self.device),
            sums=torch.empty(scale_free.NUM_SUMS.value, self.num_chunks, device=self.device),
            heads=torch.zeros(len(self.params), self.width, device=self.device),
            marks=torch.zeros(len(self.params), dtype=torch.int32, device=self.device),
        )
        squares, sums = self.room_for(self.buffers.squares), self.room_for(self.buffers.sums)
        self.folded = self.buffers._replace(squares=squares, sums=sums)

    def _lay_out(self, shapes: Sequence[tuple[int, int]]) -> None:
        """Give matrices room for their directions, those of one shape together, those to be put together first."""
        own_rows = [param.numel() // max(columns, 1) for param, (_, columns) in zip(self.params, shapes, strict=True)]
        first_rows = [0] * len(shapes) if self.spread is None else self.spread.first_rows
        gathered = [self.spread is not None and 0 < rows < columns for rows, columns in shapes]
        counts = [
            (rows if together else min(own, rows)) * columns
            for (rows, columns), own, together in zip(shapes, own_rows, gathered, strict=True)
        ]
        starts, taken = [0] * len(shapes), 0
        for index in sorted(range(len(shapes)), key=lambda index: not gathered[index]):
            starts[index], taken = taken, taken + counts[index]
        room = torch.empty(taken, device=self.device)
        self.gathered = room[: sum(itertools.compress(counts, gathered))]
        firsts = [
            start + (first * columns if together else 0)
            for start, first, (_, columns), together in zip(starts, first_rows, shapes, gathered, strict=True)
        ]
        scale = self.rule.options["whitened_rms"]
        evens = [scale * max(shape) ** 0.5 if shape[0] else 0.0 for shape in shapes]
        self.own = Own(
            direction=sent([room.data_ptr() + 4 * first for first in firsts], self.device),
            is_matrix=sent([int(rows > 0) for rows, _ in shapes], self.device),
            natural_size=torch.empty(0),
            even_scale=torch.tensor(evens).to(self.device, non_blocking=True),
        )
        self.batches: dict[int, list[Shape]] = {}
        for (rows, columns), found in itertools.groupby(range(len(shapes)), key=shapes.__getitem__):
            if not rows:
                continue
            indices = list(found)
            first, behind = indices[0], indices[-1] + 1
            here = slice(first_rows[first], first_rows[first] + own_rows[first])
            directions = room[starts[first] : starts[first] + sum(counts[first:behind])]
            part = slice(self.first_chunks[first], self.first_chunks[behind])
            shape = Shape(
                slice(first, behind),
                self.chunks._replace(tensor=self.chunks.tensor[part], start=self.chunks.start[part]),
                directions.reshape(len(indices), counts[first] // columns, columns),
                here,
                rows < columns,
                torch.bfloat16 if min(rows, columns) >= self.least_rounded else torch.float32,
            )
            self.batches.setdefault(min(rows, columns), []).append(shape)

    def __call__(self, grads: Sequence[Tensor], **options: Any) -> list[int]:
        return super().__call__([grads[index] for index in self.order], **options)

    def launches(self, update: Update, *, guarded: bool) -> list[Launch | Reduction]:
        """Return what is launched before matrices are whitened, in order."""
        dtype, averages = TYPES[self.params[0].dtype], TYPES[self.averages_dtype]
        tables = {"chunks": self.chunks, "tensors": self.tensors, "buffers": self.buffers}
        law, own, change = {"law": self.law}, {"own": self.own}, {"update": update}
        scalars, width, guard = {"scalars": self.scalars}, {"width": self.width}, {"guarded": guarded}
        sizes = {"sizes": (self.units, self.width, BLOCK, dtype, TYPES[self.state_dtype], self.remembers, averages)}
        many, few = self.num_chunks, len(self.params)
        totals = tables | {"chunks": self.totals, "buffers": self.folded}
        tensor = totals | scalars | own | law | change | {"phi": self.phi}
        coordinates = tables | own | law | change | {"body": self.body}
        return [
            Launch(scale_free.squares_kernel, many, tables | scalars | law, {"dtype": dtype}),
            *self.fold(self.buffers.squares, self.folded.squares),
            Launch(scale_free.begin_kernel, few, totals | scalars | law, width),
            Launch(
                scale_free.sums_kernel,
                many,
                tables | law | change,
                width | {"param_type": dtype, "averages_type": averages},
            ),
            *self.fold(self.buffers.sums, self.folded.sums),
            Launch(scale_free_tensor.tensor_kernel, few, tensor, {"sizes": self.sizes} | guard),
            Launch(scale_free.coordinates_kernel, many, coordinates, sizes | guard, most_registers=MOST_REGISTERS),
        ]

    def apply(self, shape: Shape, changes: Tensor, update: Update, *, guarded: bool) -> Launch:
        """Return what adds changes, as their directions lie, to the matrices of one shape."""
        arguments = {"chunks": shape.chunks, "tensors": self.tensors, "buffers": self.buffers}
        return Launch(
            scale_free.apply_kernel,
            shape.chunks.tensor.numel(),
            arguments | {"changes": changes, "update": update},
            {"width": self.width, "dtype": TYPES[self.params[0].dtype], "guarded": guarded},
        )

    def run(self, update: Update, *, guarded: bool) -> None:
        if self.spread is not None:
            self.gathered.zero_()
        super().run(update, guarded=guarded)
        even, plain = self.buffers.heads[:, scale_free.EVEN.value], self.buffers.heads[:, scale_free.PLAIN.value]
        for gram, shapes in zip(self._grams(), self.batches.values(), strict=True):
            # Shapes of one shorter side lie one after the other.
            own = slice(shapes[0].tensors.start, shapes[-1].tensors.stop)
            mixes = mixed_whitening(gram, even[own], plain[own], self.newton_schulz, shapes[0].dtype)
            counts = [shape.directions.shape[0] for shape in shapes]
            for shape, mix in zip(shapes, mixes.split(counts), strict=True):
                self.apply(shape, shape.changes(mix), update, guarded=guarded).run()

    def _grams(self) -> list[Tensor]:
        """Return the Gram matrices of each shorter side, ``[matrices, m, m]``."""
        counts = [sum(shape.directions.shape[0] for shape in shapes) for shapes in self.batches.values()]
        sizes = [count * side * side for count, side in zip(counts, self.batches, strict=True)]
        room = torch.empty(sum(sizes), device=self.device)
        grams = [
            part.reshape(count, side, side)
            for part, count, side in zip(room.split(sizes), counts, self.batches, strict=True)
        ]
        if self.spread is not None:
            self.spread.add_up(self.gathered)
        for gram, shapes in zip(grams, self.batches.values(), strict=True):
            parts = gram.split([shape.directions.shape[0] for shape in shapes])
            for shape, part in zip(shapes, parts, strict=True):
                shape.write_grams(part, self.spread)
        if self.spread is not None:
            self.spread.add_up(room)
        return grams
