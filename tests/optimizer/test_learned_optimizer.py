"""LearnedOptimizer as a torch.optim.Optimizer."""

import contextlib
import copy
import io
import math
import pickle
import threading
import warnings

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from l2l_opt import CoordinatewiseLSTM, LearnedOptimizer, RNNProp, save_rule
from l2l_opt.pretrained import DEFAULT
from l2l_opt.rules import RULES, make_rule
from l2l_opt.rules.composed import ComposedRule
from l2l_opt.rules.products import rounds_products
from tests.conftest import small_rule


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))


INPUTS, TARGETS = torch.randn(32, 4, generator=torch.Generator().manual_seed(1)), torch.arange(32) % 2


def train(model, optimizer, steps):
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(INPUTS), TARGETS)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_works_without_a_rule():
    model = make_model()
    optimizer = LearnedOptimizer(model.parameters())
    losses = train(model, optimizer, 100)
    assert losses[-1] < 0.5 * losses[0]


def test_takes_a_path_and_a_rule(tmp_path):
    rule = RNNProp(hidden_size=4)
    save_rule(rule, tmp_path / "rule.safetensors")
    runs = []
    for source in (rule, tmp_path / "rule.safetensors", str(tmp_path / "rule.safetensors")):
        model = make_model()
        runs.append(train(model, LearnedOptimizer(model.parameters(), source), 5))
    assert runs[0] == runs[1] == runs[2]


def test_sgd_as_a_rule_equals_torch_sgd():
    ours, theirs = make_model().double(), make_model().double()
    optimizer = LearnedOptimizer(ours.parameters(), small_rule("sgd", lr=0.1))
    reference = torch.optim.SGD(theirs.parameters(), lr=0.1)
    for model, opt in ((ours, optimizer), (theirs, reference)):
        for _ in range(5):
            opt.zero_grad()
            nn.functional.cross_entropy(model(INPUTS.double()), TARGETS).backward()
            opt.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_lr_multiplies_and_weight_decay_is_decoupled():
    param = nn.Parameter(torch.tensor([2.0]))
    optimizer = LearnedOptimizer([param], small_rule("sgd", lr=0.1), lr=0.5, weight_decay=200)
    param.grad = torch.tensor([3.0])
    optimizer.step()
    assert param.item() == pytest.approx(2 - 0.5 * 1e-3 * 200 * 2 - 0.5 * 0.1 * 3)


@pytest.mark.parametrize(
    "rule",
    ["default-3", "compact", "sgd", "adam:schedule=cosine", "composed"],
)
@pytest.mark.parametrize("num_steps", [None, 1000])
def test_weight_decay_is_that_of_adamw_with_a_cosine(rule, num_steps):
    """Under zero gradients, which move no weights but by decay: the logarithm of what 1,000 steps leave."""
    params = [nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2)]
    if rule == "composed":
        source = small_rule("composed", parts=[{"rule": "compact", "name": "never"}, {"rule": "sgd"}])
    else:
        source = rule if rule.startswith("default") else small_rule(rule)
    ours = LearnedOptimizer([("weight", params[0])], source, weight_decay=0.1, num_steps=num_steps)
    theirs = torch.optim.AdamW([params[1]], lr=1e-3, weight_decay=0.1)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, T_max=1000)
    for _ in range(1000):
        for param, optimizer in zip(params, (ours, theirs), strict=True):
            param.grad = torch.zeros(3, dtype=torch.float64)
            optimizer.step()
        cosine.step()
    shrinkage = [param.detach().log() for param in params]
    assert 1 / 3 < (shrinkage[0] / shrinkage[1]).min() <= (shrinkage[0] / shrinkage[1]).max() < 3


@pytest.mark.parametrize(("guard", "as_group"), [("skip", True), ("fallback", False)])
def test_the_numbers_of_adamw_leave_training_as_good_as_it_was(guard, as_group):
    ends = []
    for decay in (0.0, 0.01, 0.1):
        model = make_model()
        params = [{"params": model.parameters(), "weight_decay": decay}] if as_group else model.parameters()
        options = {} if as_group else {"weight_decay": decay}
        optimizer = LearnedOptimizer(params, num_steps=300, guard=guard, **options)
        ends.append(train(model, optimizer, 300)[-1])
    assert max(ends) < 0.2


def test_the_fallback_decays_alike():
    """Adam under zero gradients, where a loss that is not finite brought it in at the second step."""
    param = nn.Parameter(torch.ones(3))
    optimizer = LearnedOptimizer([param], small_rule("sgd"), guard="fallback", weight_decay=100.0)
    for loss in (1.0, math.nan, 1.0):
        param.grad = torch.zeros(3)
        with pytest.warns(UserWarning, match="diverged") if math.isnan(loss) else contextlib.nullcontext():
            optimizer.step(loss=loss)
    torch.testing.assert_close(param.detach(), torch.full((3,), 0.9))


def test_maximize_climbs():
    param = nn.Parameter(torch.tensor([2.0]))
    optimizer = LearnedOptimizer([param], small_rule("sgd", lr=0.1), maximize=True)
    param.grad = torch.tensor([3.0])
    optimizer.step()
    assert param.item() == pytest.approx(2.3)


def test_groups_have_their_own_options():
    a, b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = LearnedOptimizer([{"params": [a]}, {"params": [b], "lr": 0.1}], small_rule("sgd", lr=1.0))
    a.grad = b.grad = torch.ones(1)
    optimizer.step()
    assert a.item() == pytest.approx(0.0)
    assert b.item() == pytest.approx(0.9)
    c = nn.Parameter(torch.ones(1))
    optimizer.add_param_group({"params": [c], "num_steps": 10})
    c.grad = torch.ones(1)
    optimizer.step()
    assert c.item() == pytest.approx(0.0)
    assert [group["num_steps"] for group in optimizer.param_groups] == [None, None, 10]


@pytest.mark.filterwarnings("ignore:num_steps is the planned number")
def test_num_steps_reaches_the_rule():
    param = nn.Parameter(torch.ones(1))
    optimizer = LearnedOptimizer([param], small_rule("sgd", lr=1.0, schedule="cosine"), num_steps=2)
    moved = []
    for _ in range(3):
        before = param.item()
        param.grad = torch.ones(1)
        optimizer.step()
        moved.append(before - param.item())
    assert moved == pytest.approx([1.0, 0.5, 0.0], abs=1e-6)


def test_parameters_without_gradient_are_left_alone():
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = LearnedOptimizer([used, unused], RNNProp(hidden_size=3))
    used.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(unused, torch.ones(2))
    assert unused not in optimizer.state or not optimizer.state[unused]
    assert not torch.equal(used, torch.ones(2))


def test_a_closure_runs_with_gradients_and_its_loss_is_returned():
    model = make_model()
    optimizer = LearnedOptimizer(model.parameters(), RNNProp(hidden_size=3))

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(INPUTS), TARGETS)
        loss.backward()
        return loss

    with torch.no_grad():
        losses = [float(optimizer.step(closure)) for _ in range(3)]
    assert len(set(losses)) == 3


def test_the_guard_skips_what_is_not_finite_and_counts():
    good, bad = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = LearnedOptimizer([good, bad], RNNProp(hidden_size=3), weight_decay=0.1)
    for step in range(3):
        good.grad = torch.ones(2)
        bad.grad = torch.ones(2) if step == 0 else torch.tensor([1.0, float("nan")])
        optimizer.step()
        if step == 0:
            value, state = bad.detach().clone(), {k: v.clone() for k, v in optimizer.state[bad].items()}
    assert torch.equal(bad, value)
    for key in ("step", "hidden", "cell", "average"):
        assert torch.equal(optimizer.state[bad][key], state[key])
    assert int(optimizer.state[bad]["skipped"]) == 2
    assert int(optimizer.state[good]["skipped"]) == 0
    assert float(optimizer.state[good]["step"]) == 3


def test_without_guard_updates_are_applied_as_they_come():
    bad = nn.Parameter(torch.ones(2))
    optimizer = LearnedOptimizer([bad], RNNProp(hidden_size=3), guard=None)
    bad.grad = torch.tensor([1.0, float("nan")])
    optimizer.step()
    assert torch.isnan(bad).any()


@pytest.mark.parametrize("copying", ["state_dict", "deepcopy", "pickle"])
def test_goes_on_bit_for_bit(copying):
    rule = RNNProp(hidden_size=4)
    model = make_model()
    optimizer = LearnedOptimizer(model.parameters(), rule, num_steps=20)
    train(model, optimizer, 5)
    if copying == "state_dict":
        file = io.BytesIO()
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        other = make_model()
        other.load_state_dict(saved["model"])
        again = LearnedOptimizer(other.parameters(), rule)
        again.load_state_dict(saved["optimizer"])
    else:
        both = (model, optimizer)
        other, again = copy.deepcopy(both) if copying == "deepcopy" else pickle.loads(pickle.dumps(both))
    assert train(model, optimizer, 5) == train(other, again, 5)


def test_the_state_of_another_rule_is_refused():
    model = make_model()
    one = LearnedOptimizer(model.parameters(), RNNProp(hidden_size=4))
    other = LearnedOptimizer(model.parameters(), CoordinatewiseLSTM(hidden_size=4))
    with pytest.raises(
        ValueError, match="a state must be loaded into an optimizer with the rule that made it; got .*'rnnprop'"
    ):
        other.load_state_dict(one.state_dict())
    same_kind = LearnedOptimizer(model.parameters(), RNNProp(hidden_size=4))
    with pytest.raises(ValueError, match="the rule that made it"):
        same_kind.load_state_dict(one.state_dict())


def test_groups_hold_plain_values_and_state_belongs_to_parameters():
    model = make_model()
    optimizer = LearnedOptimizer(model.named_parameters(), RNNProp(hidden_size=4))
    train(model, optimizer, 1)
    for group in optimizer.param_groups:
        for key, value in group.items():
            assert key in ("params", "param_names") or value is None or isinstance(value, (bool, int, float, str))
    for param in model.parameters():
        assert optimizer.state[param]["hidden"].shape == (8, *param.shape)
    assert "rnnprop" in repr(optimizer)


def test_works_with_a_scheduler():
    model = make_model()
    optimizer = LearnedOptimizer(model.parameters(), RNNProp(hidden_size=4))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
    rates = []
    for _ in range(4):
        train(model, optimizer, 1)
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    assert rates[0] == 1.0
    assert rates == sorted(rates, reverse=True)


def test_hooks_run():
    model, calls = make_model(), []
    optimizer = LearnedOptimizer(model.parameters(), RNNProp(hidden_size=4))
    optimizer.register_step_pre_hook(lambda *args: calls.append("before"))
    optimizer.register_step_post_hook(lambda *args: calls.append("after"))
    train(model, optimizer, 1)
    assert calls == ["before", "after"]


def test_composed_rules_see_the_names_of_named_parameters():
    model = make_model()
    rule = small_rule("composed", parts=[{"rule": "sgd:lr=1.0", "name": "bias$"}, {"rule": "sgd:lr=1e-12"}])
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    train(model, LearnedOptimizer(model.named_parameters(), rule), 1)
    for key, value in model.named_parameters():
        assert torch.allclose(value, before[key], atol=1e-6) != key.endswith("bias"), key
    with pytest.raises(
        ValueError, match=r"parameters must have names where the rule .* use LearnedOptimizer\(model.named_parameters"
    ):
        LearnedOptimizer(model.parameters(), rule)
    LearnedOptimizer(model.parameters(), make_rule("composed"))
    assert LearnedOptimizer(model.named_parameters(), rule).cost()[0].state_bytes >= 0


@pytest.mark.parametrize("name", RULES.names())
def test_a_part_takes_the_steps_that_it_takes_alone(name):
    """By its compiled step too, where it has one."""
    alone, ends = small_rule(name), []
    for rule in (alone, ComposedRule(parts=[{"rule": copy.deepcopy(alone)}])):
        model = make_model()
        train(model, LearnedOptimizer(model.named_parameters(), rule, num_steps=5), 5)
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*ends)


def warnings_of(optimizer, params, steps, scheduler=None):
    """What steps under unit gradients warn of, and the scheduler's beside them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(steps):
            for param in params:
                param.grad = torch.ones_like(param)
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
    assert all(found.filename == __file__ for found in caught)
    return [str(found.message) for found in caught]


SMALL = "lr multiplies the learned update and is 1.0 as meta-trained; got 0.0003"


def test_a_small_lr_warns_once_at_the_first_step_and_the_usual_one_does_not():
    params = [nn.Parameter(torch.ones(1))]
    optimizer = LearnedOptimizer(params, RNNProp(hidden_size=2), lr=3e-4)
    (found,) = warnings_of(optimizer, params, 3)
    assert found.startswith(SMALL)
    assert not warnings_of(LearnedOptimizer(params, RNNProp(hidden_size=2)), params, 3)


def test_a_small_lr_of_a_group_or_a_loop_is_noticed_where_a_step_is_taken_with_it():
    a, b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = LearnedOptimizer([{"params": [a]}, {"params": [b], "lr": 3e-4}], RNNProp(hidden_size=2))
    assert not warnings_of(optimizer, [a], 2)
    (found,) = warnings_of(optimizer, [b], 2)
    assert found.startswith(SMALL)
    optimizer = LearnedOptimizer([a], RNNProp(hidden_size=2), lr=3e-4)
    # As fastai does: what the constructor was given is replaced before the first step.
    optimizer.param_groups[0]["lr"] = 1.0
    assert not warnings_of(optimizer, [a], 2)
    optimizer.param_groups[0]["lr"] = 3e-4
    (found,) = warnings_of(optimizer, [a], 2)
    assert found.startswith(SMALL)


@pytest.mark.parametrize(
    ("make_scheduler", "words"),
    [
        (lambda o: lr_scheduler.OneCycleLR(o, 1e-2, total_steps=9, cycle_momentum=False), ["lr multiplies"]),
        (lambda o: lr_scheduler.OneCycleLR(o, 1e-2, total_steps=9), ["lr multiplies", "momentum in a group has no"]),
        (lambda o: lr_scheduler.OneCycleLR(o, 1.0, total_steps=9), ["momentum in a group has no effect"]),
        (lambda o: lr_scheduler.CyclicLR(o, 1e-3, 1e-2), ["lr multiplies", "momentum in a group has no effect"]),
        (lambda o: lr_scheduler.CyclicLR(o, 0.1, 1.0), ["momentum in a group has no effect"]),
        (lambda o: lr_scheduler.LambdaLR(o, lambda step: 1e-3), ["lr multiplies"]),
        (lambda o: lr_scheduler.LinearLR(o, 1e-3, total_iters=4), ["lr multiplies"]),
        (lambda o: lr_scheduler.LambdaLR(o, lambda step: step / 1000), []),
        (lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=7), []),
    ],
)
def test_schedulers_are_noticed_where_they_begin_small_and_not_where_they_end_so(make_scheduler, words):
    params = [nn.Parameter(torch.ones(1))]
    optimizer = LearnedOptimizer(params, RNNProp(hidden_size=2))
    found = warnings_of(optimizer, params, 8, make_scheduler(optimizer))
    assert len(found) == len(words)
    assert all(message.startswith(word) for message, word in zip(found, words, strict=True))


@pytest.mark.parametrize("factor", [0.1, 0.01, 1e-3])
def test_a_plateau_brings_the_rate_down_without_a_warning(factor):
    param = nn.Parameter(torch.zeros(3))
    optimizer = LearnedOptimizer([param])
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=factor, patience=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(20):
            param.grad = torch.ones(3)
            optimizer.step()
            scheduler.step(1.0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(factor**3)


def test_a_small_base_rate_behind_a_warm_up_from_nothing_is_noticed():
    params = [nn.Parameter(torch.ones(1))]
    optimizer = LearnedOptimizer(params, RNNProp(hidden_size=2), lr=3e-4)
    (found,) = warnings_of(optimizer, params, 8, lr_scheduler.LambdaLR(optimizer, lambda step: min(step, 1)))
    assert found.startswith(SMALL)


def test_a_schedule_that_leaves_no_trace_in_the_group_comes_down_without_a_warning():
    """As fastai's, which only sets lr: small rates are noticed where they are jumped to, in a resumed run too."""
    params, rule = [nn.Parameter(torch.ones(1))], RNNProp(hidden_size=2)

    def run(optimizer, rates):
        params, found = optimizer.param_groups[0]["params"], []
        for lr in rates:
            optimizer.param_groups[0]["lr"] = lr
            found += warnings_of(optimizer, params, 1)
        return found

    optimizer = LearnedOptimizer(params, rule)
    assert not run(optimizer, [0.04, 1.0, 0.2, 0.025])
    again = LearnedOptimizer(params, rule)
    again.load_state_dict(optimizer.state_dict())
    for resumed in (again, copy.deepcopy(optimizer), optimizer):
        assert not run(resumed, [0.01, 1e-3, 5e-3])
        (found,) = run(resumed, [1.0, 3e-4])
        assert found.startswith(SMALL)


@pytest.mark.parametrize("entries", [{"betas": (0.9, 0.99), "eps": 1e-8}, {"momentum": 0.9}, {"foreach": None}])
def test_options_of_other_optimizers_in_a_group_have_no_effect_and_are_saved(entries):
    ends, rule = [], small_rule("rnnprop")
    for own in ({}, entries):
        param = nn.Parameter(torch.ones(2))
        optimizer = LearnedOptimizer([{"params": [param], **own}], rule)
        found = warnings_of(optimizer, [param], 3)
        assert found == [f"{', '.join(own)} in a group has no effect: the rule has its own"] * bool(own)
        ends.append(param.detach())
        again = LearnedOptimizer([nn.Parameter(torch.ones(2))], rule)
        again.load_state_dict(optimizer.state_dict())
        assert own.items() <= again.param_groups[0].items()
    assert torch.equal(*ends)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("resumed_after", [2, 3])
def test_more_steps_than_planned_warn_once(groups, resumed_after):
    params = [nn.Parameter(torch.ones(1)) for _ in range(groups)]
    rule = RNNProp(hidden_size=2)
    first, second = (LearnedOptimizer([{"params": [p]} for p in params], rule, num_steps=2) for _ in range(2))
    found = warnings_of(first, params, resumed_after)
    second.load_state_dict(first.state_dict())
    (message,) = found + warnings_of(second, params, 3)
    assert message.startswith("num_steps is the planned number of steps, which a rule anneals over; got 2")


@pytest.mark.parametrize("source", ["default-3", None, "path", "rule"])
@pytest.mark.parametrize("copied", [False, True])
def test_it_prints_the_rules_name_and_the_guard(tmp_path, source, copied):
    path = tmp_path / "own.safetensors"
    save_rule(RNNProp(hidden_size=2), path)
    rule = {"path": path, "rule": RNNProp(hidden_size=2)}.get(source, source)
    optimizer = LearnedOptimizer([nn.Parameter(torch.ones(1))], rule, guard="fallback")
    text = repr(copy.deepcopy(optimizer) if copied else optimizer)
    name = {"path": str(path), "rule": "rnnprop", None: DEFAULT}.get(source, source)
    assert text.startswith(f"LearnedOptimizer (rule: {name}, guard: fallback\n")
    assert "lr: 1.0" in text
    assert optimizer.defaults["rule_digest"] not in text


@pytest.mark.parametrize("rule", ["default-3", "adam"])
@pytest.mark.parametrize("indices", [[1], [1, 1, 3]])
def test_sparse_gradients_give_the_steps_of_dense_ones(rule, indices):
    ends = []
    for sparse in (False, True):
        torch.manual_seed(0)
        embedding = nn.Embedding(4, 2, sparse=sparse)
        source = rule if rule.startswith("default") else small_rule(rule)
        optimizer = LearnedOptimizer(embedding.parameters(), source)
        for _ in range(3):
            optimizer.zero_grad()
            embedding(torch.tensor(indices)).sum().backward()
            assert embedding.weight.grad.is_sparse == sparse
            optimizer.step()
        ends.append(embedding.weight.detach())
    assert torch.equal(*ends)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("rule", ["default-3", "rnnprop"])
def test_wrappers_may_keep_things_in_the_state_before_the_first_step(rule, named):
    """A tensor like the parameter, as ScheduleFreeWrapper's, a count and one of another shape; saved and loaded too."""
    ends, source = [], rule if rule.startswith("default") else small_rule(rule)
    for wrapped in (False, True):
        model = make_model()
        params = model.named_parameters() if named else model.parameters()
        optimizer = LearnedOptimizer(params, source)
        for p in model.parameters() if wrapped else ():
            optimizer.state[p] |= {"z": p.detach().clone(), "count": 0, "rows": torch.zeros(3, 5)}
        train(model, optimizer, 3)
        for p in model.parameters() if wrapped else ():
            assert torch.equal(optimizer.state[p].pop("rows"), torch.zeros(3, 5))
            assert optimizer.state[p].pop("count") == 0
            optimizer.state[p]["z"] += 1
        again = LearnedOptimizer(model.named_parameters() if named else model.parameters(), optimizer.rule)
        again.load_state_dict(optimizer.state_dict())
        ends.append(train(model, again, 3))
        assert all(("z" in again.state[p]) == wrapped for p in model.parameters())
    assert ends[0] == ends[1]


@pytest.mark.parametrize("order", [["b", "a", "c"], ["c", "b", "a"], ["a", "b", "c"]])
@pytest.mark.parametrize("tied", [torch.Size([3]), torch.Size([3, 1])])
def test_parameters_in_another_order_find_their_states_by_name(order, tied):
    rule = small_rule("rnnprop")
    params = {name: nn.Parameter(torch.ones(tied if name == "c" else (3,))) for name in "abc"}
    saved = LearnedOptimizer(params.items(), rule)
    for number, p in enumerate(params.values()):
        p.grad = torch.full_like(p, number + 1.0)
    saved.step()
    state = saved.state_dict()
    again = LearnedOptimizer([(name, params[name]) for name in order], rule)
    again.load_state_dict(state)
    assert again.param_groups[0]["param_names"] == order
    for p in params.values():
        assert torch.equal(again.state[p]["average"], saved.state[p]["average"])
    assert state["param_groups"][0]["param_names"] == ["a", "b", "c"]


@pytest.mark.parametrize("rule", ["default-3", "compact"])
@pytest.mark.parametrize("closure", [False, True])
def test_steps_from_three_threads_are_those_of_one(rule, closure):
    ends, source = [], rule if rule.startswith("default") else small_rule(rule)
    for threads in (1, 3):
        params = [nn.Parameter(torch.linspace(-1, 1, 64 * 8).reshape(64, 8)) for _ in range(4)]
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer = LearnedOptimizer(params, source)

        def work(steps, optimizer=optimizer):
            for _ in range(steps):
                optimizer.step((lambda: 1.0) if closure else None)

        started = [threading.Thread(target=work, args=(90 // threads,)) for _ in range(threads)]
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()
        assert [int(optimizer.state[p]["step"]) for p in params] == [90] * 4
        ends.append(torch.stack([p.detach() for p in params]))
    assert torch.equal(*ends)


def test_a_group_may_name_the_optimizers_rule_and_no_other():
    param = nn.Parameter(torch.ones(1))
    group = {"params": [param], "rule": DEFAULT}
    optimizer = LearnedOptimizer([group], DEFAULT)
    again = LearnedOptimizer([nn.Parameter(torch.ones(1))])
    again.load_state_dict(optimizer.state_dict())
    with pytest.raises(ValueError, match=f"all groups must have the optimizer's rule, '{DEFAULT}'; got 'default-1' in"):
        LearnedOptimizer([group | {"rule": "default-1"}], DEFAULT)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_takes_the_cpus_steps():
    rule, runs = small_rule("rnnprop").double(), []
    for device in ("cpu", "cuda"):
        model = make_model().double().to(device)
        optimizer = LearnedOptimizer(model.parameters(), copy.deepcopy(rule))
        for _ in range(5):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(INPUTS.double().to(device)), TARGETS.to(device)).backward()
            optimizer.step()
        runs.append([p.detach().cpu() for p in model.parameters()])
    for a, b in zip(*runs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def test_whitening_in_bfloat16_outlasts_a_loaded_state_and_a_copy():
    param = nn.Parameter(torch.randn(66, 64))
    optimizer = LearnedOptimizer([param], small_rule("scale-free"), whitening_dtype=torch.bfloat16)
    param.grad = torch.randn(66, 64)
    optimizer.step()
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    other, again = pickle.loads(pickle.dumps((param, optimizer)))
    exact, usual = copy.deepcopy((param, optimizer))
    usual.whitening_dtype = torch.float32
    for p, own in ((param, optimizer), (other, again), (exact, usual)):
        p.grad = param.grad.clone()
        own.step()
    assert again.whitening_dtype == torch.bfloat16
    assert torch.equal(param, other)
    assert not torch.equal(param, exact)


def test_the_precision_of_whitening_may_change_between_steps_and_is_no_business_of_the_closure():
    def made():
        torch.manual_seed(0)
        param = nn.Parameter(torch.randn(66, 64))
        param.grad = torch.randn(66, 64)
        optimizer = LearnedOptimizer([param], small_rule("scale-free"))
        optimizer.step()
        optimizer.step()
        return param, optimizer

    (param, optimizer), (other, usual) = made(), made()
    optimizer.whitening_dtype = torch.bfloat16
    seen = []
    optimizer.step(lambda: seen.append(rounds_products()))
    usual.step()
    assert seen == [False]
    assert not torch.equal(param, other)


def test_a_pickle_from_before_it_whitens_in_float32():
    optimizer = LearnedOptimizer([nn.Parameter(torch.randn(3, 2))], small_rule("scale-free"))
    state = optimizer.__getstate__()
    del state["whitening_dtype"]
    again = LearnedOptimizer.__new__(LearnedOptimizer)
    again.__setstate__(state)
    assert again.whitening_dtype == torch.float32
