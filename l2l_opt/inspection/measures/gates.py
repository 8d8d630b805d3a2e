"""The gates of a rule's LSTM, recorded where its operator is called: neither rules nor kernels carry instruments."""

from typing import Any

import torch
from torch import Tensor

from l2l_opt.dispatch_mode import DispatchMode
from l2l_opt.rules.base import UpdateRule

GATES = ("input", "forget", "output")
CLOSED, OPEN = 0.1, 0.9
"""A gate below the one or above the other is saturated, as in arXiv 1506.02078, section 4.2."""


class GateObserver(DispatchMode):
    """Collects the gates of every coordinatewise LSTM that is run inside.

    Attributes:
        gates: one entry a tensor of coordinates and layer, ``[3, hidden_size, N]``: input, forget and output gates
            between 0 and 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gates: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.l2l_opt.coordinatewise_lstm.default:
            inputs, hidden, _, biases, weights = args
            num_layers = (len(weights) - 1) // 2
            for x, states, bias, next_states in zip(
                inputs, hidden, biases, result[len(inputs) : 2 * len(inputs)], strict=True
            ):
                self._observe(x, states, bias, weights, next_states, num_layers)
        return result

    def _observe(
        self, x: Tensor, states: Tensor, bias: Tensor, weights: list[Tensor], next_states: Tensor, num_layers: int
    ) -> None:
        rows = states.shape[0] // num_layers
        below = x
        for layer in range(num_layers):
            own = slice(layer * rows, (layer + 1) * rows)
            of_input, of_hidden = weights[2 * layer], weights[2 * layer + 1]
            gates = (
                torch.einsum("pgi,ipn->gpn", of_input.expand(x.shape[1], -1, -1), below)
                + torch.einsum("pgh,hpn->gpn", of_hidden.expand(x.shape[1], -1, -1), states[own].to(x.dtype))
                + bias[:, layer * 4 * rows : (layer + 1) * 4 * rows].t().unsqueeze(-1)
            )
            i, f, _, o = gates.flatten(1).chunk(4)
            self.gates.append(torch.stack([i, f, o]).sigmoid())
            below = next_states[own].to(x.dtype)


@torch.no_grad()
def gates_of(
    rule: UpdateRule,
    name: str,
    gradient: Tensor,
    state: dict[str, Tensor],
    param: Tensor,
    *,
    num_steps: Tensor | None,
) -> list[Tensor]:
    """Return the gates of a rule at one tensor's gradient, layer by layer: ``[3, hidden_size, N]`` each.

    Args:
        rule: any; one without an LSTM has none.
        name: of the tensor.
        gradient: ``[*shape]``.
        state: of the rule, of this tensor, before the step; it is not changed.
        param: ``[*shape]``, before the step.
        num_steps: as the rule is given it.
    """
    with GateObserver() as observer:
        rule({name: gradient}, {name: state}, {name: param}, num_steps=num_steps)
    return observer.gates


def saturation(gates: Tensor) -> Tensor:
    """Shares of gates that are closed (below .1) and open (above .9), of each kind: ``[3, units, N]`` -> ``[3, 2]``."""
    flat = gates.flatten(1)
    return torch.stack([(flat < CLOSED).float().mean(1), (flat > OPEN).float().mean(1)], dim=1)
