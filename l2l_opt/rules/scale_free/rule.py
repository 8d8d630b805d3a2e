"""A rule with nothing to tune: every number that it reads or writes is relative to what the tensor itself has shown."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from l2l_opt.checks import check_numbers, check_positive_integers, check_positive_numbers
from l2l_opt.kernels import CompiledStep, ReadoutWeights, fused_coordinatewise_lstm
from l2l_opt.rules.base import UpdateRule, initial_step, register_rule
from l2l_opt.rules.recurrent import LSTMLayer, coordinates
from l2l_opt.rules.scale_free.compiled import arrays_of, options_of
from l2l_opt.rules.scale_free.features import (
    BETAS,
    LEAST_LOG_STEP_SCALE,
    NUM_CONTEXT,
    NUM_INPUTS,
    TENSOR_SCALARS,
    CoordinateFeatures,
    context_of,
    coordinate_features,
)
from l2l_opt.rules.scale_free.law import (
    StepLaw,
    random_walk_variance,
    sizes_of,
)
from l2l_opt.rules.scale_free.whitening import is_matrix, updates_of
from l2l_opt.rules.sharded_sums import tensor_rms, whole_shape
from l2l_opt.types import Params, RuleState

NUM_OUTPUTS = 3
NUM_HEADS = 6
"""Of a tensor: what is added to outputs of its coordinates; the size of its steps, share of whitening, power of r."""
HEAD_SCALES = (1.0, 1.0, 0.2, 1.0, 4.0, 4.0)
"""What heads are multiplied by, so that noise on their weights moves the loss alike through each of them: otherwise
what one head does to the loss drowns what evolution could learn of the others."""
BRIEF = 0.4
"""o'_1 of a fresh rule: averages are brief rather than lasting, b = .69."""
MOST_UNITS = 64
"""Of the tensor's network, which runs once a tensor and step and is to cost next to nothing."""


@register_rule("scale-free")
class ScaleFreeRule(UpdateRule):
    """A small gated network a coordinate and one a tensor, which choose direction and length of Adam's step.

    With bias-corrected moments m_.5, m_.9, m_.99 of g and v of g^2 (decay .99), f = t / T, and
    r = sqrt(v) + 1e-4 of the usual rms(g) of the tensor:

        x = clip_5([g / r, m_.5 / r, m_.9 / r, m_.99 / r, p / rms(p)]), log(r / rms(r) + 1e-3)      a coordinate
        c = what the tensor shows, below                                                            a tensor
        (beta, o', z, w', kappa') = (A; S C) tanh(B c);   w = sigmoid(w' + 3.6), kappa = sigmoid(kappa' +- 2)
        (o_1, o_2, o_3), h' = LSTM_phi(x, h; biases moved by beta and o');   h = 0 unless ``recurrent``
        b = (1 + tanh o_1) / 2
        d = clip_3((b^2 m_.5 + 2 b (1 - b) m_.9 + (1 - b)^2 m_.99 + tanh(o_3) (m_.5 - m_.99)) / r)
        e = d min(r / rms(r) + 1e-3, e^3)^kappa exp(1.5 tanh o_2)
        u = e of vectors, (1 - w) e + w .3 sqrt(max(m, n)) whitened(e) of matrices [m, n]
        N = ``zero_scale`` (vectors) or 1 / sqrt(3 n), as nn.Linear would have drawn them (matrices)
        R_0 = max(rms(p_0), ``natural_share`` N);   G = sqrt(max(rms(p)^2 - W, 0)), at least rms(p_0) / 2
        R = R_0 min((G / R_0)^growth_power, max(``growth`` j, 2)) above R_0;   below, with G' = max(G, rms(p_0)),
            R = R_0 (G' / R_0)^``small_power`` G / G'; vectors that started at zero have ``zero_start`` N for
            rms(p_0), and no less than it for G; matrices that did R = N throughout
        length_scale = min(sqrt(usual_run / T), ``largest_scale``), or 1, T unknown
        s = max((1 - f) / (1 + steepness f), .01) length_scale, or (1 + t / 100)^-1.25, T unknown
        a = cos(g / r, m_.9 before / r) + .05
        q = q before + length_scale .7 a where a > 0, + length_scale ``step_scale_fall`` min(c + ``fall_margin``, 0)
            elsewhere, c = a - .05;   -8 <= q <= 0
        k = min(usual rms(g) / (e^-2 first rms(g)), 1)^braking;   y = min(T / ``cautious_run``, 1), or 1, T unknown
        j = average (decay .8) of (coordinates with g not 0) / (coordinates with v not 0), at least .1;
            it does not fall after 20 steps
        S = output_scale s R exp(3 tanh(z / 3) + y q) k / j;   W = W before + .6 j S^2 (vectors), + .27 j S^2 (matrices)
        update = -S u

    Multiplying the loss by any factor changes nothing; reparametrising a tensor that does not start at zero by any
    factor multiplies its updates by it; to the last bit, where the factor is a power of two. So one set of weights
    serves losses and layers of any scale, with no learning rate. Matrices have kappa near .9 and w near .97 at first:
    coordinates get back the proportions of the gradient before singular values are made even; vectors have kappa
    near .1, Adam's step. The read-outs start near zero, so that a fresh rule is that. The bounds of ``CompactRule``
    hold it over long runs. Where num_steps is unknown f stays 0.

    How far a student can be moved before its gradients are about something else no scale of its own shows: layers with
    a factor of 30 within them want steps a thirtieth of others'. So the scale of steps, exp(q), starts at
    exp(-caution), rises while gradients agree with those before, and falls where they plainly oppose each other, since
    steps overshoot; noise alone opposes them a little. In runs too short for that it starts higher.

    How far a tensor may go follows what its gradients keep asking for and not where it started: one that starts far
    smaller than nn.Linear would have drawn it, as embeddings, GPT's weights and heads of policies do, takes steps that
    are larger than its own size asks for, up to half of that, and grows with the ``growth_power`` of its size above: a
    power of 1 lets all tensors run away together in the first steps.

    Where gradients have come down to less than a seventh of the first ones, the data are all but learned; longer
    steps would only make the network surer of itself, up to logits of thousands. So steps then become smaller with
    gradients (k), as those of gradient descent do.

    A row of an embedding that a share j of the batches reaches has moments of sqrt(j) times what they would be, over
    r, and has j T steps to learn in, for which sizes go with 1 / sqrt(j), as they do with 1 / sqrt(T) above: hence the
    1 / j, and growth only up to where both together are ``growth``. Coordinates that never had a gradient, as behind
    inputs that are always zero, do not count, nor do units that fall silent after the first steps.

    Biases that start at zero beside small weights must not run ahead of them, or units fall silent before the weights
    have begun to move: so a vector of zeros starts with a share of what is natural to it, and grows as others do. A
    matrix of zeros hides the layers behind it from their gradients until it has grown, so it has all of it at once.

    Noise alone moves a tensor too, and ever further from where it began; steps that grew with that would grow without
    end. So what a random walk of the steps so far would have given it, the mean square W, does not count as its size;
    what is left is how far gradients have taken it on purpose, which may be far: a linear classifier's weights want to
    become thirty times what they were.

    What a tensor shows, c, is known without what any other has, and moves nothing by its scale:

    ===========================================  ============  ========================================================
    feature                                      range         shows
    ===========================================  ============  ========================================================
    f, f^2, sqrt f                               0 to 1        how much of the run is over
    tanh(t / 10 - 1)                             -.8 to 1      that averages are young
    log(T / 500) / 2, of T 50 to 5000            -1.2 to 1.2   how long the run is; 0 where unknown
    num_steps known                              0 or 1        whether f means anything
    log(rms(p) / rms(p_0))                       -2 to 2       that the tensor has outgrown its beginning
    started at zero                              0 or 1        that its own size means nothing
    vector                                       0 or 1        that nothing is whitened
    log(count) / 5 - 1                           -1 to 2       how much noise sums over it average away
    2 rms(m_.99 / r) - 1, 2 rms(m_.9 / r) - 1    -1 to 1, 3.7  signal to noise: -.8 and -.5 for noise alone
    2, 4 averages (decay .8, .97) of             -2 to 2,      whether steps are too short (> 0) or overshoot (< 0):
    cos(g / r, m_.9 before / r)                  -4 to 4       what a hypergradient would change the rate by
    (log usual rms(g) - log first rms(g)) / 2    -3 to 1       how far training has come
    log rms(g) - log usual rms(g)                -2 to 2       a gradient that is out of the ordinary
    ===========================================  ============  ========================================================

    The usual rms(g) is the exponential of the average (decay .9) of log rms(g).

    Args:
        hidden_size: units of the one LSTM layer.
        tensor_size: units of the tensor's network, at most 64.
        output_scale: relative size of an update: dimensionless, of the tensor's root mean square.
        zero_scale: root mean square that a vector which started at zero would have had, in the parameters' unit.
        zero_start: of the natural size N, what a vector that started at zero has at first; dimensionless. 0 for N at
            once and for good, as of matrices.
        growth: factor above R_0 up to which updates grow with a tensor all of whose coordinates are touched; below the
            first root mean square they shrink by 2 at most, or by this if that is less.
        growth_power: of its size above R_0, with which a tensor's updates grow.
        small_power: of its size between the first one and R_0, likewise.
        natural_share: of the natural size N, up to which a tensor that started smaller grows freely; 0 where only its
            own first size counts.
        usual_run: steps of a run whose updates are of ``output_scale``; larger in shorter ones, smaller in longer ones.
        largest_scale: of the updates of short runs over those of a usual one, at most; dimensionless.
        steepness: how much sooner updates of a planned run fall than in a straight line; dimensionless.
        caution: minus the log_step_scale of a tensor's first step; 0 for full steps.
        cautious_run: steps of a planned run from which caution counts in full; 0 for always.
        step_scale_fall: what opposed gradients take from log_step_scale, a step; 0 where it never falls.
        fall_margin: cosine by which they are opposed at least, where it falls.
        braking: power of the gradient's fall with which updates become smaller once data are all but learned.
        recurrent: whether the LSTM has a state for every coordinate. Without one every step begins at zero, so that its
            hidden weights and forget gates do nothing; averages and the tensor's context are all that remembers.

    Attributes:
        divides_rows_only: a sharded tensor must be divided along its first axis (``local_parameters.check_placement``).

    State of a parameter:
        averages: ``[3, *param.shape]``; square_average: ``[1, *param.shape]``;
        hidden, cell: ``[hidden_size, *param.shape]``, where it is recurrent;
        first_rms, agreement_fast, agreement_slow, first_gradient, gradient, trust (q), seen (j), walk (W): 0-dim;
            gradient and trust are logarithms, gradient over the power of two above first_gradient; walk is in the
            square of the parameter's unit.
        16 bytes a parameter in float32, 8 in bfloat16. Recurrent 48 and 24; with 8 units 80 and 40.

    Raises:
        ValueError: a size that is not a positive integer, a tensor_size above 64, another option that is negative, or
            zero where that means nothing, a caution above 8.

    Source: updates in proportion to a tensor's own norm: LAMB, arXiv 1904.00962, section 3; whitened momentum: Muon
    (Jordan et al., 2024) with the coefficients of arXiv 2505.16932; momenta at several time scales, magnitude as exp
    and features of tensors: arXiv 2203.11860, section 3; agreement of successive gradients, and a rate that rises with
    it: arXiv 1703.04782.
    Differs from source: the norm is a root mean square and is bounded by the first one (LAMB's ratio is not); what is
    whitened is Adam's step with its proportions restored, and mixed with it; agreement is a cosine, moves the logarithm
    of the rate, tensor by tensor, and is a feature that a network reads.
    """

    betas: Tensor
    head_scales: Tensor
    divides_rows_only = True
    moving_averages = ("averages", "square_average")
    earlier_options = MappingProxyType(
        {
            "growth_power": 1.0,
            "small_power": 1.0,
            "zero_start": 0.0,
            "natural_share": 0.0,
            "largest_scale": 2.0,
            "cautious_run": 0.0,
            "fall_margin": 0.05,
            "braking": 0.0,
            "recurrent": True,
        }
    )

    def __init__(
        self,
        *,
        hidden_size: int = 4,
        tensor_size: int = 16,
        output_scale: float = 0.25,
        zero_scale: float = 0.1,
        zero_start: float = 0.2,
        growth: float = 10.0,
        growth_power: float = 0.85,
        small_power: float = 0.5,
        natural_share: float = 0.5,
        usual_run: float = 500,
        largest_scale: float = 3.0,
        steepness: float = 2.0,
        caution: float = 4.0,
        cautious_run: float = 100.0,
        step_scale_fall: float = 0.05,
        fall_margin: float = 0.3,
        braking: float = 1.0,
        recurrent: bool = False,
    ):
        law = StepLaw(
            output_scale,
            zero_scale,
            zero_start,
            growth,
            growth_power,
            small_power,
            natural_share,
            usual_run,
            largest_scale,
            steepness,
            cautious_run,
            step_scale_fall,
            fall_margin,
            braking,
        )
        options = law._asdict()
        super().__init__(
            hidden_size=hidden_size, tensor_size=tensor_size, caution=caution, recurrent=recurrent, **options
        )
        check_positive_integers(8, hidden_size=hidden_size, tensor_size=tensor_size)
        if tensor_size > MOST_UNITS:
            raise ValueError(f"tensor_size must be at most {MOST_UNITS}; got {tensor_size}, use e.g. 16")
        absent = {
            key: options.pop(key)
            for key in ("zero_start", "natural_share", "cautious_run", "step_scale_fall", "fall_margin", "braking")
        }
        check_positive_numbers(0.05, **options)
        check_numbers(0, math.inf, **absent)
        check_numbers(0, -LEAST_LOG_STEP_SCALE, caution=caution)
        self.law = StepLaw(*map(float, law))
        self.hidden_size, self.caution, self.recurrent = hidden_size, float(caution), bool(recurrent)
        self.layer = LSTMLayer(NUM_INPUTS, hidden_size)
        self.readout = nn.Linear(hidden_size, NUM_OUTPUTS)
        self.tensor_layer = nn.Linear(NUM_CONTEXT, tensor_size)
        self.gates = nn.Linear(tensor_size, 4 * hidden_size)
        self.choices = nn.Linear(tensor_size, NUM_HEADS)  # The heads, by the name that they have in files.
        for linear in (self.readout, self.gates, self.choices):
            nn.init.zeros_(linear.bias)
            nn.init.uniform_(linear.weight, -0.01, 0.01)
        with torch.no_grad():
            self.choices.bias[0] = BRIEF
        if tensor_size >= NUM_CONTEXT:
            # A feature a unit: evolution finds what to make of one more easily than of sums of all.
            nn.init.zeros_(self.tensor_layer.bias)
            nn.init.eye_(self.tensor_layer.weight)
        self.register_buffer("head_scales", torch.tensor(HEAD_SCALES), persistent=False)
        self.register_buffer("betas", torch.tensor(BETAS, dtype=torch.float64), persistent=False)

    def init_state(self, params: Params) -> RuleState:
        sizes = {"averages": len(BETAS), "square_average": 1}
        if self.recurrent:
            sizes |= {"hidden": self.hidden_size, "cell": self.hidden_size}
        starts = dict.fromkeys(TENSOR_SCALARS, 0.0) | {"trust": -self.caution, "seen": 1.0}
        return {
            name: {"step": initial_step(param), "first_rms": tensor_rms(param.detach())}
            | {key: param.new_full((), start) for key, start in starts.items()}
            | {key: self.zeros(key, param, size) for key, size in sizes.items()}
            for name, param in params.items()
        }

    def forward(
        self, grads: Params, state: RuleState, params: Params, *, num_steps: Tensor | None = None
    ) -> tuple[Params, RuleState]:
        if not grads:
            return {}, {}
        dtype = next(iter(grads.values())).dtype
        shapes = {name: whole_shape(gradient) for name, gradient in grads.items()}
        per_tensor = {
            name: coordinate_features(gradient, state[name], params[name], self.betas)
            for name, gradient in grads.items()
        }
        context = context_of(per_tensor, state, [is_matrix(shape) for shape in shapes.values()], num_steps, self.law)
        features = context.features.to(self.readout.weight.dtype)
        units = torch.tanh(self.tensor_layer(features))
        heads = (self.choices(units) * self.head_scales).to(dtype)
        shared = torch.cat([self.gates(units).to(dtype), heads[:, :NUM_OUTPUTS]], 1)
        biases = torch.cat([self.layer.bias, self.readout.bias]).to(dtype) + shared
        size, blend, power = heads[:, NUM_OUTPUTS:].unbind(1)
        matrix = context.matrix
        sizes = sizes_of(context, list(shapes.values()), self.law) * torch.exp(3 * torch.tanh(size / 3))
        tensor_scalars = context.tensor_scalars | {"walk": random_walk_variance(context, sizes)}
        blends = matrix * torch.sigmoid(blend + 3.6)
        powers = torch.sigmoid(power + 4 * matrix - 2)
        remembered = self._remembered(per_tensor, state)
        outputs, hidden, cell = fused_coordinatewise_lstm(
            [own.inputs for own in per_tensor.values()],
            remembered["hidden"],
            remembered["cell"],
            [self.layer.weights(dtype)],
            ReadoutWeights(self.readout.weight.to(dtype), self.readout.bias.to(dtype)),
            biases=list(biases.unbind(0)),
        )
        updates: Params = {}
        next_state: RuleState = {}
        for index, (name, own) in enumerate(per_tensor.items()):
            bounded = outputs[index].tanh()
            brief = (1 + bounded[0]) / 2
            lasting = 1 - brief
            shares = torch.stack([brief * brief + bounded[2], 2 * brief * lasting, lasting * lasting - bounded[2]])
            direction = (shares * own.momenta).sum(0).clamp(-3, 3)
            direction = direction * torch.exp(powers[index] * own.log_root + 1.5 * bounded[1])
            shape = grads[name].shape
            updates[name] = updates_of(direction.reshape(shape), sizes[index], blends[index], shapes[name])
            flat = {"averages": own.averages, "square_average": own.square}
            if self.recurrent:
                flat |= {"hidden": hidden[index], "cell": cell[index]}
            next_state[name] = (
                {"step": state[name]["step"] + 1, "first_rms": state[name]["first_rms"]}
                | {key: value[index] for key, value in tensor_scalars.items()}
                | {key: value.reshape(value.shape[0], *shape) for key, value in flat.items()}
            )
        return updates, next_state

    def _remembered(self, per_tensor: Mapping[str, CoordinateFeatures], state: RuleState) -> dict[str, list[Tensor]]:
        """Return hidden and cell states of coordinates, ``[hidden_size, N]`` a tensor; zeros where none are kept."""
        if self.recurrent:
            return {key: [coordinates(state[name][key]) for name in per_tensor] for key in ("hidden", "cell")}
        zeros = [own.inputs.new_zeros(self.hidden_size, own.inputs.shape[1]) for own in per_tensor.values()]
        return {"hidden": zeros, "cell": zeros}

    def decay_schedule(self, progress: float) -> float:
        return self.law.decay_schedule(progress)

    def compiled_step_of(self, phi: Params) -> CompiledStep:
        weights = [phi["layer.weight_input"], phi["layer.weight_hidden"], phi["readout.weight"]]
        return CompiledStep(
            "scale_free",
            ("averages", "square_average"),
            weights,
            options_of(self.law, self.tensor_layer.out_features),
            arrays_of(phi, self.head_scales),
            self._given,
        )

    def _given(self, state: dict[str, Tensor], num_steps: Any) -> dict[str, Any]:
        shape = state["square_average"].shape[1 + state["step"].dim() :]
        return {
            "num_steps": -1.0 if num_steps is None else num_steps,
            "rows": shape[0] if is_matrix(shape) else 0,
            "natural_size": self.law.natural_size(shape),
        }
