"""A rule small enough for evolution strategies: 736 weights that choose among momenta and size the step."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from l2l_opt.checks import check_positive_integers, check_positive_numbers
from l2l_opt.kernels import CompiledStep, ReadoutWeights, bounded, fused_coordinatewise_lstm, number
from l2l_opt.rules.base import UpdateRule, initial_step, register_rule
from l2l_opt.rules.features import bias_correction, progress, safe_sqrt
from l2l_opt.rules.recurrent import LSTMLayer, coordinates
from l2l_opt.rules.sharded_sums import tensor_rms
from l2l_opt.types import Params, RuleState

BETAS = (0.5, 0.9, 0.99)
SQUARE_BETA = 0.99
EPS = 1e-8
SMALLEST_RMS = 1e-6
NUM_INPUTS = 6
NUM_CONTEXT = 7


@register_rule("compact")
class CompactRule(UpdateRule):
    """A small LSTM that chooses how long Adam averages and how far it goes, with a cosine over the run.

    With bias-corrected moments m_.5, m_.9, m_.99 of g and v of g^2 (decay .99), r = sqrt(v) + 1e-8 and f = t / T:

        x  = clip_5([g / r, m_.5 / r, m_.9 / r, m_.99 / r, p / rms(p)]), log(r / rms(r) + 1e-3)      a coordinate
        c  = f, f^2, sqrt f, tanh(t / 10 - 1), .3 log rms(p), 2 rms(m_.99 / r) - 1, 2 rms(m_.9 / r) - 1     a tensor
        (o_1, o_2), h' = LSTM_phi(x, h; biases moved by C c)
        b  = (1 + tanh o_1) / 2
        d  = clip_3(b^2 m_.5 / r + 2 b (1 - b) m_.9 / r + (1 - b)^2 m_.99 / r)
        R  = max(min(rms(p), growth rms(p_0)), floor)
        update = -output_scale (1 + cos(pi f)) / 2 min(sqrt(long_run / T), 1) R d exp(1.5 tanh o_2)

    Three bounds make it hold over horizons far beyond those of its meta-training. Steps in proportion to rms(p) alone
    let it grow exponentially, by chance even; from ``growth`` times the first rms on, R grows no more. d is always an
    average of past gradients, of a length that the network chooses: what it could add of its own, bounded even,
    pushes weights steadily one way once gradients are mostly noise, until the student diverges. And noise of one size
    carries weights sqrt(T) far, so beyond ``long_run`` steps its size falls as one over that.

    The read-out starts near zero, so that a fresh rule is Adam with a cosine, its momentum a mean of three. What a
    tensor's coordinates share enters through the biases and costs nothing a coordinate. Where num_steps is unknown f
    stays 0, no annealing, and T is t.

    Args:
        hidden_size: units of the one LSTM layer.
        output_scale: relative size of an update: dimensionless, of the tensor's root mean square.
        floor: least root mean square that a tensor is taken to have, in the parameters' unit.
        growth: of the first root mean square, up to which updates grow with it; dimensionless.
        long_run: steps of a run from which on updates are smaller the longer it is.

    State of a parameter:
        averages: ``[3, *param.shape]``; square_average: ``[1, *param.shape]``;
        hidden, cell: ``[hidden_size, *param.shape]``; first_rms: 0-dim, of the tensor before its first update.
        80 bytes a parameter in float32 with 8 units.

    Raises:
        ValueError: a size that is not a positive integer, an output_scale, floor, growth or long_run that is not
            positive.

    Source: normalised momenta at several time scales and magnitude as exp: arXiv 2203.11860, section 3.
    """

    betas: Tensor
    moving_averages = ("averages", "square_average")

    def __init__(
        self,
        *,
        hidden_size: int = 8,
        output_scale: float = 0.05,
        floor: float = 0.05,
        growth: float = 2.0,
        long_run: float = 2000,
    ):
        bounds = {"output_scale": output_scale, "floor": floor, "growth": growth, "long_run": long_run}
        super().__init__(hidden_size=hidden_size, **bounds)
        check_positive_integers(8, hidden_size=hidden_size)
        check_positive_numbers(0.05, **bounds)
        self.hidden_size, self.output_scale = hidden_size, float(output_scale)
        self.floor, self.growth, self.long_run = float(floor), float(growth), float(long_run)
        self.layer = LSTMLayer(NUM_INPUTS, hidden_size)
        self.context = nn.Linear(NUM_CONTEXT, 4 * hidden_size, bias=False)
        self.readout = nn.Linear(hidden_size, 2)
        self.readout_context = nn.Linear(NUM_CONTEXT, 2, bias=False)
        nn.init.zeros_(self.readout.bias)
        for linear in (self.readout, self.readout_context):
            nn.init.uniform_(linear.weight, -0.01, 0.01)
        self.register_buffer("betas", torch.tensor(BETAS, dtype=torch.float64), persistent=False)

    def init_state(self, params: Params) -> RuleState:
        sizes = {"averages": len(BETAS), "square_average": 1, "hidden": self.hidden_size, "cell": self.hidden_size}
        return {
            name: {"step": initial_step(param), "first_rms": tensor_rms(param.detach())}
            | {key: self.zeros(key, param, size) for key, size in sizes.items()}
            for name, param in params.items()
        }

    def forward(
        self, grads: Params, state: RuleState, params: Params, *, num_steps: Tensor | None = None
    ) -> tuple[Params, RuleState]:
        if not grads:
            return {}, {}
        dtype = next(iter(grads.values())).dtype
        features = {
            name: self._features(gradient, state[name], params[name], num_steps) for name, gradient in grads.items()
        }
        outputs, hidden, cell = fused_coordinatewise_lstm(
            [own.inputs for own in features.values()],
            [coordinates(state[name]["hidden"]) for name in grads],
            [coordinates(state[name]["cell"]) for name in grads],
            [self.layer.weights(dtype)],
            ReadoutWeights(self.readout.weight.to(dtype), self.readout.bias.to(dtype)),
            biases=[own.biases for own in features.values()],
        )
        updates: Params = {}
        next_state: RuleState = {}
        for (name, own), output, h, c in zip(features.items(), outputs, hidden, cell, strict=True):
            brief = (1 + output[0].tanh()) / 2
            shares = torch.stack([brief * brief, 2 * brief * (1 - brief), (1 - brief) * (1 - brief)])
            direction = (shares * own.momenta).sum(0).clamp(-3, 3)
            update = -own.size * direction * torch.exp(1.5 * output[1].tanh())
            shape = grads[name].shape
            updates[name] = update.reshape(shape)
            flat = {"averages": own.averages, "square_average": own.square, "hidden": h, "cell": c}
            next_state[name] = {"step": state[name]["step"] + 1, "first_rms": state[name]["first_rms"]} | {
                key: value.reshape(value.shape[0], *shape) for key, value in flat.items()
            }
        return updates, next_state

    def decay_schedule(self, progress: float) -> float:
        return (1 + math.cos(math.pi * progress)) / 2

    def compiled_step_of(self, phi: Params) -> CompiledStep:
        biases = torch.cat([phi["layer.bias"], phi["readout.bias"]], -1)
        context_weight = torch.cat([phi["context.weight"], phi["readout_context.weight"]], -2)
        betas = (*BETAS, SQUARE_BETA)
        options = {
            "eps": EPS,
            "smallest_rms": SMALLEST_RMS,
            "output_scale": self.output_scale,
            "floor": self.floor,
            "growth": self.growth,
        }
        arrays = {"biases": biases, "betas": betas, "context_weight": context_weight}
        weights = [phi["layer.weight_input"], phi["layer.weight_hidden"], phi["readout.weight"]]

        def given(state: dict[str, Tensor], num_steps: Any) -> dict[str, Any]:
            step = number(state["step"])
            run = step if num_steps is None else num_steps
            averages = ("over_brief", "over_middle", "over_slow", "over_square")
            return {name: 1 / (1 - beta ** (step + 1)) for name, beta in zip(averages, betas, strict=True)} | {
                "fraction": 0.0 if num_steps is None else bounded(step / num_steps, most=1.0),
                "step": step,
                "first_rms": number(state["first_rms"]),
                "shrinkage": (self.long_run / bounded(run, least=self.long_run)) ** 0.5,
            }

        return CompiledStep("residual", ("averages", "square_average"), weights, options, arrays, given)

    def _features(
        self, gradient: Tensor, state: dict[str, Tensor], param: Tensor, num_steps: Tensor | None
    ) -> "_Features":
        """Features of one tensor, and what the network's output will be applied to."""
        dtype = gradient.dtype
        g, p = gradient.reshape(1, -1), param.reshape(1, -1)
        steps = state["step"] + 1
        betas = self.betas.to(dtype).unsqueeze(1)
        averages = betas * coordinates(state["averages"]) + (1 - betas) * g
        square = SQUARE_BETA * coordinates(state["square_average"]) + (1 - SQUARE_BETA) * g * g
        corrections = -torch.expm1(steps.to(dtype) * betas.log())
        root = safe_sqrt(square / bias_correction(steps, beta=SQUARE_BETA, dtype=dtype)) + EPS
        momenta = averages / corrections / root
        rms = tensor_rms(p)
        inputs = torch.cat(
            [
                torch.cat([g / root, momenta, p / rms.clamp(min=SMALLEST_RMS)]).clamp(-5, 5),
                (root / tensor_rms(root).clamp(min=EPS) + 1e-3).log(),
            ]
        )
        fraction = progress(state["step"], num_steps, dtype=dtype)
        fraction = torch.zeros_like(rms) if fraction is None else fraction
        run = (state["step"] if num_steps is None else num_steps).to(dtype)
        shrinkage = (self.long_run / run.clamp(min=self.long_run)).sqrt()
        context = torch.stack(
            [
                fraction,
                fraction * fraction,
                fraction.sqrt(),
                torch.tanh(state["step"].to(dtype) / 10 - 1),
                0.3 * rms.clamp(min=SMALLEST_RMS).log(),
                2 * tensor_rms(momenta[2]) - 1,
                2 * tensor_rms(momenta[1]) - 1,
            ]
        )
        biases = torch.cat([self.layer.bias, self.readout.bias]).to(dtype)
        context_weights = torch.cat([self.context.weight, self.readout_context.weight]).to(dtype)
        reach = torch.minimum(rms, self.growth * state["first_rms"]).clamp(min=self.floor)
        return _Features(
            inputs=inputs,
            biases=biases + context_weights @ context,
            momenta=momenta,
            size=self.output_scale * (1 + torch.cos(math.pi * fraction)) / 2 * shrinkage * reach,
            averages=averages,
            square=square,
        )


class _Features(NamedTuple):
    """One tensor of N coordinates before the network.

    Attributes:
        inputs: ``[NUM_INPUTS, N]``.
        biases: ``[4 * hidden_size + 2]``, moved by what the tensor's coordinates share.
        momenta: ``[len(BETAS), N]``, averages of gradients over the root of their mean square.
        size: 0-dim, of an update of one.
        averages: ``[len(BETAS), N]``, the next.
        square: ``[1, N]``, the next.
    """

    inputs: Tensor
    biases: Tensor
    momenta: Tensor
    size: Tensor
    averages: Tensor
    square: Tensor
