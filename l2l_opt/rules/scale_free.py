"""A rule with nothing to tune: every number that it reads or writes is relative to what the tensor itself has shown."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from l2l_opt.kernels import CompiledStep, ReadoutWeights, fused_coordinatewise_lstm
from l2l_opt.rules.base import UpdateRule, initial_step, register_rule
from l2l_opt.rules.features import (
    bias_correction,
    is_sharded,
    progress,
    safe_sqrt,
    shard_sum,
    tensor_rms,
    tensor_sum,
    whole_shape,
)
from l2l_opt.rules.recurrent import LSTMLayer, coordinates
from l2l_opt.types import Params, RuleState

BETAS = (0.5, 0.9, 0.99)
SQUARE_BETA = 0.99
AGREEMENT_BETAS = (0.8, 0.97)
GRADIENT_BETA = 0.9
TINY = 1e-16
RELATIVE_EPS = 1e-4
"""Of the tensor's root mean square gradient; what is smaller is taken for noise."""
NUM_INPUTS = 6
NUM_CONTEXT = 16
NUM_OUTPUTS = 3
NUM_CHOICES = 3
WHITENED_RMS = 0.3
NEWTON_SCHULZ = ((8.1577, -23.7498, 17.5250), (3.0885, -2.2410, 0.4313), (3.1036, -2.9782, 0.8888))
"""Of three steps s <- a s + b s^3 + c s^5 that take singular values from .002 to 1 nearest to one: least mean (s - 1)^2
over their logarithm."""


@register_rule("scale-free")
class ScaleFreeRule(UpdateRule):
    """A small LSTM a coordinate and a small network a tensor, which choose direction and length of Adam's step.

    With bias-corrected moments m_.5, m_.9, m_.99 of g and v of g^2 (decay .99), and f = t / T,
    r = sqrt(v) + 1e-4 of the usual rms(g) of the tensor:

        x = clip_5([g / r, m_.5 / r, m_.9 / r, m_.99 / r, p / rms(p)]), log(r / rms(r) + 1e-3)      a coordinate
        c = what the tensor shows (``_context``)                                                    a tensor
        (beta, o', z, w', kappa') = A tanh(B c);   w = sigmoid(w' + 2), kappa = sigmoid(kappa' +- 2)
        (o_1, o_2, o_3), h' = LSTM_phi(x, h; biases moved by beta and o')
        b = (1 + tanh o_1) / 2
        d = clip_3((b^2 m_.5 + 2 b (1 - b) m_.9 + (1 - b)^2 m_.99 + tanh(o_3) (m_.5 - m_.99)) / r)
        e = d (r / rms(r))^kappa exp(1.5 tanh o_2)
        u = e of vectors, (1 - w) e + w .3 sqrt(max(m, n)) whitened(e) of matrices [m, n]
        R = rms(p), within a factor ``growth`` of rms(p_0); of tensors that started at zero ``zero_scale`` (vectors)
            or 1 / sqrt(3 n)
        update = -output_scale (1 + cos(pi f)) / 2 min(sqrt(long_run / T), 1) R exp(3 tanh(z / 3)) u

    Scale-free: multiplying the loss, or reparametrising a tensor that does not start at zero, by any factor changes
    nothing that the network sees and multiplies updates as it does params.
    """

    betas: Tensor

    def __init__(
        self,
        *,
        hidden_size: int = 8,
        tensor_size: int = 16,
        output_scale: float = 0.15,
        zero_scale: float = 0.1,
        growth: float = 2.0,
        long_run: float = 2000,
    ):
        bounds = {"output_scale": output_scale, "zero_scale": zero_scale, "growth": growth, "long_run": long_run}
        super().__init__(hidden_size=hidden_size, tensor_size=tensor_size, **bounds)
        for key, value in {"hidden_size": hidden_size, "tensor_size": tensor_size}.items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{key} must be a positive integer; got {value!r}, use e.g. 8")
        for key, value in bounds.items():
            if not (isinstance(value, (int, float)) and 0 < value < math.inf):
                raise ValueError(f"{key} must be a positive number; got {value!r}, use e.g. 0.05")
        self.hidden_size, self.output_scale, self.zero_scale = hidden_size, float(output_scale), float(zero_scale)
        self.growth, self.long_run = float(growth), float(long_run)
        self.layer = LSTMLayer(NUM_INPUTS, hidden_size)
        self.readout = nn.Linear(hidden_size, NUM_OUTPUTS)
        self.tensor_layer = nn.Linear(NUM_CONTEXT, tensor_size)
        self.tensor_readout = nn.Linear(tensor_size, 4 * hidden_size + NUM_OUTPUTS + NUM_CHOICES)
        nn.init.zeros_(self.readout.bias)
        nn.init.zeros_(self.tensor_readout.bias)
        for linear in (self.readout, self.tensor_readout):
            nn.init.uniform_(linear.weight, -0.01, 0.01)
        self.register_buffer("betas", torch.tensor(BETAS, dtype=torch.float64), persistent=False)

    def init_state(self, params: Params) -> RuleState:
        sizes = {"averages": len(BETAS), "square_average": 1, "hidden": self.hidden_size, "cell": self.hidden_size}
        scalars = ("agreement_fast", "agreement_slow", "first_gradient", "gradient")
        return {
            name: {"step": initial_step(param), "first_rms": tensor_rms(param.detach())}
            | {key: param.new_zeros(()) for key in scalars}
            | {key: param.new_zeros(size, *param.shape) for key, size in sizes.items()}
            for name, param in params.items()
        }

    def forward(
        self, grads: Params, state: RuleState, params: Params, *, num_steps: Tensor | None = None
    ) -> tuple[Params, RuleState]:
        if not grads:
            return {}, {}
        dtype = next(iter(grads.values())).dtype
        shapes = {name: whole_shape(gradient) for name, gradient in grads.items()}
        looks = {name: self._look(gradient, state[name], params[name]) for name, gradient in grads.items()}
        contexts, sizes, memories = self._contexts(looks, state, shapes, num_steps)
        shared = self.tensor_readout(torch.tanh(self.tensor_layer(contexts.to(self.readout.weight.dtype)))).to(dtype)
        biases = torch.cat([self.layer.bias, self.readout.bias]).to(dtype) + shared[:, :-NUM_CHOICES]
        size, blend, power = shared[:, -NUM_CHOICES:].unbind(1)
        matrix = torch.stack([size.new_tensor(float(_is_matrix(shapes[name]))) for name in looks])
        sizes = sizes * torch.exp(3 * torch.tanh(size / 3))
        blends = matrix * torch.sigmoid(blend + 2)
        powers = torch.sigmoid(power + 4 * matrix - 2)
        outputs, hidden, cell = fused_coordinatewise_lstm(
            [look.inputs for look in looks.values()],
            [coordinates(state[name]["hidden"]) for name in grads],
            [coordinates(state[name]["cell"]) for name in grads],
            [self.layer.weights(dtype)],
            ReadoutWeights(self.readout.weight.to(dtype), self.readout.bias.to(dtype)),
            biases=list(biases.unbind(0)),
        )
        updates: Params = {}
        next_state: RuleState = {}
        for index, (name, look) in enumerate(looks.items()):
            bounded = outputs[index].tanh()
            brief = (1 + bounded[0]) / 2
            lasting = 1 - brief
            shares = torch.stack([brief * brief + bounded[2], 2 * brief * lasting, lasting * lasting - bounded[2]])
            direction = (shares * look.momenta).sum(0).clamp(-3, 3)
            direction = direction * torch.exp(powers[index] * look.log_root + 1.5 * bounded[1])
            shape = grads[name].shape
            updates[name] = _finish(direction.reshape(shape), sizes[index], blends[index], shapes[name])
            flat = {
                "averages": look.averages,
                "square_average": look.square,
                "hidden": hidden[index],
                "cell": cell[index],
            }
            next_state[name] = (
                {"step": state[name]["step"] + 1, "first_rms": state[name]["first_rms"]}
                | {key: value[index] for key, value in memories.items()}
                | {key: value.reshape(value.shape[0], *shape) for key, value in flat.items()}
            )
        return updates, next_state

    def compiled_step(self) -> CompiledStep:
        return self.compiled_step_of(dict(self.named_parameters()))

    def compiled_step_of(self, phi: Params) -> CompiledStep:
        biases = torch.cat([phi["layer.bias"], phi["readout.bias"]], -1)
        own = biases.new_tensor(
            [
                *(*BETAS, SQUARE_BETA, TINY, self.output_scale, RELATIVE_EPS, self.growth, self.long_run),
                *(*AGREEMENT_BETAS, GRADIENT_BETA, self.tensor_layer.out_features),
            ]
        )
        parts = [
            own.expand(*biases.shape[:-1], -1),
            biases,
            phi["tensor_layer.weight"].flatten(-2),
            phi["tensor_layer.bias"],
            phi["tensor_readout.weight"].flatten(-2),
            phi["tensor_readout.bias"],
        ]
        weights = [phi["layer.weight_input"], phi["layer.weight_hidden"], phi["readout.weight"]]

        def numbers(state: dict[str, Tensor], num_steps: Any) -> list[Any]:
            step = state["step"]
            shape = state["square_average"].shape[1 + step.dim() :]
            known = -1.0 if num_steps is None else num_steps
            own = [known, float(shape[0] if _is_matrix(shape) else 0), self._natural(shape)]
            return [torch.as_tensor(each).expand_as(step) for each in own] if step.dim() else own

        return CompiledStep(
            "scale_free",
            ("averages", "square_average"),
            weights,
            biases,
            torch.cat(parts, -1),
            numbers,
            ("first_rms", "agreement_fast", "agreement_slow", "first_gradient", "gradient", "step"),
            lambda directions, size, share: _finish(directions, size, share, directions.shape[1:]),
            (WHITENED_RMS, *(number for step in NEWTON_SCHULZ for number in step)),
        )

    def _natural(self, shape: Sequence[int]) -> float:
        """The root mean square that a tensor is taken to have which started at zero."""
        return (3 * math.prod(shape[1:])) ** -0.5 if _is_matrix(shape) else self.zero_scale

    def _look(self, gradient: Tensor, state: dict[str, Tensor], param: Tensor) -> "_Look":
        """What the network sees of one tensor's coordinates, and sums over them."""
        dtype = gradient.dtype
        g, p = gradient.reshape(1, -1), param.reshape(1, -1)
        steps = state["step"] + 1
        betas = self.betas.to(dtype).unsqueeze(1)
        before = coordinates(state["averages"])
        averages = betas * before + (1 - betas) * g
        square = SQUARE_BETA * coordinates(state["square_average"]) + (1 - SQUARE_BETA) * g * g
        masses = -torch.expm1(steps.to(dtype) * betas.log())
        rms_g = safe_sqrt(tensor_sum(g * g) / tensor_sum(torch.ones_like(g)).clamp(min=1)).clamp(min=TINY)
        usual = torch.where(state["step"] == 0, rms_g, state["gradient"].to(dtype).exp())
        root = safe_sqrt(square / bias_correction(steps, beta=SQUARE_BETA, dtype=dtype)) + RELATIVE_EPS * usual
        momenta = averages / masses / root
        ratio, past = g / root, before[1:2] / root
        sums = torch.stack(
            [
                tensor_sum(torch.ones_like(p)),
                tensor_sum(p * p),
                tensor_sum(root * root),
                tensor_sum(momenta[1] * momenta[1]),
                tensor_sum(momenta[2] * momenta[2]),
                tensor_sum(ratio * ratio),
                tensor_sum(past * past),
                tensor_sum(ratio * past),
                tensor_sum(g * g),
            ]
        )
        rms = safe_sqrt(sums[1:3] / sums[0].clamp(min=1))
        inputs = torch.cat(
            [
                torch.cat([ratio, momenta, p / rms[0].clamp(min=TINY)]).clamp(-5, 5),
                (root / rms[1].clamp(min=TINY) + 1e-3).log(),
            ]
        )
        log_root = inputs[5].clamp(max=3)
        return _Look(inputs, momenta, log_root, averages, square, sums)

    def _contexts(
        self, looks: dict[str, "_Look"], state: RuleState, shapes: dict[str, tuple[int, ...]], num_steps: Tensor | None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """What the network is told of each tensor ``[tensors, NUM_CONTEXT]``, sizes ``[tensors]``, next memories."""
        names = list(looks)
        sums = torch.stack([looks[name].sums for name in names], 1)
        dtype = sums.dtype

        def of(key: str) -> Tensor:
            return torch.stack([state[name][key] for name in names]).to(dtype)

        count = sums[0].clamp(min=1)
        rms_p, _, rms_middle, rms_slow = safe_sqrt(sums[1:5] / count)
        rms_g = safe_sqrt(sums[8] / count)
        norms = safe_sqrt(sums[5]) * safe_sqrt(sums[6])
        agreement = torch.where(norms > 0, sums[7] / torch.where(norms > 0, norms, 1.0), 0.0)
        step, first_rms = of("step"), of("first_rms")
        log_g = rms_g.clamp(min=TINY).log()
        first = torch.where(step == 0, log_g, of("first_gradient"))
        gradient = torch.where(step == 0, log_g, of("gradient") + (1 - GRADIENT_BETA) * (log_g - of("gradient")))
        fast, slow = (
            of(f"agreement_{name}") + (1 - beta) * (agreement - of(f"agreement_{name}"))
            for name, beta in zip(("fast", "slow"), AGREEMENT_BETAS, strict=True)
        )
        zero = (first_rms == 0).to(dtype)
        fraction = progress(step, num_steps, dtype=dtype)
        known = torch.zeros_like(step) if fraction is None else torch.ones_like(step)
        fraction = torch.zeros_like(step) if fraction is None else fraction
        run = step if num_steps is None else num_steps.to(dtype).expand_as(step)
        growth = torch.where(zero > 0, 0.0, (rms_p / torch.where(zero > 0, 1.0, first_rms)).clamp(min=1e-2).log())
        vector = torch.stack([torch.full_like(first_rms[0], float(not _is_matrix(shapes[name]))) for name in names])
        natural = torch.stack([torch.full_like(first_rms[0], self._natural(shapes[name])) for name in names])
        context = torch.stack(
            [
                fraction,
                fraction * fraction,
                fraction.sqrt(),
                torch.tanh(step / 10 - 1),
                (run / 500).clamp(0.1, 10).log() / 2 * known,
                known,
                growth.clamp(-2, 2),
                zero,
                vector,
                (count.log() / 5 - 1).clamp(-1, 2),
                2 * rms_slow - 1,
                2 * rms_middle - 1,
                2 * fast / (1 - AGREEMENT_BETAS[0] ** (step + 1)),
                4 * slow / (1 - AGREEMENT_BETAS[1] ** (step + 1)),
                ((gradient - first) / 2).clamp(-3, 1),
                (log_g - gradient).clamp(-2, 2),
            ],
            dim=1,
        )
        reach = torch.where(
            zero > 0, natural, torch.minimum(torch.maximum(rms_p, first_rms / self.growth), self.growth * first_rms)
        )
        shrinkage = (self.long_run / run.clamp(min=self.long_run)).sqrt()
        size = self.output_scale * (1 + torch.cos(math.pi * fraction)) / 2 * shrinkage * reach
        memories = {"agreement_fast": fast, "agreement_slow": slow, "first_gradient": first, "gradient": gradient}
        return context, size, memories


class _Look(NamedTuple):
    inputs: Tensor
    momenta: Tensor
    log_root: Tensor
    averages: Tensor
    square: Tensor
    sums: Tensor


def _finish(direction: Tensor, size: Tensor, share: Tensor, shape: Sequence[int]) -> Tensor:
    """Updates of directions ``[..., *shape]``, of which a share is whitened where they are matrices.

    Args:
        direction: of one tensor, or with a leading axis of particles; of a sharded one, this device's rows.
        size: of an update of one, ``[...]``.
        share: of what is whitened, ``[...]``.
        shape: of the whole tensor.
    """
    if not _is_matrix(shape):
        return direction * -size[(..., *[None] * len(shape))]
    rows = direction.flatten(size.dim() + 1)
    even = whitened(rows) * (WHITENED_RMS * max(shape[0], math.prod(shape[1:])) ** 0.5)
    mixed = rows + share[..., None, None] * (even - rows)
    return (mixed * -size[..., None, None]).reshape(direction.shape)


def _is_matrix(shape: Sequence[int]) -> bool:
    return len(shape) > 1 and shape[0] > 1 and math.prod(shape[1:]) > 1


def whitened(matrix: Tensor) -> Tensor:
    """Matrices ``[..., m, n]`` with all singular values near one, by the iteration of Newton and Schulz.

    It runs on the Gram matrix of the shorter side, of which the result is a polynomial times the matrix: the same as
    iterating the matrix itself, for fewer operations.

    Source: Muon (Jordan et al., 2024); coefficients that differ from step to step: arXiv 2505.16932.
    """
    # Of a sharded matrix some rows lie here: sums over rows can be had, products of rows cannot.
    tall = is_sharded() or matrix.shape[-2] > matrix.shape[-1]
    wide = matrix.mT if tall else matrix
    gram = shard_sum(wide @ wide.mT)
    square = gram.diagonal(dim1=-2, dim2=-1).sum(-1).clamp(min=1e-8)[..., None, None]
    gram = gram / square
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    total = eye
    for step, (a, b, c) in enumerate(NEWTON_SCHULZ):
        factor = a * eye + b * gram + c * (gram @ gram)
        total = factor @ total if step else factor
        if step + 1 < len(NEWTON_SCHULZ):
            gram = factor @ gram @ factor
    result = (total / square.sqrt()) @ wide
    return result.mT if tall else result
