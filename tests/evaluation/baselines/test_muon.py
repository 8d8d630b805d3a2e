"""Muon as a rule against torch.optim.Muon beside torch.optim.AdamW."""

import pytest
import torch
from torch import nn

from l2l_opt.evaluation.baselines.muon import Muon, embeddings_of, hidden_matrices
from l2l_opt.inner_loop.unroll import InnerState, apply_rule
from l2l_opt.tasks import ModuleTask

SHAPES = {"0.weight": (20, 64), "0.bias": (20,), "1.weight": (32, 20), "2.weight": (10, 32), "2.bias": (10,)}


def gradients(steps, students=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return [
        {
            name: torch.randn(students, *shape, generator=generator, dtype=torch.float64).to(dtype) * 10.0 ** (step % 3)
            for name, shape in SHAPES.items()
        }
        for step in range(steps)
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_equals_torch_optim_step_for_step_in_a_batch_of_students(schedule, dtype):
    start, grads = gradients(1, dtype=dtype)[0], gradients(12, dtype=dtype)
    rule = Muon(lr=0.03, weight_decay=0.02, schedule=schedule)
    states = [rule.init_state({name: value[s] for name, value in start.items()}) for s in range(3)]
    stacked = torch.utils._pytree.tree_map(lambda *leaves: torch.stack(leaves), *states)
    inner = InnerState(dict(start), stacked, torch.full((3,), 12.0))
    theirs = [{name: nn.Parameter(value[s].clone()) for name, value in start.items()} for s in range(3)]
    matrices = ["0.weight", "1.weight"]
    optimizers = [
        (
            torch.optim.Muon(
                [own[name] for name in matrices], lr=0.03, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW([p for name, p in own.items() if name not in matrices], lr=0.03, weight_decay=0.02),
        )
        for own in theirs
    ]
    schedulers = [torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=12) for pair in optimizers for o in pair]
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-12}
    for step in range(12):
        with torch.no_grad():
            updates, state = apply_rule(rule, dict(rule.named_parameters()), grads[step], inner)
        inner = InnerState({name: p + updates[name] for name, p in inner.params.items()}, state, inner.num_steps)
        for s, (own, pair) in enumerate(zip(theirs, optimizers, strict=True)):
            for name, p in own.items():
                p.grad = grads[step][name][s].clone()
            for optimizer in pair:
                optimizer.step()
            for name in SHAPES:
                torch.testing.assert_close(inner.params[name][s], own[name].detach(), **tolerance)
        if schedule == "cosine":
            for scheduler in schedulers:
                scheduler.step()
    assert (inner.params["1.weight"] - start["1.weight"]).abs().max() > 0.01


def test_the_hidden_matrices_are_neither_the_output_layer_nor_embeddings():
    params = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    assert hidden_matrices(params) == ["0.weight", "1.weight"]
    assert hidden_matrices(params, ("0.weight",)) == ["1.weight"]
    assert hidden_matrices({"embedding": torch.zeros(4, 3), "a": torch.zeros(3, 3), "b": torch.zeros(3, 2)}) == ["a"]
    assert hidden_matrices({"kernel": torch.zeros(2, 2, 3, 3), "out": torch.zeros(2, 2)}) == []
    assert hidden_matrices({"row": torch.zeros(1, 5), "out": torch.zeros(2, 2)}) == []


def test_embeddings_are_found_in_a_module():
    module = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 4), nn.Linear(4, 2))
    data = torch.randint(5, (20, 2)), torch.randint(2, (20,))
    assert embeddings_of(ModuleTask(module, nn.functional.cross_entropy, data)) == ("0.weight",)
    assert embeddings_of(object()) == ()


def test_a_bad_momentum_is_named():
    with pytest.raises(ValueError, match=r"momentum must lie in \[0, 1\); got 2"):
        Muon(momentum=2)
