"""DDP and FSDP2 on two ranks: the steps of one process, and checkpoints that change their number."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from l2l_opt import LearnedOptimizer
from l2l_opt.rules import make_rule

ROOT = Path(__file__).parents[2]
SCRIPT = "scripts.experiments.optimizer.sharded_training"
RULES = ["default-1", "compact", "composed", "scale-free", "mlp", "celo2", "tensor-lstm"]
SPOILT = ["default-1", "compact", "scale-free", "mlp"]
CHECKPOINTED = {
    "compact": {},
    "scale-free": {},
    "mlp": {},
    "lstm:hidden_size=3": {"state_dtype": "bfloat16", "guard": "fallback"},
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What every job left; one start of two ranks for all of them, since that takes longer than the jobs."""
    folder = tmp_path_factory.mktemp("sharding")
    jobs = []

    def job(name, **options):
        jobs.append({"out": str(folder / f"{name}.pt"), "dtype": "float64", **options})

    for rule in RULES:
        for kind in ("alone", "ddp", "fsdp"):
            job(f"{rule} {kind}", rule=rule, kind=kind, steps=5)
    for kind in ("alone", "fsdp"):
        job(f"single {kind}", rule="default-1", kind=kind, steps=2, dtype="float32")
        for rule in SPOILT:
            job(f"{rule} spoilt {kind}", rule=rule, kind=kind, steps=4, spoil=2, dtype="float32")
    for rule, options in CHECKPOINTED.items():
        shared = {"rule": rule, "options": options, "dtype": "float32"}
        two, one = str(folder / f"{rule} of two"), str(folder / f"{rule} of one")
        job(f"{rule} straight", kind="fsdp", steps=4, **shared)
        job(f"{rule} half", kind="fsdp", steps=2, save=two, **shared)
        job(f"{rule} on one", kind="alone", steps=0, load=two, save=one, **shared)
        job(f"{rule} back", kind="fsdp", steps=2, load=one, **shared)
    (folder / "jobs.json").write_text(json.dumps({"ranks": 2, "jobs": jobs}))
    command = [sys.executable, "-m", SCRIPT, folder / "jobs.json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return lambda name: torch.load(folder / f"{name}.pt", weights_only=True)


def assert_equal(ours, theirs, **tolerance):
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        if isinstance(value, dict):
            assert_equal(value, theirs[key], **tolerance)
        else:
            torch.testing.assert_close(value, theirs[key], **tolerance, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize("rule", RULES)
def test_two_ranks_take_the_steps_of_one(runs, rule, kind):
    ours, theirs = runs(f"{rule} {kind}"), runs(f"{rule} alone")
    assert_equal(ours["last"], theirs["last"], rtol=1e-9, atol=1e-9)
    assert_equal(ours["state"], theirs["state"], rtol=1e-9, atol=1e-9)
    assert ours["kinds"] == (["DTensor"] if kind == "fsdp" else ["Tensor"])
    assert not torch.equal(ours["first"]["body.0.weight"], ours["last"]["body.0.weight"])


def test_the_first_step_in_single_precision(runs):
    assert_equal(runs("single fsdp")["first"], runs("single alone")["first"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rule", SPOILT)
def test_what_is_not_finite_on_one_rank_is_skipped_on_all(runs, rule):
    ours, theirs = runs(f"{rule} spoilt fsdp"), runs(f"{rule} spoilt alone")
    assert_equal(ours["last"], theirs["last"], rtol=1e-4, atol=1e-5)
    for name, own in ours["state"].items():
        assert int(own["skipped"]) == (name == "body.0.weight")
        assert float(own["step"]) == 4 - int(own["skipped"])


@pytest.mark.parametrize("rule", CHECKPOINTED)
def test_a_checkpoint_of_two_goes_through_one_and_back_bit_for_bit(runs, rule):
    half, on_one = runs(f"{rule} half"), runs(f"{rule} on one")
    for part in ("last", "state"):
        assert_equal(half[part], on_one[part], rtol=0, atol=0)
        assert_equal(runs(f"{rule} straight")[part], runs(f"{rule} back")[part], rtol=0, atol=0)
    assert on_one["kinds"] == ["Tensor"]
    assert half["kinds"] == ["DTensor"]


def test_rows_are_all_that_a_tensor_may_be_divided_into(tmp_path):
    """For rules that see matrices as wholes, and rules that are composed of such; others take any placement."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))

        def named(placement):
            return {"weight": torch.nn.Parameter(distribute_tensor(torch.randn(4, 6), mesh, [placement]))}.items()

        composed = make_rule("composed", parts=[{"rule": "scale-free", "name": "weight"}, {"rule": "compact"}])
        for rule in (make_rule("scale-free"), composed):
            with pytest.raises(
                ValueError, match=r"'scale-free' must be sharded along axis 0 .*'weight' .* axis 1, use"
            ):
                LearnedOptimizer(named(Shard(1)), rule)
            LearnedOptimizer(named(Shard(0)), rule)
            LearnedOptimizer(named(Replicate()), rule)
        LearnedOptimizer(named(Shard(1)), make_rule("compact"))
        optimizer = LearnedOptimizer(named(Shard(0)), make_rule("scale-free"))
        with pytest.raises(ValueError, match="axis 1"):
            optimizer.add_param_group({"params": list(named(Shard(-1)))})
        assert len(optimizer.param_groups) == 1
    finally:
        torch.distributed.destroy_process_group()


@pytest.fixture
def one_rank(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("use_orig_params", [False, True])
@pytest.mark.parametrize("rule", ["default-3", "compact", "composed", "adam"])
def test_flat_shards_are_refused_by_rules_that_look_at_more_than_coordinates(one_rank, rule, use_orig_params):
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = torch.nn.Linear(3, 2)
    before = LearnedOptimizer(model.parameters(), rule if rule == "default-3" else make_rule(rule))
    flat = FullyShardedDataParallel(model, use_orig_params=use_orig_params, device_id=torch.device("cpu"))
    params = list(flat.parameters())
    # As accelerate does: the optimizer was made first, and its parameters are replaced.
    before.param_groups[0]["params"] = params
    flat(torch.ones(1, 3)).sum().backward()
    for attempt in (lambda: LearnedOptimizer(params, before.rule), before.step):
        if rule == "adam":
            attempt()
        else:
            with pytest.raises(ValueError, match=r"must see whole parameters; got '0' as a flat shard .*fully_shard"):
                attempt()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{}, {"rule": "default-2", "state_dtype": torch.bfloat16, "guard": None}])
def test_the_state_of_a_zero_redundancy_optimizer_loads(one_rank, options, tmp_path):
    from torch.distributed.optim import ZeroRedundancyOptimizer

    def start():
        torch.manual_seed(0)
        return torch.nn.Linear(3, 2)

    def steps(model, optimizer):
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.linspace(-1, 1, 12).reshape(4, 3)).square().mean().backward()
            optimizer.step()
        return [p.detach().clone() for p in model.parameters()]

    model = start()
    optimizer = ZeroRedundancyOptimizer(model.parameters(), LearnedOptimizer, num_steps=9, **options)
    steps(model, optimizer)
    optimizer.consolidate_state_dict()
    torch.save([optimizer.state_dict(), model.state_dict()], tmp_path / "saved.pt")
    went_on = steps(model, optimizer)
    for again_of in (
        lambda params: ZeroRedundancyOptimizer(params, LearnedOptimizer, num_steps=9, **options),
        lambda params: LearnedOptimizer(params, num_steps=9, **options),
    ):
        state, weights = torch.load(tmp_path / "saved.pt", weights_only=True)
        other = start()
        again = again_of(other.parameters())
        other.load_state_dict(weights)
        again.load_state_dict(state)
        for a, b in zip(steps(other, again), went_on, strict=True):
            assert torch.equal(a, b)
