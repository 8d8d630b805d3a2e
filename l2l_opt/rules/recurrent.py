"""The recurrent body that learned rules share: features in, one number a coordinate out, a hidden state for each."""

import abc
import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from l2l_opt.checks import check_positive_integers
from l2l_opt.kernels import LSTMWeights, ReadoutWeights, fused_coordinatewise_lstm
from l2l_opt.rules.base import UpdateRule
from l2l_opt.types import Params, RuleState


class RecurrentBody(nn.Module):
    """A stack of LSTM layers and a linear read-out, shared by all coordinates of all tensors of a student.

    Args:
        num_inputs: features a coordinate.
        hidden_size: units a layer.
        num_layers: layers.

    Raises:
        ValueError: a size that is not a positive integer.
    """

    def __init__(self, *, num_inputs: int, hidden_size: int, num_layers: int):
        super().__init__()
        check_positive_integers(20, hidden_size=hidden_size)
        check_positive_integers(2, num_layers=num_layers)
        self.num_inputs, self.hidden_size, self.num_layers = num_inputs, hidden_size, num_layers
        self.layers = nn.ModuleList(
            LSTMLayer(num_inputs if layer == 0 else hidden_size, hidden_size) for layer in range(num_layers)
        )
        self.readout = nn.Linear(hidden_size, 1)
        # A bias would push all coordinates one way, step after step, before anything is learned.
        nn.init.zeros_(self.readout.bias)

    def init_state(self, param: Tensor) -> dict[str, Tensor]:
        """Zeros: ``hidden`` and ``cell``, each ``[num_layers * hidden_size, *param.shape]``."""
        zeros = param.new_zeros(self.state_size, *param.shape)
        return {"hidden": zeros, "cell": zeros.clone()}

    @property
    def state_size(self) -> int:
        """Numbers of the hidden state of a coordinate, and as many of the cell's."""
        return self.num_layers * self.hidden_size

    def forward(
        self, inputs: Params, state: dict[str, dict[str, Tensor]]
    ) -> tuple[Params, dict[str, dict[str, Tensor]]]:
        """Run one step for every coordinate of every tensor.

        Args:
            inputs: parameter name -> ``[num_inputs, *param.shape]``.
            state: parameter name -> ``hidden`` and ``cell``.

        Returns:
            Parameter name -> output ``param.shape``, and parameter name -> next ``hidden`` and ``cell``.
        """
        dtype = next(iter(inputs.values())).dtype
        layers = [layer.weights(dtype) for layer in cast(Iterable[LSTMLayer], self.layers)]
        outputs, hidden, cell = fused_coordinatewise_lstm(
            [coordinates(value) for value in inputs.values()],
            [coordinates(state[name]["hidden"]) for name in inputs],
            [coordinates(state[name]["cell"]) for name in inputs],
            layers,
            ReadoutWeights(self.readout.weight.to(dtype), self.readout.bias.to(dtype)),
        )
        updates: Params = {}
        next_state: dict[str, dict[str, Tensor]] = {}
        for (name, value), output, h, c in zip(inputs.items(), outputs, hidden, cell, strict=True):
            shape = value.shape[1:]
            updates[name] = output.reshape(shape)
            next_state[name] = {"hidden": h.reshape(h.shape[0], *shape), "cell": c.reshape(c.shape[0], *shape)}
        return updates, next_state

    def compiled(self, phi: Params, name: str) -> tuple[list[Tensor], Tensor]:
        """Weights and biases as ``kernels.CompiledStep`` takes them, from a rule's weights.

        Args:
            phi: the rule's weights, shared or with a leading axis.
            name: of this body in the rule.
        """
        layers = [f"{name}.layers.{layer}" for layer in range(self.num_layers)]
        weights = [phi[f"{layer}.{which}"] for layer in layers for which in ("weight_input", "weight_hidden")]
        biases = [phi[f"{layer}.bias"] for layer in layers]
        return [*weights, phi[f"{name}.readout.weight"]], torch.cat([*biases, phi[f"{name}.readout.bias"]], -1)


class GradientRule(UpdateRule):
    """A rule around a recurrent body that reads gradients alone, and each coordinate by itself.

        x_t, own_{t+1} = features(g_t, own_t);    o_t, h_{t+1} = body(x_t, h_t);    update_t = output(o_t)

    Its features depend neither on the parameters nor on its updates before. So where gradients count as data, a
    whole window can be differentiated from its gradients alone (``l2l_opt.inner_loop.replay``).

    Attributes:
        body: the recurrent part; all else in phi belongs to ``features``.
    """

    body: RecurrentBody
    reads_whole_tensors = False

    def recurrent_zeros(self, param: Tensor) -> dict[str, Tensor]:
        """Return the body's state before the first update."""
        return {key: self.zeros(key, param, self.body.state_size) for key in ("hidden", "cell")}

    @abc.abstractmethod
    def features(self, gradient: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the body's inputs ``[num_inputs, *shape]`` for a gradient, and the next state but the body's."""

    @abc.abstractmethod
    def output(self, output: Tensor) -> Tensor:
        """Return updates of the body's outputs, of any shape; no weights of phi are read."""

    def forward(
        self, grads: Params, state: RuleState, params: Params, *, num_steps: Tensor | None = None
    ) -> tuple[Params, RuleState]:
        if not grads:
            return {}, {}
        features = {name: self.features(gradient, state[name]) for name, gradient in grads.items()}
        outputs, recurrent = self.body({name: inputs for name, (inputs, _) in features.items()}, state)
        updates = {name: self.output(own) for name, own in outputs.items()}
        return updates, {name: own | recurrent[name] for name, (_, own) in features.items()}


def coordinates(value: Tensor) -> Tensor:
    """``[features, *shape]`` as ``[features, N]``, for shapes of any rank and for empty ones."""
    return value.reshape(value.shape[0], value.shape[1:].numel())


class LSTMLayer(nn.Module):
    """The weights of one layer, drawn as ``nn.LSTM`` draws them, with forget gates opened by a bias of one."""

    def __init__(self, num_inputs: int, hidden_size: int):
        super().__init__()
        bound = 1 / math.sqrt(hidden_size)
        self.weight_input = nn.Parameter(torch.empty(4 * hidden_size, num_inputs).uniform_(-bound, bound))
        self.weight_hidden = nn.Parameter(torch.empty(4 * hidden_size, hidden_size).uniform_(-bound, bound))
        bias = torch.zeros(4 * hidden_size)
        bias[hidden_size : 2 * hidden_size] = 1.0
        self.bias = nn.Parameter(bias)

    def weights(self, dtype: torch.dtype) -> LSTMWeights:
        return LSTMWeights(self.weight_input.to(dtype), self.weight_hidden.to(dtype), self.bias.to(dtype))
