"""A perceptron that chooses directions alone: its updates are of one size, which a schedule sets."""

import math

import torch
from torch import Tensor

from l2l_opt.checks import check_numbers, check_positive_numbers
from l2l_opt.kernels import CompiledPerceptron
from l2l_opt.rules.base import register_rule
from l2l_opt.rules.features import progress
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
from l2l_opt.rules.sharded_sums import whole_shape
from l2l_opt.types import Params

SQUARE_BETA = 0.95
EPS = 1e-8
RMS_EPS = 1e-9
MOST_GRADIENT = 1000.0
CLIPPED = 0.1
OF_MATRICES = ("rows", "columns", "over_rows", "over_columns", "factored_averages")
FEATURES = (
    "gradient",
    "clipped_gradient",
    "param",
    "averages",
    "square",
    "scaled_averages",
    "over_root",
    "factored_gradient",
    "scaled_gradient",
    *OF_MATRICES,
)
NUM_FEATURES = 30
BETAS = (*AVERAGE_BETAS, SQUARE_BETA, *FACTORED_BETAS)


@register_rule("celo2")
class Celo2(MomentRule):
    """A perceptron of two layers of 8 that points; how far to go is a cosine with a warm-up, one for all tensors.

    With g clipped to +-1000, averages m of g (three decays), v of g^2 (decay .95), and mean squares of g by row and by
    column (three decays), which make 30 features x_1, ..., x_30 of a weight: those of ``MLPRule``, clip_.1(g) and
    g / sqrt(v). Of vectors and scalars the 15 that are made of rows and columns, but for g F, are zero:

        x'_k = x_k / sqrt(1e-9 + mean(x_k^2) over the tensor);    d = perceptron_phi(x'_1, ..., x'_30)
        f' = (f - warm_up) / (1 - warm_up), at least 0
        s  = min((t + 1) / (warm_up T), 1) (1 + cos(pi f')) / 2;   1, T unknown
        update = -output_scale s d / sqrt(1e-9 + mean(d^2) over the tensor)

    What is learned has no clock, and no unit where gradients are far from the floors and the two clips: so it carries
    over to tensors, losses and horizons that meta-training never saw. The one number left to choose is
    ``output_scale``, as AdamW's learning rate: ``lr`` multiplies it. A tensor moves as far whatever its gradients are,
    weights without a gradient among them.

    Args:
        hidden_size: units of each hidden layer.
        num_layers: hidden layers.
        output_scale: root mean square of a tensor's update at the top of the schedule, in the parameters' unit.
        warm_up: share of a planned run over which updates grow from nothing, from 0 to .9.

    State of a parameter:
        averages: ``[3, *param.shape]``; square_average: ``[1, *param.shape]``; row_squares, column_squares: ``[3,
        *param.shape]`` with 1 for its longest and its next longest axis; of vectors row_squares alone, ``[3,
        *param.shape]``. 16 bytes a weight of a matrix in float32.

    Raises:
        ValueError: a size that is not a positive integer, an output_scale that is not positive, a warm_up out of range.

    Source: arXiv 2602.19142 (the variant celo2-base, which updates all tensors so and makes no matrix orthogonal).
    Differs from source: of 347 weights the 18 of two outputs that nothing reads are left out; features and updates of
    tensors with more than two axes are brought to a root mean square over all of them, not over the last two; see
    ``MLPRule`` for mean squares by row and by column.
    """

    betas: Tensor

    def __init__(
        self, *, hidden_size: int = 8, num_layers: int = 2, output_scale: float = 0.001, warm_up: float = 0.05
    ):
        super().__init__(hidden_size=hidden_size, num_layers=num_layers, output_scale=output_scale, warm_up=warm_up)
        check_positive_numbers(0.001, output_scale=output_scale)
        check_numbers(0, 0.9, warm_up=warm_up)
        self.output_scale, self.warm_up = float(output_scale), float(warm_up)
        self.network = Perceptron(
            num_inputs=NUM_FEATURES, hidden_size=hidden_size, num_layers=num_layers, num_outputs=1
        )
        self.register_buffer("betas", torch.tensor(BETAS, dtype=torch.float64), persistent=False)

    def update(
        self, gradient: Tensor, param: Tensor, state: dict[str, Tensor], num_steps: Tensor | None
    ) -> tuple[Tensor, Params]:
        gradient = gradient.clamp(-MOST_GRADIENT, MOST_GRADIENT)
        moments = next_moments(gradient, state, Decays.of(self.betas.to(gradient.dtype)))
        found = moment_features(gradient, param, moments, eps=EPS)
        found["clipped_gradient"] = found["gradient"].clamp(-CLIPPED, CLIPPED)
        found["scaled_gradient"] = found["gradient"] * found["over_root"]
        if factored_axes(whole_shape(gradient)) is None:
            found |= {key: torch.zeros_like(found[key]) for key in OF_MATRICES}
        features = torch.cat([coordinates(found[key]) for key in FEATURES])
        direction = self.network(features, scales=over_rms(features, eps=RMS_EPS))
        size = self.size(state["step"], num_steps, dtype=gradient.dtype) * over_rms(direction, eps=RMS_EPS)
        return -size * direction[0], moments

    def compiled_step_of(self, phi: Params) -> CompiledPerceptron:
        options = {"eps": EPS, "input_eps": RMS_EPS, "output_scale": self.output_scale, "magnitude_scale": 0.0}
        options |= {"most_gradient": MOST_GRADIENT, "clipped": CLIPPED, "warm_up": self.warm_up}
        return CompiledPerceptron(
            "celo2", self.network.weights_of(phi, "network"), self.betas, self.betas[:0], options, factored_axes
        )

    def size(self, step: Tensor, num_steps: Tensor | None, *, dtype: torch.dtype) -> Tensor:
        """Return the root mean square of updates, 0-dim.

        Args:
            step: 0-dim, updates already applied.
            num_steps: 0-dim, planned updates; None where unknown.
            dtype: of the result.
        """
        fraction = progress(step, num_steps, dtype=dtype)
        if fraction is None or num_steps is None:
            return torch.full_like(step, self.output_scale, dtype=dtype)
        begun = (step.to(dtype) + 1) / (self.warm_up * num_steps.to(dtype)).clamp(min=1)
        rest = ((fraction - self.warm_up) / (1 - self.warm_up)).clamp(min=0)
        return self.output_scale * begun.clamp(max=1) * (1 + torch.cos(math.pi * rest)) / 2

    def decay_schedule(self, progress: float) -> float:
        return (1 + math.cos(math.pi * max((progress - self.warm_up) / (1 - self.warm_up), 0))) / 2
