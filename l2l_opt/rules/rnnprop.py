"""RNNProp: an LSTM that reads the two ratios Adam and RMSprop are made of, and writes a bounded update."""

from typing import Any

import torch
from torch import Tensor, nn

from l2l_opt.checks import check_fractions, check_positive_numbers
from l2l_opt.kernels import CompiledStep, number
from l2l_opt.rules.base import initial_step, register_rule
from l2l_opt.rules.features import bias_correction, moving_average
from l2l_opt.rules.recurrent import GradientRule, RecurrentBody, coordinates
from l2l_opt.types import Params, RuleState

LARGEST_EPS = 1e18


@register_rule("rnnprop")
class RNNProp(GradientRule):
    """``update = -output_scale * tanh(LSTM_phi(ELU(W [g / r, m / r] + b), h))`` with ``r = sqrt(v + eps^2)``.

    m and v are bias-corrected moving averages of g and g^2, so the rule does not see the scale of the loss.

    Args:
        hidden_size: units a layer, and of the dense layer before them.
        num_layers: LSTM layers.
        beta: decay of both moments, in [0, 1).
        output_scale: the parameters' unit; bound of one update.
        eps: in the gradient's unit; at most 1e18.

    State of a parameter:
        average, square_average: ``[1, *param.shape]``; hidden, cell: ``[num_layers * hidden_size, *param.shape]``.

    Raises:
        ValueError: a size that is not a positive integer, a beta outside [0, 1), an output_scale or eps not positive,
            an eps above 1e18.

    Source: arXiv 1703.03633, section 4.
    Differs from source: eps stands inside the root, so that second derivatives are finite at zero gradients.
    """

    moving_averages = ("average", "square_average")

    def __init__(
        self,
        *,
        hidden_size: int = 20,
        num_layers: int = 2,
        beta: float = 0.95,
        output_scale: float = 0.1,
        eps: float = 1e-8,
    ):
        super().__init__(hidden_size=hidden_size, num_layers=num_layers, beta=beta, output_scale=output_scale, eps=eps)
        check_fractions(0.95, beta=beta)
        check_positive_numbers(0.1, output_scale=output_scale)
        check_positive_numbers(1e-8, eps=eps)
        if eps > LARGEST_EPS:
            raise ValueError(f"eps must be at most {LARGEST_EPS:g}, so that eps^2 is a float32; got {eps!r}, use 1e-8")
        self.beta, self.output_scale, self.eps = float(beta), float(output_scale), float(eps)
        self.body = RecurrentBody(num_inputs=hidden_size, hidden_size=hidden_size, num_layers=num_layers)
        self.embedding = nn.Linear(2, hidden_size)

    def init_state(self, params: Params) -> RuleState:
        state: RuleState = {}
        for name, param in params.items():
            moments = {key: self.zeros(key, param, 1) for key in ("average", "square_average")}
            state[name] = {"step": initial_step(param)} | moments | self.recurrent_zeros(param)
        return state

    def features(self, gradient: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        steps = state["step"] + 1
        average = moving_average(state["average"].squeeze(0), gradient, beta=self.beta)
        square = moving_average(state["square_average"].squeeze(0), gradient * gradient, beta=self.beta)
        correction = bias_correction(steps, beta=self.beta, dtype=gradient.dtype)
        root = (square / correction + self.eps**2).sqrt()
        ratios = coordinates(torch.stack([gradient / root, average / correction / root]))
        dense = self.embedding.weight.to(ratios.dtype) @ ratios + self.embedding.bias.to(ratios.dtype).unsqueeze(1)
        inputs = nn.functional.elu(dense).reshape(dense.shape[0], *gradient.shape)
        return inputs, {"step": steps, "average": average.unsqueeze(0), "square_average": square.unsqueeze(0)}

    def output(self, output: Tensor) -> Tensor:
        return -self.output_scale * output.tanh()

    def compiled_step_of(self, phi: Params) -> CompiledStep:
        weights, biases = self.body.compiled(phi, "body")
        options = {"beta": self.beta, "eps_squared": self.eps**2, "output_scale": self.output_scale}
        arrays = {
            "biases": biases,
            "embedding_weight": phi["embedding.weight"],
            "embedding_bias": phi["embedding.bias"],
        }

        def given(state: dict[str, Tensor], _num_steps: Any) -> dict[str, Any]:
            step = number(state["step"])
            return {"over_correction": 1 / (1 - self.beta ** (step + 1)), "step": step}

        return CompiledStep("ratios", ("average", "square_average"), weights, options, arrays, given)
