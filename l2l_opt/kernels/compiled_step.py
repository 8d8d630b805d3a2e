"""What a rule declares, so that kernels can take its whole step."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from l2l_opt.kernels import native

RECURRENT = ("hidden", "cell")
"""State of the network's own, which a rule may do without: each step then begins from zeros."""
Constants = Sequence[float] | Sequence[Sequence[float]]


def number(value: Tensor) -> Any:
    """Return a tensor's scalar for ``given``: a float, which is quicker; of P particles ``[P]`` in double precision."""
    return value.double() if value.dim() else float(value)


def bounded(value: Any, *, least: float = -math.inf, most: float = math.inf) -> Any:
    """Clamp a float, or each of ``[P]``."""
    return value.clamp(least, most) if isinstance(value, Tensor) else min(max(value, least), most)


class CompiledStep(NamedTuple):
    """A rule as the kernels take it; every name is one of its kind in native/layouts.h.

    Attributes:
        kind: of rule, by what its network sees.
        moments: names of the averages of gradients and of their squares in a parameter's state; None without any.
        weights: of each layer input and hidden weights, then the read-out's, as in ``reference``; of P particles that
            have weights of their own, each ``[P, ...]``.
        options: numbers of the rule.
        arrays: its tensors, ``biases`` of all layers and the read-out among them, with an axis P where weights have
            one; and constants.
        given: ``given(state, num_steps)``, the kind's numbers of one tensor: numbers, or for P particles ``[P]``.
    """

    kind: str
    moments: tuple[str, str] | None
    weights: Sequence[Tensor]
    options: Mapping[str, float]
    arrays: Mapping[str, Tensor | Constants]
    given: Callable[[dict[str, Tensor], Any], Mapping[str, Any]] = lambda state, num_steps: {}

    @property
    def tensor_scalars(self) -> tuple[str, ...]:
        """Names of 0-dim state that the kind brings up to date; none without kernels."""
        return native.layouts.get(f"{self.kind}.scalars", ())

    @property
    def keeps_clock(self) -> bool:
        """Whether the kind counts a tensor's steps itself."""
        return "step" in self.tensor_scalars
