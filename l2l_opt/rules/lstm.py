"""The rule of the original paper: a coordinatewise LSTM on log-sign gradients."""

import math

from torch import Tensor

from l2l_opt.checks import check_positive_numbers
from l2l_opt.kernels import CompiledStep
from l2l_opt.rules.base import initial_step, register_rule
from l2l_opt.rules.features import log_sign
from l2l_opt.rules.recurrent import GradientRule, RecurrentBody
from l2l_opt.types import Params, RuleState

LARGEST_P = 80


@register_rule("lstm")
class CoordinatewiseLSTM(GradientRule):
    """A small LSTM run on every coordinate: ``update_t, h_{t+1} = output_scale * LSTM_phi(log_sign(g_t), h_t)``.

    Without arguments it is the paper's: two layers of 20 units.

    Args:
        hidden_size: units a layer.
        num_layers: layers.
        p: range of the log-sign preprocessing: gradients below e^-p are treated as linear; at most 80.
        output_scale: the parameters' unit; the update for an LSTM output of one.

    State of a parameter:
        hidden, cell: ``[num_layers * hidden_size, *param.shape]``.

    Raises:
        ValueError: a size that is not a positive integer, a p or output_scale that is not positive, a p above 80.

    Source: arXiv 1606.04474, section 2.1 and appendix A.
    Differs from source: the paper leaves the output scale open; 0.1 suits networks in float32.
    """

    def __init__(self, *, hidden_size: int = 20, num_layers: int = 2, p: float = 10.0, output_scale: float = 0.1):
        super().__init__(hidden_size=hidden_size, num_layers=num_layers, p=p, output_scale=output_scale)
        check_positive_numbers(10, p=p)
        check_positive_numbers(0.1, output_scale=output_scale)
        if p > LARGEST_P:
            raise ValueError(f"p must be at most {LARGEST_P}, so that e^p is a float32; got {p!r}, use e.g. 10.0")
        self.p, self.output_scale = float(p), float(output_scale)
        self.body = RecurrentBody(num_inputs=2, hidden_size=hidden_size, num_layers=num_layers)

    def init_state(self, params: Params) -> RuleState:
        return {name: {"step": initial_step(param)} | self.recurrent_zeros(param) for name, param in params.items()}

    def features(self, gradient: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return log_sign(gradient, p=self.p), {"step": state["step"] + 1}

    def output(self, output: Tensor) -> Tensor:
        return self.output_scale * output

    def compiled_step_of(self, phi: Params) -> CompiledStep:
        weights, biases = self.body.compiled(phi, "body")
        options = {
            "p": self.p,
            "exp_minus_p": math.exp(-self.p),
            "exp_p": math.exp(self.p),
            "output_scale": self.output_scale,
        }
        return CompiledStep("log_sign", None, weights, options, {"biases": biases})
