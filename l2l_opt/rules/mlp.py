"""The perceptron of two small layers that much of the field meta-trains."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from l2l_opt.checks import check_positive_numbers
from l2l_opt.kernels import CompiledPerceptron
from l2l_opt.rules.base import register_rule
from l2l_opt.rules.features import TIMESCALES, time_features
from l2l_opt.rules.moments import (
    AVERAGE_BETAS,
    FACTORED_BETAS,
    Decays,
    MomentRule,
    factored_axes,
    moment_features,
    next_moments,
)
from l2l_opt.rules.perceptron import Perceptron, over_rms
from l2l_opt.rules.recurrent import coordinates
from l2l_opt.types import Params

SQUARE_BETA = 0.999
EPS = 1e-6
INPUT_EPS = 1e-5
NUM_FEATURES, NUM_TIMES = 28, 11


@register_rule("mlp")
class MLPRule(MomentRule):
    """A small perceptron at every weight, which reads the moments of Adam and Adafactor and the clock.

    With averages m of g (three decays), v of g^2, and mean squares of g by row and by column (three decays), which
    make 28 features x_1, ..., x_28 of a weight (``moments.moment_features``):

        x'_k = x_k / sqrt(1e-5 + mean(x_k^2) over the tensor);    u_j = tanh(t / s_j - 1), s = 1, 3, 10, ..., 10^5
        (d, s) = perceptron_phi(x'_1, ..., x'_28, u_1, ..., u_11)
        update = -output_scale d exp(magnitude_scale s)
        decay of a moment = 1 - (1 - its usual one) exp(10 offset_phi), from 0 to 1

    The features show where plain, normalised and factored gradients point, over which time; the perceptron weighs
    them. It has no memory of its own, so the state is that of its moments, and what a step costs is two small matrix
    products a weight. How large steps are is learned too, in absolute units and by the step: the rule does what it was
    meta-trained for, over horizons like those of its meta-training.

    Args:
        hidden_size: units of each hidden layer; 4 is the small one of the source, 197 weights in all, 32 that of muLO.
        num_layers: hidden layers.
        output_scale: of an update, in the parameters' unit.
        magnitude_scale: dimensionless, of the logarithm of an update's size.

    State of a parameter:
        averages: ``[3, *param.shape]``; square_average: ``[1, *param.shape]``; row_squares, column_squares: ``[3,
        *param.shape]`` with 1 for its longest and its next longest axis; of vectors row_squares alone, ``[3,
        *param.shape]``. 16 bytes a weight of a matrix in float32.

    Raises:
        ValueError: a size that is not a positive integer, a scale that is not positive.

    Source: arXiv 2203.11860, section 3 and appendix (small_fc); decays that are learned likewise.
    Differs from source: mean squares by row and by column keep the axes that they have lost, as 1, so that they are
    states like others; of axes equally long the last counts as the longest. Decays of averages are kept from 0 to 1
    too. The network's first layer is applied to features times their scales, which is the same but for rounding.
    """

    usual: Tensor
    timescales: Tensor

    def __init__(
        self,
        *,
        hidden_size: int = 4,
        num_layers: int = 2,
        output_scale: float = 0.001,
        magnitude_scale: float = 0.001,
    ):
        scales = {"output_scale": output_scale, "magnitude_scale": magnitude_scale}
        super().__init__(hidden_size=hidden_size, num_layers=num_layers, **scales)
        check_positive_numbers(0.001, **scales)
        self.output_scale, self.magnitude_scale = float(output_scale), float(magnitude_scale)
        self.network = Perceptron(
            num_inputs=NUM_FEATURES + NUM_TIMES, hidden_size=hidden_size, num_layers=num_layers, num_outputs=2
        )
        self.average_offsets = nn.Parameter(torch.zeros(len(AVERAGE_BETAS)))
        self.square_offsets = nn.Parameter(torch.zeros(1))
        self.factored_offsets = nn.Parameter(torch.zeros(len(FACTORED_BETAS)))
        usual = [math.log(1 - beta) for beta in (*AVERAGE_BETAS, SQUARE_BETA, *FACTORED_BETAS)]
        self.register_buffer("usual", torch.tensor(usual, dtype=torch.float64), persistent=False)
        self.register_buffer("timescales", torch.tensor(TIMESCALES, dtype=torch.float64), persistent=False)

    def update(
        self, gradient: Tensor, param: Tensor, state: dict[str, Tensor], num_steps: Tensor | None
    ) -> tuple[Tensor, Params]:
        betas = self.betas([self.average_offsets, self.square_offsets, self.factored_offsets], gradient.dtype)
        moments = next_moments(gradient, state, Decays.of(betas))
        found = moment_features(gradient, param, moments, eps=EPS)
        features = torch.cat([coordinates(feature) for feature in found.values()])
        times = time_features(state["step"], self.timescales.to(gradient.dtype))
        direction, magnitude = self.network(features, scales=over_rms(features, eps=INPUT_EPS), shared=times)
        return -self.output_scale * direction * torch.exp(self.magnitude_scale * magnitude), moments

    def compiled_step_of(self, phi: Params) -> CompiledPerceptron:
        offsets = [phi[name] for name in ("average_offsets", "square_offsets", "factored_offsets")]
        betas = self.betas(offsets, torch.float32).detach()
        options = {"eps": EPS, "input_eps": INPUT_EPS, "output_scale": self.output_scale}
        options |= {"magnitude_scale": self.magnitude_scale, "most_gradient": 0.0, "clipped": 0.0, "warm_up": 0.0}
        return CompiledPerceptron(
            "mlp", self.network.weights_of(phi, "network"), betas, self.timescales, options, factored_axes
        )

    def betas(self, offsets: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """Return the decays of averages, squares, rows and columns, ``[..., 7]``, moved from their usual ones."""
        return 1 - torch.exp(self.usual.to(dtype) + 10 * torch.cat(list(offsets), -1).to(dtype)).clamp(max=1)
