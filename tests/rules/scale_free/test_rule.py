"""The scale-free rule: what it starts as, what it is blind to, and what it keeps."""

import math

import pytest
import torch
from torch import nn

from l2l_opt import LearnedOptimizer, load_rule
from l2l_opt.pretrained import find_artefact
from l2l_opt.rules import make_rule
from l2l_opt.rules.scale_free.features import (
    AGREEMENT_MARGIN,
    LEAST_LOG_STEP_SCALE,
    LEAST_TOUCHED,
    MOST_LOG_STEP_SCALE,
    STEP_SCALE_RISE,
)
from l2l_opt.rules.scale_free.law import BRAKE_FROM, LEAST_ANNEALED, UNPLANNED_POWER, UNPLANNED_STEPS
from l2l_opt.rules.scale_free.whitening import whitened
from l2l_opt.storage.safetensors_file import read


def silent(**options):
    """A rule whose read-outs are zero and which begins with full steps: the hand-made direction alone."""
    rule = make_rule("scale-free", **({"caution": 0} | options)).double()
    with torch.no_grad():
        for linear in (rule.readout, rule.gates, rule.choices):
            linear.weight.zero_()
            linear.bias.zero_()
    return rule


def loud(dtype=torch.float64, deviation=0.3, **options):
    torch.manual_seed(5)
    rule = make_rule("scale-free", **options).to(dtype)
    with torch.no_grad():
        for weight in rule.parameters():
            weight += deviation * torch.randn_like(weight)
    return rule


def run(rule, gradients, param, num_steps=None):
    state = rule.init_state({"p": param})
    updates = []
    with torch.no_grad():
        for gradient in gradients:
            update, state = rule({"p": gradient}, state, {"p": param}, num_steps=num_steps)
            updates.append(update["p"])
    return torch.stack(updates)


@pytest.mark.parametrize(
    ("recurrent", "dtype", "expected"),
    [(False, None, 16), (False, torch.bfloat16, 8), (True, None, 48), (True, torch.bfloat16, 24)],
)
def test_it_has_few_weights_and_8_or_16_bytes_of_state_a_parameter_or_more_where_recurrent(recurrent, dtype, expected):
    rule = make_rule("scale-free", recurrent=recurrent)
    # Evolution strategies want few.
    assert 0 < sum(weight.numel() for weight in rule.parameters()) < 2000
    param = torch.nn.Parameter(torch.randn(10))
    optimizer = LearnedOptimizer([param], rule, state_dtype=dtype)
    param.grad = torch.randn(10)
    optimizer.step()
    state = optimizer.state[param]
    assert sum(value.numel() * value.element_size() for value in state.values() if value.dim()) == 10 * expected


def test_a_silent_vector_takes_adams_step_with_a_mean_of_momenta_a_schedule_and_its_own_scale():
    torch.manual_seed(0)
    param = torch.randn(12, dtype=torch.float64)
    gradients = torch.randn(6, 12, dtype=torch.float64)
    ours = run(silent(fall_margin=AGREEMENT_MARGIN), gradients, param, torch.tensor(10.0))
    v = torch.zeros_like(param)
    momenta = dict.fromkeys((0.5, 0.9, 0.99), v)
    usual = math.log(float(gradients[0].square().mean().sqrt()))
    power, log_step_scale, random_walk_variance = 1 / (1 + math.exp(2)), 0.0, 0.0
    for t, gradient in enumerate(gradients):
        v, before = 0.99 * v + 0.01 * gradient**2, momenta[0.9]
        momenta = {beta: beta * m + (1 - beta) * gradient for beta, m in momenta.items()}
        short, middle, long = (m / (1 - beta ** (t + 1)) for beta, m in momenta.items())
        r = (v / (1 - 0.99 ** (t + 1))).sqrt() + 1e-4 * math.exp(usual)
        direction = ((short / 4 + middle / 2 + long / 4) / r).clamp(-3, 3)
        direction = direction * (r / r.square().mean().sqrt() + 1e-3) ** power
        surplus = float(torch.cosine_similarity(gradient / r, before / r, dim=0)) + AGREEMENT_MARGIN
        log_step_scale = min(0.0, log_step_scale + 3 * (STEP_SCALE_RISE if surplus > 0 else 0.05) * surplus)
        reach = max(float(param.square().mean()) - random_walk_variance, float(param.square().mean()) / 4) ** 0.5
        size = math.exp(0.1 * log_step_scale) * 3 * 0.25 * (1 - t / 10) / (1 + 2.0 * t / 10) * reach
        random_walk_variance += 0.6 * size**2
        torch.testing.assert_close(ours[t], -size * direction, rtol=1e-10, atol=1e-12)
        if t:
            usual += 0.1 * (math.log(float(gradient.square().mean().sqrt())) - usual)


def test_a_silent_matrix_is_whitened_for_the_most_part():
    torch.manual_seed(0)
    param, gradient = torch.randn(6, 4, dtype=torch.float64), torch.randn(1, 6, 4, dtype=torch.float64)
    (ours,) = run(silent(), gradient, param)
    root = (1 + 1e-4 * gradient[0].square().mean().sqrt() / gradient[0].abs()) * gradient[0].abs()
    power, share = (1 / (1 + math.exp(-shift)) for shift in (2, 3.6))
    direction = gradient[0] / root * (root / root.square().mean().sqrt() + 1e-3) ** power
    mixed = (1 - share) * direction + share * 0.3 * math.sqrt(6) * whitened(direction)
    torch.testing.assert_close(ours, -0.25 * param.square().mean().sqrt() * mixed, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("num_steps", "length_scale"), [(None, 1.0), (500.0, 1.0), (2000.0, 0.5), (10.0, 3.0)])
@pytest.mark.parametrize("fall", [0.05, 0.0])
def test_the_step_scale_rises_while_gradients_agree_and_falls_where_they_oppose(num_steps, length_scale, fall):
    torch.manual_seed(0)
    gradient, param = torch.randn(8, dtype=torch.float64), torch.ones(8, dtype=torch.float64)
    rule, signs = silent(caution=5, step_scale_fall=fall, fall_margin=0.3), [1.0, 1.0, 1.0, -1.0]
    state = rule.init_state({"p": param})
    assert float(state["p"]["trust"]) == -5
    planned = None if num_steps is None else torch.tensor(num_steps)
    expected = -5.0
    for sign, agreement in zip(signs, [0.0, 1.0, 1.0, -1.0], strict=True):
        with torch.no_grad():
            update, next_state = rule({"p": sign * gradient}, state, {"p": param}, num_steps=planned)
            full, _ = rule(
                {"p": sign * gradient}, {"p": state["p"] | {"trust": torch.zeros(()).double()}}, {"p": param}
            )
        surplus = agreement + AGREEMENT_MARGIN
        expected += length_scale * (STEP_SCALE_RISE * surplus if surplus > 0 else fall * min(agreement + 0.3, 0))
        assert float(next_state["p"]["trust"]) == pytest.approx(expected)
        state = next_state
    if (
        num_steps is None
    ):  # steps are in proportion to it; full ones have a log_step_scale of 0, but for one step's fall
        torch.testing.assert_close(
            update["p"], math.exp(expected - fall * (0.3 - 1)) * full["p"], rtol=1e-9, atol=1e-12
        )


@pytest.mark.slow
def test_the_step_scale_stays_within_its_bounds():
    gradient, param = torch.ones(8, dtype=torch.float64), torch.ones(8, dtype=torch.float64)
    rule = silent(caution=8)
    for sign, expected in ((1.0, MOST_LOG_STEP_SCALE), (-1.0, LEAST_LOG_STEP_SCALE)):
        state = rule.init_state({"p": param})
        for step in range(600):
            with torch.no_grad():
                _, state = rule({"p": sign**step * gradient}, state, {"p": param}, num_steps=torch.tensor(100.0))
        assert float(state["p"]["trust"]) == expected


@pytest.mark.slow
def test_updates_fall_to_a_hundredth_over_a_planned_run_and_slowly_where_its_length_is_unknown():
    param, gradients = torch.ones(8, dtype=torch.float64), torch.ones(400, 8, dtype=torch.float64)
    rule = silent(growth=1.0)  # the same direction and size of the tensor throughout
    planned, unknown = run(rule, gradients, param, torch.tensor(200.0)), run(rule, gradients, param)
    ratios = (planned / planned[0]).mean(dim=1)
    assert float(ratios[100]) == pytest.approx(0.5 / (1 + 2.0 / 2))
    torch.testing.assert_close(ratios[200:], torch.full_like(ratios[200:], LEAST_ANNEALED))
    ratios = (unknown / unknown[0]).mean(dim=1)
    expected = (1 + torch.arange(400, dtype=torch.float64) / UNPLANNED_STEPS) ** UNPLANNED_POWER
    torch.testing.assert_close(ratios, expected)


def test_tensors_of_zeros_move_by_what_is_natural_to_them():
    generator = torch.Generator().manual_seed(0)
    sizes = []
    for scale in (0.1, 0.5):
        gradient = torch.ones(1, 5, dtype=torch.float64)
        (update,) = run(silent(zero_scale=scale), gradient, torch.zeros(5, dtype=torch.float64))
        sizes.append(float(update.norm()))
    assert sizes[1] == pytest.approx(5 * sizes[0])
    gradient = torch.randn(1, 20, 30, generator=generator, dtype=torch.float64)
    zeros = torch.zeros(20, 30, dtype=torch.float64)
    natural = torch.full_like(zeros, 1 / math.sqrt(3 * 30))
    expected = run(silent(), gradient, natural)
    for start in (0.0, 0.1, 1.0):
        found = run(silent(zero_start=start), gradient, zeros)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_tensors_of_zeros_grow_as_others_do():
    gradient = torch.ones(5, dtype=torch.float64)

    def size_at(distance, **options):
        rule, start = silent(**options), torch.zeros(5, dtype=torch.float64)
        with torch.no_grad():
            update, _ = rule({"p": gradient}, rule.init_state({"p": start}), {"p": start + distance})
        return float(update["p"].norm())

    natural = size_at(0.0, zero_start=0.0)
    distances = (0.0, 0.01, 0.03, 0.05, 0.4, 10.0)
    above = [0.5, 0.5 * 8**0.85, 0.5 * 10]
    for power in (1.0, 0.5):
        sizes = [size_at(distance, zero_start=0.2, small_power=power) / natural for distance in distances]
        below = [0.5 * (size / 0.5) ** power for size in (0.2, 0.2, 0.3)]
        assert sizes == pytest.approx([*below, *above], rel=1e-2)


@pytest.mark.parametrize("shape", [(8,), (5, 4)])
def test_updates_grow_and_shrink_with_a_tensor_within_bounds_of_its_beginning(shape):
    torch.manual_seed(0)
    rule, param = silent(growth=3.0, growth_power=1.0), torch.randn(shape, dtype=torch.float64)
    state, gradient = rule.init_state({"p": param}), torch.randn(shape, dtype=torch.float64)

    def size(scale):
        with torch.no_grad():
            update, _ = rule({"p": gradient}, state, {"p": scale * param})
        return float(update["p"].abs().max())

    for scale, expected in ((2, 2), (3, 3), (100, 3), (0.5, 0.5), (1e-3, 1 / 2)):
        assert size(scale) == pytest.approx(expected * size(1.0))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(400,), (30, 20)])
def test_what_noise_makes_of_a_tensor_does_not_make_its_steps_longer_but_what_gradients_want_does(shape):
    rule, start = silent(growth=6.0, growth_power=1.0, natural_share=0.0), torch.full(shape, 0.1, dtype=torch.float64)

    def lengths(gradients):
        param, state, found = start.clone(), rule.init_state({"p": start}), []
        for gradient in gradients:
            with torch.no_grad():
                update, state = rule({"p": gradient}, state, {"p": param})
            param, unplanned = param + update["p"], (1 + len(found) / UNPLANNED_STEPS) ** UNPLANNED_POWER
            found.append(float(update["p"].square().mean().sqrt()) / unplanned)
        return found, float(param.square().mean().sqrt())

    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(300, *shape, generator=generator, dtype=torch.float64)
    steady, size = lengths(noise[:1].expand(300, *shape))
    assert size > 0.6
    assert steady[-1] == pytest.approx(6 * steady[0], rel=0.05)
    wandering, size = lengths(noise)
    assert size > 0.4
    # Of the square of how far a tensor has come, a fifth or more is noise that does not count.
    assert wandering[-1] < 0.9 * wandering[0] * size / 0.1


def test_updates_shrink_with_the_root_of_the_length_of_a_run():
    torch.manual_seed(0)
    rule, param = silent(usual_run=400, largest_scale=2.0), torch.randn(8, dtype=torch.float64)
    state = rule.init_state({"p": param})

    def size(num_steps):
        with torch.no_grad():
            updates, _ = rule({"p": param}, state, {"p": param}, num_steps=torch.tensor(num_steps))
        return float(updates["p"].norm())

    assert size(10.0) == size(100.0)
    assert size(400.0) == pytest.approx(size(100.0) / 2)
    assert size(1600.0) == pytest.approx(size(100.0) / 4)


class Reparametrised(nn.Module):
    """A perceptron with LayerNorm whose tensors that do not start at zero are factors times what is trained."""

    def __init__(self, dtype, factors=()):
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Sequential(
            nn.Linear(6, 16),
            nn.LayerNorm(16),
            nn.ReLU(),
            nn.Linear(16, 12),
            nn.LayerNorm(12),
            nn.Tanh(),
            nn.Linear(12, 3),
        ).to(dtype)
        nn.init.zeros_(self.body[3].bias)
        self.scale = nn.Parameter(torch.tensor(0.7, dtype=dtype))
        self.factors = {name: 1.0 for name, _ in self.named_parameters()} | dict(factors)
        with torch.no_grad():
            for name, p in self.named_parameters():
                p /= self.factors[name]

    def forward(self, inputs):
        values = {name.removeprefix("body."): self.factors[name] * p for name, p in self.body.named_parameters("body")}
        return self.factors["scale"] * self.scale * torch.func.functional_call(self.body, values, (inputs,))


def trained(dtype, steps, *, factors=(), loss_scale=1.0, num_steps=60, purely=False, natural_share=0.0):
    """Losses, in the unit of the unscaled loss, of a run of batches on noisy data."""
    model = Reparametrised(dtype, factors)
    rule = loud(dtype, 0.1, usual_run=60, natural_share=natural_share)
    if purely:
        rule.compiled_step = lambda: None
    optimizer = LearnedOptimizer(model.named_parameters(), rule, num_steps=num_steps)
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(200, 6, generator=generator, dtype=torch.float64).to(dtype)
    targets = (inputs @ torch.randn(6, 3, generator=generator, dtype=torch.float64).to(dtype)).argmax(1)
    losses = []
    for _ in range(steps):
        rows = torch.randint(200, (32,), generator=generator)
        loss = nn.functional.cross_entropy(model(inputs[rows]), targets[rows])
        optimizer.zero_grad()
        (loss * loss_scale).backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


REPARAMETRISATIONS = {
    "loss up": {"loss_scale": 2.0**10},
    "loss down": {"loss_scale": 2.0**-10},
    "matrix": {"factors": {"body.0.weight": 2.0**10, "body.3.weight": 2.0**-10}},
    "vectors": {"factors": {"body.0.bias": 2.0**-10, "body.1.weight": 2.0**10, "body.6.bias": 2.0**10}},
    "scalar": {"factors": {"scale": 2.0**10}},
    "all": {
        "loss_scale": 2.0**-10,
        "factors": {"body.0.weight": 2.0**-10, "body.4.weight": 2.0**10, "body.6.weight": 2.0**10, "scale": 2.0**-10},
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("num_steps", [60, None])
@pytest.mark.parametrize("which", REPARAMETRISATIONS)
def test_training_sees_neither_the_scale_of_the_loss_nor_that_of_a_tensor(which, num_steps):
    plain = trained(torch.float64, 40, num_steps=num_steps)
    other = trained(torch.float64, 40, num_steps=num_steps, **REPARAMETRISATIONS[which])
    assert plain[-5:].mean() < 0.8 * plain[:5].mean()
    torch.testing.assert_close(other, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("purely", [False, True])
@pytest.mark.parametrize("which", REPARAMETRISATIONS)
def test_powers_of_two_change_not_a_bit(which, purely):
    plain = trained(torch.float32, 60, purely=purely)
    assert torch.equal(trained(torch.float32, 60, purely=purely, **REPARAMETRISATIONS[which]), plain)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["loss up", "loss down", "larger"])
def test_with_a_natural_size_powers_of_two_of_the_loss_and_larger_tensors_change_not_a_bit(which):
    settings = REPARAMETRISATIONS.get(which, {"factors": {"body.0.weight": 2.0**-10, "body.1.weight": 2.0**-3}})
    plain = trained(torch.float32, 60, natural_share=0.5)
    assert torch.equal(trained(torch.float32, 60, natural_share=0.5, **settings), plain)


@pytest.mark.parametrize("small_power", [1.0, 0.5])
def test_a_tensor_that_starts_far_too_small_grows_quickly_up_to_its_natural_size_and_slowly_above(small_power):
    rule = silent(growth=10.0, growth_power=0.5, natural_share=0.5, small_power=small_power)
    gradient = torch.ones(6, 12, dtype=torch.float64)
    half = 0.5 / math.sqrt(3 * 12)
    first = torch.full_like(gradient, half / 100)
    state = rule.init_state({"p": first})

    def size(rms):
        with torch.no_grad():
            return float(rule({"p": gradient}, state, {"p": torch.full_like(gradient, rms)})[0]["p"].abs().max())

    natural = size(half)
    for rms, reach in ((half / 100, 0.01**small_power), (half / 10, 0.1**small_power), (4 * half, 2), (1e4 * half, 10)):
        assert size(rms) / natural == pytest.approx(reach)
    assert size(half / 200) / size(half / 100) == pytest.approx(0.5)
    assert size(half / 1000) / size(half / 100) == pytest.approx(0.5)


@pytest.mark.parametrize("num_steps", [None, 500.0])
def test_steps_become_smaller_with_gradients_once_these_have_all_but_vanished(num_steps):
    param = torch.ones(8, dtype=torch.float64)
    planned = None if num_steps is None else torch.tensor(num_steps)
    falling = [math.exp(-level) * torch.ones(8, dtype=torch.float64) for level in (0.0, 0.5, 1.0, *[4.0] * 60)]
    # So small that no random walk counts.
    braked, free = (run(silent(braking=power, output_scale=1e-4), falling, param, planned) for power in (1.0, 0.0))
    torch.testing.assert_close(braked[:3], free[:3])
    # Sixty steps on, the usual gradient is the last.
    assert float((braked[-1] / free[-1]).mean()) == pytest.approx(math.exp(-4 - BRAKE_FROM), rel=0.01)


def test_short_runs_begin_with_less_caution():
    param, gradient = torch.ones(8, dtype=torch.float64), torch.ones(1, 8, dtype=torch.float64)
    rule = silent(caution=4, cautious_run=100.0, largest_scale=1.0)
    of_usual, of_short, of_unknown = (
        float(run(rule, gradient, param, steps).norm()) for steps in (torch.tensor(400.0), torch.tensor(25.0), None)
    )
    rise = STEP_SCALE_RISE * AGREEMENT_MARGIN
    assert of_short / of_usual == pytest.approx(math.exp(0.25 * (rise - 4) - (rise - 4)), rel=0.05)
    assert of_unknown == pytest.approx(float(run(silent(caution=4 - rise), gradient, param).norm()), rel=0.05)


@pytest.mark.filterwarnings("ignore:num_steps is the planned number")
def test_beyond_the_planned_steps_it_all_but_stands_still():
    model = Reparametrised(torch.float32)
    optimizer = LearnedOptimizer(model.named_parameters(), loud(torch.float32, caution=0), num_steps=5)
    inputs, targets = torch.randn(16, 6), torch.randint(3, (16,))
    kept = []
    for _ in range(12):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        kept.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.isfinite(p).all() for p in kept[-1])
    assert not torch.equal(kept[0][0], kept[3][0])
    for first, later, last in zip(kept[0], kept[5], kept[-1], strict=True):
        assert 0 < (last - later).norm() < 0.6 * (later - first).norm()


@pytest.mark.parametrize("purely", [False, True])
def test_zero_gradients_first_and_dead_units_throughout_leave_all_finite(purely):
    """A dead ReLU's coordinates have gradients of exactly zero; a layer behind zeros has none at all at first."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        model[0].bias[:3] = -20.0
        model[2].weight.zero_()
    before = [p.detach().clone() for p in model.parameters()]
    rule = loud(torch.float32)
    if purely:
        rule.compiled_step = lambda: None
    optimizer = LearnedOptimizer(model.parameters(), rule, num_steps=30)
    inputs, targets = torch.randn(64, 5), torch.randint(3, (64,))
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert not any(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert all(int(optimizer.state[p]["skipped"]) == 0 for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 0}, "hidden_size must be a positive integer; got 0"),
        ({"tensor_size": 1.5}, "tensor_size of rule .scale-free. must be an integer; got 1.5"),
        ({"tensor_size": 65}, "tensor_size must be at most 64; got 65"),
        ({"output_scale": -1.0}, "output_scale must be a positive number; got -1.0"),
        ({"zero_scale": 0.0}, "zero_scale must be a positive number; got 0.0"),
        ({"growth": math.inf}, "growth must be a positive number; got inf"),
        ({"usual_run": 0}, "usual_run must be a positive number; got 0"),
        ({"caution": -1}, "caution must be a number from 0 to 8; got -1"),
        ({"caution": 9.0}, "caution must be a number from 0 to 8; got 9.0"),
        ({"caution": True}, "caution of rule .scale-free. must be a number; got True"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make_rule("scale-free", **options)


@pytest.mark.parametrize("purely", [False, True])
@pytest.mark.parametrize("scale", [2.0**10, 2.0**-10])
def test_a_loss_of_another_scale_is_the_same_to_layers_that_have_no_gradient_at_first(purely, scale):
    """A head that starts at zero hides the layer behind it for one step."""
    inputs, targets = torch.randn(32, 6), torch.randint(3, (32,))

    def losses(factor):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3))
        nn.init.zeros_(model[2].weight)
        rule = loud(torch.float32)
        if purely:
            rule.compiled_step = lambda: None
        optimizer = LearnedOptimizer(model.parameters(), rule, num_steps=30)
        found = []
        for _ in range(30):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), targets)
            (factor * loss).backward()
            optimizer.step()
            found.append(loss.item())
        return torch.tensor(found)

    assert losses(1.0)[-1] < losses(1.0)[0]
    torch.testing.assert_close(losses(scale), losses(1.0), rtol=2e-2, atol=0)


def test_rows_that_few_batches_reach_take_steps_as_much_larger():
    """Of a silent rule: the size of a step over the same without rarity is one over the average touched fraction."""
    torch.manual_seed(0)
    param, rule, touched_fraction = torch.randn(8, 3, dtype=torch.float64), silent(), 1.0
    state = rule.init_state({"p": param})
    assert float(state["p"]["seen"]) == 1
    ever = torch.zeros(8, dtype=torch.bool)
    for rows in ([0, 1, 2, 3], [2, 3], [4], [4], [0], [0]):  # rows 5 to 7 have none, and never count
        gradient = torch.zeros_like(param)
        gradient[rows] = torch.randn(len(rows), 3, dtype=torch.float64)
        ever[rows] = True
        share = len(rows) / int(ever.sum())
        touched_fraction += 0.2 * (share - touched_fraction)
        common = {"p": state["p"] | {"seen": torch.tensor((1 - 0.2 * share) / 0.8, dtype=torch.float64)}}
        with torch.no_grad():
            update, next_state = rule({"p": gradient}, state, {"p": param})
            unscaled, at_one = rule({"p": gradient}, common, {"p": param})
        assert float(next_state["p"]["seen"]) == pytest.approx(touched_fraction)
        assert float(at_one["p"]["seen"]) == pytest.approx(1)
        torch.testing.assert_close(update["p"], unscaled["p"] / touched_fraction, rtol=1e-9, atol=1e-12)
        state = next_state


def test_rarity_is_bounded_and_what_falls_silent_later_is_not_rare():
    rule, param = silent(), torch.ones(200, dtype=torch.float64)
    every, one = torch.ones_like(param), torch.zeros_like(param)
    one[0] = 1.0

    def after(gradients):
        state = rule.init_state({"p": param})
        with torch.no_grad():
            for gradient in gradients:
                _, state = rule({"p": gradient}, state, {"p": param})
        return state["p"]

    rare = after([every] + [one] * 19)
    assert float(rare["seen"]) < 0.03
    held = rare | {"seen": torch.tensor(LEAST_TOUCHED / 2, dtype=torch.float64)}
    with torch.no_grad():
        updates = [rule({"p": one}, {"p": state}, {"p": param})[0]["p"] for state in (rare, held)]
    torch.testing.assert_close(*updates)
    assert float(after([every] * 20 + [one] * 30)["seen"]) == 1
    assert float(after([every] + [one] * 19 + [every] * 30)["seen"]) > 0.99


def test_artefacts_of_before_the_later_options_keep_their_laws_and_fresh_rules_have_the_new_ones():
    before, fresh = load_rule("default-2"), make_rule("scale-free")
    later = type(fresh).earlier_options
    named = read(find_artefact("default-2"), kind="rule", format_version=1)[1]["rule"]["config"]
    assert later.keys().isdisjoint(named)
    assert later.items() <= before.config.items()
    assert all(fresh.config[key] != value for key, value in later.items())
    assert before.law.growth_power == 1.0
    assert load_rule("default-3").law.growth_power == 0.85
