"""How the tensors of a step are divided by rows over devices, as kernels on a GPU need to know it."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor


class Spread(NamedTuple):
    """Of tensors of which each device holds some rows, perhaps none.

    Attributes:
        shapes: of whole tensors.
        first_rows: of each tensor the number of rows on the devices before this one.
        place: of this device among those that tensors are divided among, from 0.
        devices: how many these are.
        add_up: makes of a tensor, in place, its sum over these devices.
    """

    shapes: Sequence[tuple[int, ...]]
    first_rows: Sequence[int]
    place: int
    devices: int
    add_up: Callable[[Tensor], object]

    def of(self, places: Sequence[int]) -> "Spread":
        """Return that of some of the tensors."""
        shapes, first_rows = ([values[place] for place in places] for values in (self.shapes, self.first_rows))
        return self._replace(shapes=shapes, first_rows=first_rows)

    def counts(self) -> list[int]:
        """Return the numbers of coordinates of whole tensors."""
        return [math.prod(shape) for shape in self.shapes]

    def whole_states(self, states: Sequence[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        """Return states with the shapes that those of whole tensors have, without memory; 0-dim ones as they are."""
        return [
            {
                key: value.new_empty((value.shape[0], *shape), device="meta") if value.dim() else value
                for key, value in state.items()
            }
            for shape, state in zip(self.shapes, states, strict=True)
        ]
